"""A run: load and faults in rounds, each of which ends healed and compared; then everything is read, and judged."""

import asyncio
import math
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tests.faults import aftermath
from tests.faults.checker import Verdict, check
from tests.faults.cluster import SYSTEM_S, Cluster
from tests.faults.history import Calm, Did, Event, Fault, History, Setup, latest, shown
from tests.faults.known import Known, Violation
from tests.faults.nemesis import Nemesis, Step, kinds_for, schedule
from tests.faults.unheard import hear
from tests.faults.workload import Load
from tests.faults.world import World, set_up

ROUND_S, CALM_S = 30.0, 4.0
_NEAR = 12  # other operations shown with a violation


class Run:
    """One federation, one seed, so many seconds."""

    def __init__(self, cluster: Cluster, path: Path, seed: int, tell: Callable[[str], None]) -> None:
        self.history = History(path)
        self.steps: Counter[str] = Counter()
        self._cluster, self._seed, self._tell = cluster, seed, tell
        self._world = World(cluster.places, self.history, f"r{seed}-{int(time.monotonic())}")

    def go(self, seconds: float, only: Sequence[str], longest_s: float = math.inf) -> Verdict:
        """Break, heal, compare until the time is over; no fault is longer. Raises whatever a client failed with."""
        world, history = self._world, self.history
        topology = self._cluster.topology()
        history.add(
            Setup(
                controllers=topology.controllers,
                sites=topology.sites,
                seed=self._seed,
                system_s=SYSTEM_S,
                regions=topology.regions,
            )
        )
        set_up(world, self._cluster.home.password())
        load = Load(world, self._seed, self._cluster.rotate)
        nemesis = Nemesis(self._cluster, history, topology, self._seed)
        drawn = schedule(self._seed, only or kinds_for(self._cluster), topology)
        steps = (step._replace(seconds=min(step.seconds, longest_s)) for step in drawn)
        self._begin_calm()
        load.start()
        end = history.now() + seconds
        try:
            while history.now() < end and not load.errors:
                self._round(nemesis, load, steps, end)
            load.pause()
        finally:
            load.stop()
        if load.errors:
            raise load.errors[0]
        return self.judge()

    def judge(self) -> Verdict:
        """Read everything once more; then the verdict over all that was recorded."""
        position = max(saw.position for saw in self.history.events if isinstance(saw, Calm))
        aftermath.read_all(self._world, position)
        controller = self._world.controllers[0].name
        with tempfile.TemporaryDirectory() as scratch:
            asyncio.run(aftermath.audit(self._world, controller, self._cluster, Path(scratch)))
        self.history.close()
        return check(self.history.events)

    def _round(self, nemesis: Nemesis, load: Load, steps: Iterable[Step], end: float) -> None:
        history = self.history
        time.sleep(CALM_S)
        self._end_calm()
        begun = history.now()
        for step in steps:
            self._tell(f"{history.now():6.1f} s  {step}")
            self.steps[step.fault] += 1
            nemesis.do(step)
            if history.now() > min(begun + ROUND_S, end):
                break
        nemesis.heal()
        healed = history.now()
        load.pause()
        calm = self._begin_calm(healed)
        done = sum(isinstance(one, Did) for one in history.events)
        equal = f"equal after {calm.began - healed:.1f} s" if calm.began else f"NOT EQUAL: {calm.said}"
        self._tell(f"{history.now():6.1f} s  healed, {equal}; {done} operations")
        load.resume()

    def _begin_calm(self, healed: float | None = None) -> Calm:
        now = self.history.now() if healed is None else healed
        self._calm = aftermath.until_equal(self._world, now)
        return self._calm

    def _end_calm(self) -> None:
        calm = self._calm
        if calm.began is not None:
            ended = Calm(
                number=calm.number,
                healed=calm.healed,
                began=calm.began,
                ended=self.history.now(),
                position=calm.position,
            )
            self.history.add(ended)


def summary(events: Sequence[Event], violations: Sequence[Violation], late: Sequence[Violation], most: int = 10) -> str:
    """Faults, operations, outcomes by kind; what was late, and violations, with the operations around them."""
    done = [one for one in events if isinstance(one, Did)]
    faults = latest([one for one in events if isinstance(one, Fault)])
    calms = [one for one in latest([one for one in events if isinstance(one, Calm)]) if one.began is not None]
    lines = ["", f"{'operation':<18}{'ok':>8}{'refused':>9}{'unknown':>9}{'slowest':>10}"]
    kinds: dict[str, list[Did]] = defaultdict(list)
    for one in done:
        kinds[f"{one.kind} {one.table}".strip()].append(one)
    for kind, ops in sorted(kinds.items()):
        count = Counter(one.outcome for one in ops)
        slowest = max(one.ended - one.began for one in ops)
        lines.append(f"{kind:<18}{count['ok']:>8}{count['refused']:>9}{count['unknown']:>9}{slowest:>8.2f} s")
    statuses = Counter(one.status for one in done)
    lines += [
        "",
        "statuses: " + ", ".join(f"{status or 'none'} {number}" for status, number in sorted(statuses.items())),
    ]
    broken = Counter(one.what for one in faults)
    lines.append("faults: " + ", ".join(f"{what} {number}" for what, number in sorted(broken.items())))
    if calms:
        slow = max(one.began - one.healed for one in calms)
        lines.append(f"healed {len(calms)} times, equal everywhere after {slow:.1f} s at the latest")
    by_rule = Counter(one.rule for one in violations)
    for rule, number in by_rule.most_common():
        lines.append(f"VIOLATED {number} times: {rule}")
    for rule in dict.fromkeys(one.rule for one in (*late, *violations)):
        for one in [one for one in (*late, *violations) if one.rule == rule][:most]:
            lines += ["", f"{one.rule}: {one.what}", *_around(events, one)]
    share = f"{len(late) / max(1, len(done)):.3%}"
    lines += [
        "",
        f"{len(faults)} faults, {len(done)} operations, {len(violations)} violations; {len(late)} late ({share})",
        hear(Known(events)).told(),
    ]
    return "\n".join(lines)


def _around(events: Sequence[Event], violation: Violation) -> list[str]:
    """The operations that show it, and what else touched the same things or was broken at the time."""
    shows = [one for one in events if isinstance(one, Did) and one.number in violation.numbers]
    if not shows:
        return []
    began, ended = min(one.began for one in shows), max(one.ended for one in shows)
    keys = {one.key for one in shows if one.key}
    marks = {one.number for one in shows}
    near = [
        one
        for one in events
        if isinstance(one, Did)
        and one.key in keys
        and one.began < ended
        and one.ended > began
        and one.number not in marks
    ]
    if len(near) > _NEAR:
        near = [one for one in near if one.kind not in ("validate", "show", "linked")][:_NEAR]
    told = sorted([*shows, *near], key=lambda one: one.began)
    lines = [f"  {'*' if one.number in marks else ' '} {shown(one)}" for one in told]
    for fault in latest([one for one in events if isinstance(one, Fault)]):
        if fault.began < ended and (fault.ended or 1e9) > began:
            lines.append(f"    {fault.began:.3f}..{fault.ended or 0:.3f} {fault.what} {' '.join(fault.places)}")
    return lines
