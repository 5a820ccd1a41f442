"""Rules about records and links: what was acknowledged is there, what is shown was written, and whole."""

import itertools
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tests.faults.history import OK, REFUSED, UNKNOWN, Did
from tests.faults.known import Known, Violation

RECORDS = ("users", "projects", "groups")
_SHOWN = ("name", "enabled", "mail")  # fields that a read shows as they were sent
_LONG = float("inf")


class Look(NamedTuple):
    """One record as one read showed it; `got` None: it was not there."""

    read: Did
    got: dict | None

    @property
    def stamp(self) -> int:
        return self.got["stamp"] if self.got else 0


class Writes:
    """All that may have been done to one record or link, acknowledged by position."""

    def __init__(self, writes: Iterable[Did]) -> None:
        self.all = list(writes)
        self.acknowledged = sorted((one for one in self.all if one.outcome == OK and one.position), key=_position)
        self.unknown = [one for one in self.all if one.outcome == UNKNOWN]
        self._positions = [one.position for one in self.acknowledged]

    def last(self, floor: int) -> Did | None:
        """The last acknowledged one that whoever knows this position must know."""
        place = bisect_right(self._positions, floor)
        return self.acknowledged[place - 1] if place else None

    def may_follow(self, floor: int, before: float) -> Iterator[Did]:
        """Those that may have been done after this position and begun before this moment."""
        for one in self.acknowledged[bisect_right(self._positions, floor) :]:
            if one.began < before:
                yield one
        for one in self.unknown:
            if one.began < before:
                yield one


def check_records(known: Known) -> Iterator[Violation]:
    """Each shown record was written by somebody, whole, and is not older than what its reader must know."""
    stamps = {one.sent["stamp"]: one for one in known.done if "stamp" in one.sent}
    looks: dict[tuple[str, str], list[Look]] = defaultdict(list)
    for read in known.done:
        for key, got in _seen(read):
            looks[read.table, key].append(Look(read, got))
    yield from _adopt(looks, stamps)
    writes = _by_record(known.writes)
    for record, found in looks.items():
        done = Writes(writes.get(record, []))
        for look in found:
            yield from _origin(look, record, stamps)
            yield from _age(known, look, done, stamps, found)
        yield from _flicker(known, record, found)


def check_names(known: Known) -> Iterator[Violation]:
    """At most one record has a name at a time."""
    for read in known.done:
        if read.kind == "named" and read.outcome == OK and len(read.got or ()) > 1:
            yield Violation("one name, one record", f"{read.table} {read.sent['name']!r} is {read.got}", (read.number,))
    holds = defaultdict(list)
    for (table, _), writes in _by_record(known.writes).items():
        for name, began, ended, took in _holds(Writes(writes)):
            holds[table, name].append((began, ended, took, writes))
    for (table, name), held in holds.items():
        held.sort(key=lambda one: one[0])
        for (_, ended, first, writes), (began, _, second, _) in itertools.pairwise(held):
            if began < ended and first.key != second.key and not _may_release(writes, name, second.ended):
                what = f"{table} {name!r} was given to {second.key} while {first.key} had it"
                yield Violation("one name, one record", what, (first.number, second.number))


def check_links(known: Known) -> Iterator[Violation]:
    """Grants and memberships are shown as they were acknowledged; they go with what they link."""
    links = link_writes(known)
    for read in known.done:
        if read.kind == "linked" and (read.status == 404 or read.outcome == OK):
            is_there = read.outcome == OK
            done = links.get((read.table, read.key))
            if done is None or not may_be(done, is_there, known.floor_of(read), read.ended):
                word = "is there" if is_there else "is not there"
                cause = done.last(known.floor_of(read)) if done else None
                numbers = (read.number, cause.number) if cause else (read.number,)
                if done is not None or is_there:
                    what = f"{read.table} {read.key} {word} at {read.place}, not as acknowledged"
                    yield Violation("acknowledged links", what, numbers)


def link_writes(known: Known) -> dict[tuple[str, str], Writes]:
    """What was done to each link, the deletion of its ends included."""
    gone = defaultdict(list)
    found = defaultdict(list)
    for one in known.writes:
        if one.kind == "delete":
            gone[one.key].append(one)
        elif one.kind in ("link", "unlink"):
            found[one.table, one.key].append(one)
    return {
        (table, key): Writes([*writes, *(one for end in key.split("/") for one in gone.get(end, ()))])
        for (table, key), writes in found.items()
    }


def may_be(done: Writes, is_there: bool, floor: int, before: float) -> bool:
    """Whether somebody who knows this position may find the link there, or not there."""
    last = done.last(floor)
    if is_there == (last is not None and last.kind == "link"):
        return True
    return any((one.kind == "link") == is_there for one in done.may_follow(floor, before))


def _seen(read: Did) -> Iterator[tuple[str, dict | None]]:
    """(key, what was shown) of every record that an operation has shown something of."""
    if read.table not in RECORDS:
        return
    if read.kind == "show" and (read.outcome == OK or read.status == 404):
        yield read.key, read.got if read.outcome == OK else None
    elif read.kind == "list" and read.outcome == OK:
        yield from read.got.items()
    elif read.kind == "change" and read.status == 404:  # who is told so has read
        yield read.key, None
    elif read.kind in ("create", "change") and read.outcome == OK:
        yield read.key, read.sent


