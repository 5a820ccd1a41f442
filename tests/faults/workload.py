"""Clients that never stop: each kind does one sort of thing, over and over, at whatever place chance picks."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from controller import ask
from tests.faults.caller import Place
from tests.faults.history import OK, Did, Saw
from tests.faults.world import Client, Held, World, names

_PAUSE_S = 0.02
_TABLES = ("users", "projects", "groups")
_REMEMBERED = 40


def write(client: Client) -> None:
    """Create, rename, change, delete, and create again under the same few names."""
    world, chance = client.world, client.chance
    table, place = chance.choice(_TABLES), client.anywhere()
    key, draw = world.pick(chance, table), chance.random()
    if key is None or draw < 0.3:
        client.create(table, chance.choice(names(table)), place)
    elif draw < 0.5:
        client.change(table, key, place, name=chance.choice(names(table)))
    elif draw < 0.75:
        client.change(table, key, place)
    else:
        client.delete(table, key, place)


def race(client: Client) -> None:
    """The same name at the same moment, at several places."""
    world, chance = client.world, client.chance
    table = chance.choice(_TABLES)
    name = f"{table[0]}r{world.history.number()}"
    places = [chance.choice(world.controllers), *chance.sample(world.places, k=min(2, len(world.places)))]
    made = [Client(world, f"{client.name}.{number}", name) for number in range(len(places))]
    with ThreadPoolExecutor(len(places)) as pool:
        done = list(pool.map(lambda one: one[0].create(table, name, one[1]), zip(made, places, strict=True)))
    for one in made:
        one.caller.close()
    for did in done:
        if did.outcome == OK:
            client.named(table, name, client.anywhere(), did.position)
            client.delete(table, did.key, client.anywhere())


def link(client: Client) -> None:
    """Grants and memberships, made and taken, of fixed users and of such as come and go."""
    world, chance = client.world, client.chance
    kind = chance.choice(("link", "link", "unlink", "linked", "linked"))
    table, place = chance.choice(("grants", "memberships")), client.anywhere()
    left, right = (
        world.pick(chance, one) for one in (("users", "projects") if table == "grants" else ("groups", "users"))
    )
    if table == "grants" and chance.random() < 0.6:
        left, right = chance.choice(world.granted), world.project
    if left and right:
        floor = client.floor() if kind == "linked" else 0
        client.link(kind, table, f"{left}/{right}", place, floor)


def read(client: Client) -> None:
    """What exists, what is gone, who has which name, at any place."""
    world, chance = client.world, client.chance
    table, place, floor = chance.choice(_TABLES), chance.choice(world.places), client.floor()
    draw, key = chance.random(), world.pick(chance, table)
    if draw < 0.2:
        client.named(table, chance.choice(names(table)), place, floor)
    elif draw < 0.35 and world.gone:
        client.show(*chance.choice(world.gone), place, floor)
    elif draw < 0.45:
        client.list(table, place, floor)
    elif key is not None:
        client.show(table, key, place, floor)


class Holder:
    """Logs fixed users in, validates everywhere, revokes anywhere, and comes back to what was revoked."""

    def __init__(self) -> None:
        self.live: list[Held] = []
        self.dead: list[Held] = []

    def __call__(self, client: Client) -> None:
        world, chance = client.world, client.chance
        place, draw = chance.choice(world.places), chance.random()
        if draw < 0.1 or not self.live:
            user = chance.choice(world.stable)
            _, held = client.login(user, world.secrets[user], place, project=world.project)
            if held:
                self.live.append(held)
        elif draw < 0.2 and len(self.live) > 3:
            held = self.live.pop(chance.randrange(len(self.live)))
            client.revoke(held, place)
            for each in chance.sample(world.places, k=len(world.places)):
                client.validate(held, each)
            self.dead = [*self.dead[-_REMEMBERED:], held]
        elif draw < 0.4 and self.dead:
            client.validate(chance.choice(self.dead), place, client.floor())
        else:
            client.validate(chance.choice(self.live), place, client.floor())


def system(client: Client) -> None:
    """The token that is worth something only where knowledge is fresh: one that is remembered, and a new one."""
    world, chance = client.world, client.chance
    if chance.random() < 0.2:
        client.login_system(chance.choice(world.sites))
    client.validate_system(chance.choice(world.sites))


class Churn:
    """Users whose passwords change and who are disabled, let in again, deleted; with their tokens in hand."""

    def __init__(self) -> None:
        self.tokens: list[Held] = []

    def __call__(self, client: Client) -> None:
        world, chance = client.world, client.chance
        place, draw, key = client.anywhere(), chance.random(), world.pick(chance, "users")
        secret = world.secrets.get(key or "", 0)
        if key is None:
            client.create("users", chance.choice(names("users")), place)
        elif draw < 0.25:
            _, held = client.login(key, secret, place)
            if held:
                self.tokens = [*self.tokens[-_REMEMBERED:], held]
        elif draw < 0.32:
            if chance.random() < 0.5:
                client.change("users", key, place, secret=True)
            else:
                client.password(key, place)
            client.login(key, secret, chance.choice(world.places))
        elif draw < 0.37:
            client.change("users", key, place, enabled=False)
        elif draw < 0.42:
            client.change("users", key, place, enabled=True)
        elif self.tokens:
            client.validate(chance.choice(self.tokens), chance.choice(world.places), client.floor())


class Granted:
    """Tokens that are worth something only while a grant is there."""

    def __init__(self) -> None:
        self.tokens: dict[str, Held] = {}

    def __call__(self, client: Client) -> None:
        world, chance = client.world, client.chance
        user, place = chance.choice(world.granted), chance.choice(world.places)
        if user not in self.tokens or chance.random() < 0.05:
            client.link("link", "grants", f"{user}/{world.project}", client.anywhere())
            edge = f"{user}/{world.project}"
            _, held = client.login(user, world.secrets[user], place, project=world.project, edge=edge)
            if held:
                self.tokens[user] = held
        else:
            client.validate(self.tokens[user], place, client.floor())


class Rotation:
    """Turns the keys, as an operator would, every few seconds."""

    def __init__(self, rotate: Callable[[], None]) -> None:
        self._rotate = rotate

    def __call__(self, client: Client) -> None:
        history = client.world.history
        began = history.now()
        try:
            self._rotate()
            outcome, said = OK, ""
        except (ask.Unanswered, ask.Refusal) as error:
            outcome, said = "refused", str(error)[:160]
        number = history.number()
        place = client.world.controllers[0].name
        client.add(
            Did(
                number=number,
                client=client.name,
                place=place,
                kind="rotate",
                began=began,
                ended=history.now(),
                outcome=outcome,
                status=200 if outcome == OK else 409,
                said=said,
            )
        )


class Watch:
    """Asks each place what it says of itself; now and then for its digest."""

    def __init__(self) -> None:
        self._turn = 0

    def __call__(self, client: Client) -> None:
        self._turn += 1
        for place in client.world.places:
            look(client.world, place)
        if self._turn % 12 == 0:
            look(client.world, client.chance.choice(client.world.places), digest=True)


def look(world: World, place: Place, *, digest: bool = False) -> Saw | None:
    """What a place says of itself now, recorded."""
    began = world.history.now()
    try:
        page = ask.page(place.admin_port, "/digest" if digest else "/status", 20.0 if digest else 1.0)
    except (ask.Unanswered, ask.Refusal):
        return None
    saw = Saw(
        place=place.name,
        began=began,
        ended=world.history.now(),
        position=page["position"],
        age_s=page.get("age_s"),
        epoch=page.get("ring_epoch") or 0,
        digest=page.get("digest", ""),
    )
    world.history.add(saw)
    return saw


class Load:
    """All clients, each a thread. `paused` holds them between two operations."""

    def __init__(self, world: World, seed: int, rotate: Callable[[], None]) -> None:
        work: list[tuple[str, Callable[[Client], None], float]] = [
            *((f"writer-{number}", write, _PAUSE_S) for number in range(3)),
            ("racer", race, 5 * _PAUSE_S),
            *((f"linker-{number}", link, _PAUSE_S) for number in range(2)),
            *((f"reader-{number}", read, _PAUSE_S) for number in range(2)),
            *((f"holder-{number}", Holder(), _PAUSE_S) for number in range(3)),
            *((f"churn-{number}", Churn(), _PAUSE_S) for number in range(2)),
            ("granted", Granted(), _PAUSE_S),
            ("system", system, 4 * _PAUSE_S),
            ("rotation", Rotation(rotate), 6.0),
            ("watch", Watch(), 0.25),
        ]
        self._run, self._stop = threading.Event(), threading.Event()
        self._idle = threading.Semaphore(0)
        self.errors: list[BaseException] = []
        self._threads = [
            threading.Thread(
                target=self._work, args=(Client(world, name, str(seed)), one, pause), name=name, daemon=True
            )
            for name, one, pause in work
        ]

    def start(self) -> None:
        self._run.set()
        for thread in self._threads:
            thread.start()

    def pause(self) -> None:
        """Returns when the last operation that was under way has ended."""
        self._run.clear()
        for _ in self._threads:
            self._idle.acquire()

    def resume(self) -> None:
        self._run.set()

    def stop(self) -> None:
        """After a pause."""
        self._stop.set()
        self._run.set()
        for thread in self._threads:
            thread.join(30)

    def _work(self, client: Client, work: Callable[[Client], None], pause_s: float) -> None:
        try:
            while not self._stop.is_set():
                if not self._run.is_set():
                    client.caller.close()  # what is idle for long is closed by the other side
                    self._idle.release()
                    self._run.wait()
                    continue
                work(client)
                self._stop.wait(pause_s * client.chance.uniform(0.5, 1.5))
        except BaseException as error:
            self.errors.append(error)
            self._idle.release()
            raise
        finally:
            client.caller.close()
