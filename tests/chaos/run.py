"""Turn after turn with a kill -9 in each, load on: how many good tokens were refused, and did anybody have to help?"""

import random
import threading
import time
from collections import Counter, deque
from typing import NamedTuple

from controller import ask
from tests.chaos.processes import READY_S
from tests.faults.caller import Caller

BOUND_S = 90.0  # for one turn, from when it is asked for first; whoever is down for longer than 20 s is quarantined
CALM_S = 60.0
KINDS = ("controller", "site", "site", "worker", "zookeeper")
KEPT = 400
_PASSING = {0: "no answer", 503: "503"}


class Wrong(NamedTuple):
    """A good token, or a good password, that was refused, or answered as nothing that was killed explains."""

    place: str
    status: int
    said: str
    sealed_at: str
    after_s: float


class Load:
    """Clients at every site: issue there, validate everywhere."""

    def __init__(self, federation, seed):
        self.counts = Counter()
        self.wrong = []
        self.died = []  # what ended a client that was to go on
        self._federation = federation
        self._tokens = deque(maxlen=KEPT)  # (token, place where it was issued, when)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        places = [one.place for one in federation.members.values()]
        self._threads = [
            threading.Thread(
                target=self._works, args=(site.place, places, random.Random(f"{seed} {site.name}")), daemon=True
            )
            for site in federation.sites
        ]

    def start(self):
        for thread in self._threads:
            thread.start()

    def stop(self):
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _works(self, home, places, chance):
        try:
            self._work(home, places, chance)
        except Exception as error:
            self.died.append(f"the client at {home.name} died: {error!r}")
            raise

    def _work(self, home, places, chance):
        caller = Caller(patience_s=8.0)
        body = {
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {
                        "user": {"name": "admin", "domain": {"id": "default"}, "password": self._federation.password}
                    },
                },
                "scope": {"project": {"name": "admin", "domain": {"id": "default"}}},
            }
        }
        while not self._stop.is_set():
            answer = caller.ask(home, "POST", "/v3/auth/tokens", body)
            self._note("issued", home, home, answer, 201, 0.0)
            if answer.status == 201:
                self._tokens.append((answer.headers["x-subject-token"], home, time.monotonic()))
                self._validate(caller, self._tokens[-1], chance.sample(places, k=len(places)))
            for _ in range(4):
                if self._tokens:
                    self._validate(caller, chance.choice(list(self._tokens)), [chance.choice(places)])
            self._stop.wait(0.05)
        caller.close()

    def _validate(self, caller, held, places):
        token, sealed_at, at = held
        for place in places:
            answer = caller.ask(place, "GET", "/v3/auth/tokens", x_auth_token=token, x_subject_token=token)
            self._note("validated", place, sealed_at, answer, 200, time.monotonic() - at)

    def _note(self, what, place, sealed_at, answer, good, after_s):
        with self._lock:
            if answer.status == good:
                self.counts[what] += 1
            elif answer.status in _PASSING:
                self.counts[_PASSING[answer.status]] += 1
            else:
                self.counts["refused wrongly"] += 1
                self.wrong.append(Wrong(place.name, answer.status, answer.said, sealed_at.name, after_s))


class Chaos:
    """So many turns, and as many kills."""

    def __init__(self, federation, seed, tell):
        self.took_s = []
        self.late = []
        self.load = Load(federation, seed)
        self._federation = federation
        self._chance = random.Random(seed)
        self._tell = tell

    def go(self, turns):
        """Whether every promise was kept, and what is to be said of it."""
        self.load.start()
        began = time.monotonic()
        try:
            for number in range(1, turns + 1):
                self._one(number)
                if number % 10 == 0 or number == turns:
                    self._tell(
                        f"{time.monotonic() - began:6.0f} s  {number} turns, {sum(self._federation.kills.values())} kills, "
                        f"{dict(self.load.counts)}"
                    )
            calm = self._calm()
        finally:
            self.load.stop()
        return self._verdict(calm, time.monotonic() - began, turns)

    def _one(self, number):
        turn = threading.Thread(target=self._turn, args=(number,))
        turn.start()
        time.sleep(self._chance.uniform(0.0, 1.0))
        kinds = [self._chance.choice(KINDS), *KINDS]
        pause_s = self._chance.uniform(0.0, 1.5)
        while not any(self._federation.kill(kind, self._chance, pause_s) for kind in kinds):
            time.sleep(0.1)
        turn.join()

    def _turn(self, number):
        """As a schedule does it: whoever runs is asked, until it is done."""
        began, before = time.monotonic(), None
        said = "nobody runs"
        while time.monotonic() - began < BOUND_S:
            running = [one for one in self._federation.controllers if one.serves]
            controller = random.choice(running) if running else None
            if controller is not None:
                try:
                    self._federation.ask(controller, "/keys/rotate", {})
                    self.took_s.append(time.monotonic() - began)
                    return
                except (ask.Unanswered, ask.Refusal) as error:
                    said = str(error)
            time.sleep(0.2)
        self.late.append(f"turn {number}: not made within {BOUND_S:.0f} s; {said} {before or ''}")

    def _calm(self):
        """After the last fault: who serves, counts, and holds the newest ring, without anybody's help; and one turn more."""
        self._federation.settle()
        self._turn(0)
        end, wrong = time.monotonic() + CALM_S, "nothing was seen"
        while time.monotonic() < end:
            pages = [self._federation.status(one) for one in self._federation.members.values()]
            if None not in pages:
                epochs = {page["ring_epoch"] for page in pages}
                states = [site["state"] for page in pages[:2] for site in page["sites"].values()]
                if len(epochs) == 1 and set(states) == {"active"} and len(states) == 2 * len(self._federation.sites):
                    return None
                wrong = f"epochs {sorted(epochs)}, sites {states}"
            time.sleep(0.3)
        return f"{CALM_S:.0f} s after the last fault: {wrong}"

    def _verdict(self, calm, took_s, asked):
        kills, counts = self._federation.kills, self.load.counts
        turns = sorted(self.took_s)
        lines = [
            f"turns {len(turns)}, of which the median took {turns[len(turns) // 2]:.1f} s, the slowest {turns[-1]:.1f} s"
            if turns
            else "no turn",
            f"kill -9: {sum(kills.values())} ({', '.join(f'{name} {count}' for name, count in kills.items())})",
            "tokens: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())),
            f"good tokens refused: {counts['refused wrongly']}; {took_s:.0f} s",
        ]
        faults = [
            f"{one.status} at {one.place} {one.after_s:.1f} s after {one.sealed_at}: {one.said}"
            for one in self.load.wrong
        ]
        faults += [*self.late, *self.load.died, *self._federation.ended, *([calm] if calm else [])]
        faults += [f"no token was {what}" for what in ("issued", "validated") if not counts[what]]
        if sum(kills.values()) < asked:
            faults.append(f"{sum(kills.values())} kills for {asked} turns")
        return not faults, "\n".join([*lines, *faults[:40]])


__all__ = ["READY_S", "Chaos", "Load"]