def _adopt(looks: dict[tuple[str, str], list[Look]], stamps: dict[int, Did]) -> Iterator[Violation]:
    """Give creates whose answer was lost the id under which they were found."""
    for (_, key), found in looks.items():
        for look in found:
            write = stamps.get(look.stamp)
            if write is None or write.kind != "create" or write.key == key:
                continue
            if write.key:
                what = f"one create, two records: {write.key} and {key}"
                yield Violation("exactly once", what, (write.number, look.read.number))
            elif write.outcome == UNKNOWN:
                write.key = key


def _by_record(writes: Iterable[Did]) -> dict[tuple[str, str], list[Did]]:
    found = defaultdict(list)
    for one in writes:
        if one.table in RECORDS and one.key:
            found[one.table, one.key].append(one)
    return found


def _origin(look: Look, record: tuple[str, str], stamps: dict[int, Did]) -> Iterator[Violation]:
    if look.got is None:
        return
    write, read, where = stamps.get(look.stamp), look.read, f"{record[0]} {record[1]} at {look.read.place}"
    if write is None:
        if look.stamp:
            yield Violation("whole or not at all", f"{where} shows {look.got}, which nobody wrote", (read.number,))
        return
    numbers = (write.number, read.number)
    if write.outcome == REFUSED:
        yield Violation("refused is not done", f"{where} shows a write that was refused", numbers)
    if write.key != record[1]:
        yield Violation("whole or not at all", f"{where} shows another record's write", numbers)
    if write.began > read.ended:
        yield Violation("whole or not at all", f"{where} shows a write of the future", numbers)
    for name in _SHOWN:
        if name in write.sent and look.got.get(name) != write.sent[name]:
            what = f"{where}: {name} is {look.got.get(name)!r}, written with it was {write.sent[name]!r}"
            yield Violation("whole or not at all", what, numbers)


def _age(known: Known, look: Look, done: Writes, stamps: dict[int, Did], found: Sequence[Look]) -> Iterator[Violation]:
    read = look.read
    if read.kind == "change" and look.got is None and not known.is_controller(read.place):
        return  # some controller has decided, which one is not known
    floor = known.floor_of(read)
    last = done.last(floor)
    if last is None:
        return
    where = f"{last.table} {last.key} at {read.place}"
    numbers = (last.number, read.number)
    if look.got is None:
        gone = last.kind == "delete" or any(one.kind == "delete" for one in done.may_follow(floor, read.ended))
        if not gone:
            yield Violation("acknowledged is there", f"{where} is not there", numbers)
    elif last.kind == "delete":
        yield Violation("deleted stays deleted", f"{where} is there again, or still", numbers)
    else:
        write = stamps.get(look.stamp)
        if write is None or write is last or write.position > last.position:
            return
        if write.outcome == OK or _first_seen(found, look.stamp) < last.began:
            yield Violation(
                "acknowledged is there", f"{where} is older than position {floor}", (*numbers, write.number)
            )


def _first_seen(found: Sequence[Look], stamp: int) -> float:
    return min((one.read.ended for one in found if one.got and one.stamp == stamp), default=_LONG)


def _flicker(known: Known, record: tuple[str, str], found: Sequence[Look]) -> Iterator[Violation]:
    """At one place, in one life, nothing comes back that something else has followed."""
    lives = defaultdict(list)
    for look in found:
        life = known.life(look.read.place, look.read.began)
        if life.steady and (look.read.kind != "change" or look.got):
            index = 0 if known.is_controller(look.read.place) else life.index
            lives[look.read.place, index].append(look)
    for (place, _), looks in lives.items():
        first_there = min((one.read.ended for one in looks if one.got), default=_LONG)
        for stamp in {one.stamp for one in looks}:
            begin = first_there if stamp == 0 else 0.0
            same = [one.read for one in looks if one.stamp == stamp and one.read.began > begin]
            other = [one.read for one in looks if one.stamp != stamp]
            first = min((one.ended for one in same), default=_LONG)
            passed = min((one.ended for one in other if one.began > first), default=_LONG)
            for read in same:
                if read.began > passed:
                    what = f"{record[0]} {record[1]} at {place} went back to an older state"
                    yield Violation("nothing flickers", what, (read.number,))


def _holds(done: Writes) -> Iterator[tuple[str, float, float, Did]]:
    """(name, from position, to position, write) of every name that a record certainly had."""
    held: tuple[str, float, Did] | None = None
    for one in done.acknowledged:
        name = one.sent.get("name")
        if held and (one.kind == "delete" or (name is not None and name != held[0])):
            yield held[0], held[1], one.position, held[2]
            held = None
        if name is not None and held is None and one.kind != "delete":
            held = (name, one.position, one)
    if held:
        yield held[0], held[1], _LONG, held[2]


def _may_release(writes: Iterable[Did], name: str, before: float) -> bool:
    return any(
        one.outcome == UNKNOWN and one.began < before and (one.kind == "delete" or one.sent.get("name", name) != name)
        for one in writes
    )


def _position(did: Did) -> int:
    return did.position
