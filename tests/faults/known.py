"""A history, indexed: what each place must have known at each moment, and when nothing was broken."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

import msgspec

from tests.faults.history import CLOCK, OK, UNKNOWN, Audit, Calm, Did, Event, Fault, Logged, Saw, Setup, latest

WRITES = ("create", "change", "delete", "link", "unlink", "password")
RECOVERY_S = 5.0
READS = ("show", "linked", "named", "list")
REFUSALS = (401, 404)
_LONG = 1e9


class Violation(NamedTuple):
    """A rule that was broken, what shows it, and the operations to look at."""

    rule: str
    what: str
    numbers: tuple[int, ...] = ()


class Life(NamedTuple):
    """Which life of a process a moment belongs to; not `steady` between a kill and the end of the revival."""

    index: int
    steady: bool


class _Growing:
    """The greatest value that was told before a moment."""

    def __init__(self, told: Iterable[tuple[float, int]]) -> None:
        ordered = sorted(told)
        self._times = [at for at, _ in ordered]
        self._values = list(accumulate((value for _, value in ordered), max))

    def before(self, at: float) -> int:
        place = bisect_left(self._times, at)
        return self._values[place - 1] if place else 0


class Known:
    """What rules ask of a history."""

    def __init__(self, events: Iterable[Event]) -> None:
        found = defaultdict(list)
        for event in events:
            found[type(event)].append(event)
        self.setup: Setup = found[Setup][-1] if found[Setup] else Setup(controllers=[], sites=[], seed=0, system_s=30)
        self.logged: list[Logged] = found[Logged]
        self.done: list[Did] = sorted(self._placed(found[Did]), key=lambda one: one.began)
        self.saws: list[Saw] = sorted(found[Saw], key=lambda one: one.ended)
        self.faults: list[Fault] = latest(found[Fault])
        self.calms: list[Calm] = latest(found[Calm])
        self.audits: list[Audit] = found[Audit]
        self.writes = [one for one in self.done if one.kind in WRITES and one.outcome in (OK, UNKNOWN)]
        self._kills = self._killed()
        self._calm_starts = sorted(one.began for one in self.calms if one.began is not None)
        self._floors = self._contributions()
        self._told: dict[str, tuple[list[float], list[Saw]]] = defaultdict(lambda: ([], []))
        for saw in sorted(self.saws, key=lambda one: one.began):
            if not saw.digest:
                self._told[saw.place][0].append(saw.began)
                self._told[saw.place][1].append(saw)

    def life(self, place: str, at: float) -> Life:
        """Which life of a place this moment is in."""
        windows = self._kills.get(place, [])
        index = bisect_right(windows, (at, float("inf")))
        return Life(index, steady=not index or windows[index - 1][1] < at)

    def floor(self, place: str, at: float, own: int = 0) -> int:
        """No answer to a question put here at this moment may be older than this position of the log."""
        life = self.life(place, at)
        known = self._floors.get((place, -1))
        found = max(own, known.before(at) if known else 0)
        if life.steady and (living := self._floors.get((place, life.index))):
            found = max(found, living.before(at))
        return found

    def floor_of(self, did: Did) -> int:
        """The same for an operation."""
        return self.floor(did.place, did.began, did.floor)

    def calm_between(self, after: float, before: float) -> bool:
        """Whether all replicas were found equal between these moments, so that all knew what happened before."""
        place = bisect_right(self._calm_starts, after)
        return place < len(self._calm_starts) and self._calm_starts[place] <= before

    def calm_at(self, began: float, ended: float) -> Calm | None:
        """The calm in which all of this lies."""
        for calm in self.calms:
            if calm.began is not None and calm.began <= began and ended <= (calm.ended or calm.began):
                return calm
        return None

    def controllers_gone(self) -> list[tuple[float, float]]:
        """When no controller could be heard by anybody, surely: all were dead, frozen or cut off."""
        names = self.setup.controllers
        if not names:
            return []
        spans = {
            name: sorted((one.began, one.mending or one.ended or _LONG) for one in self.faults if name in one.places)
            for name in names
        }
        common = spans[names[0]]
        for name in names[1:]:
            pairs = [(max(a, c), min(b, d)) for a, b in common for c, d in spans[name]]
            common = [(began, ended) for began, ended in pairs if began < ended]
        return common

    def saws_after(self, place: str, at: float) -> Iterator[Saw]:
        """What a place said of itself in questions that began from this moment on, in order."""
        times, saws = self._told[place]
        yield from saws[bisect_left(times, at) :]

    def broken_at(self, began: float, ended: float) -> set[str]:
        """Everything that was broken in this time, or shortly before."""
        return {
            name
            for one in self.faults
            if one.began < ended and began < (one.ended or _LONG) + RECOVERY_S
            for name in one.places
        }

    def set_clock(self, one: Did) -> bool:
        """Whether the clock of the place that did this was not the machine's."""
        jumps = [fault for fault in self.faults if fault.what == CLOCK and one.place in fault.places]
        return any(fault.began < one.ended and one.began < (fault.ended or _LONG) for fault in jumps)

    def node_of(self, place: str) -> str | None:
        """The Cassandra node of a place's region."""
        region = next((one for one in self.setup.regions if place in one), [])
        return next((name for name in region if name.startswith("cassandra")), None)

    def is_controller(self, place: str) -> bool:
        return place in self.setup.controllers

    def _placed(self, done: list[Did]) -> Iterator[Did]:
        """Forwarded changes where the log has them: an answer that was kept and given again names a later position."""
        numbers = {entry.id: entry.number for entry in self.logged}
        for one in done:
            number = numbers.get(f"{one.place}/{one.request}", one.position)
            is_later = one.kind in WRITES and 0 < number < one.position
            yield msgspec.structs.replace(one, position=number) if is_later else one

    def _killed(self) -> dict[str, list[tuple[float, float]]]:
        found = defaultdict(list)
        for fault in self.faults:
            for place in fault.killed:
                found[place].append((fault.began, fault.ended or _LONG))
        return {place: sorted(windows) for place, windows in found.items()}

    def _contributions(self) -> dict[tuple[str, int], _Growing]:
        """(place, life) -> positions; life -1 is what outlives a kill."""
        told: dict[tuple[str, int], list[tuple[float, int]]] = defaultdict(list)
        for one in self.done:
            heard = one.outcome == OK or one.status in REFUSALS
            if (position := max(one.position, one.floor if heard else 0)) and heard:
                self._tell(told, one.place, one.began, one.ended, position)
        for saw in self.saws:
            self._tell(told, saw.place, saw.began, saw.ended, saw.position)
        for calm in self.calms:
            if calm.began is not None:
                for place in (*self.setup.controllers, *self.setup.sites):
                    told[place, -1].append((calm.began, calm.position))
        return {key: _Growing(values) for key, values in told.items()}

    def _tell(self, told: dict, place: str, began: float, ended: float, position: int) -> None:
        if self.is_controller(place):
            told[place, -1].append((ended, position))
            return
        life, later = self.life(place, began), self.life(place, ended)
        if life == later and life.steady:
            told[place, life.index].append((ended, position))
