"""What happened, as the clients saw it: one JSON object a line, written when it is over.

Times are seconds of one monotonic clock since the run began. No secret is in it: a password is the number of the
write that set it, a token the beginning of its digest.
"""

import math
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

OK, REFUSED, UNKNOWN = "ok", "refused", "unknown"
CLOCK = "clock set"


class Did(msgspec.Struct, tag="did", kw_only=True, omit_defaults=True):
    """One operation of one client.

    `outcome`: ok was done, refused was surely not done, unknown may have been done or may be done later.
    `floor` is the X-RK-Position that was sent, `position` the one that came back. `sent` has what a write asked for,
    its `stamp` is unique; `got` what a read showed, None when there was nothing.
    """

    number: int
    client: str
    place: str
    kind: str
    began: float
    ended: float
    outcome: str
    status: int = 0
    table: str = ""
    key: str = ""
    sent: dict[str, Any] = {}
    got: Any = None
    floor: int = 0
    position: int = 0
    request: str = ""
    retry_after: str = ""
    said: str = ""


class Fault(msgspec.Struct, tag="fault", kw_only=True):
    """Something that was broken on purpose; told again with `ended` when it is healed.

    `mending`: when healing began; until then it was surely broken. `killed`: whose life ended.
    """

    number: int
    what: str
    began: float
    mending: float | None = None
    ended: float | None = None
    places: list[str] = []
    killed: list[str] = []


class Saw(msgspec.Struct, tag="saw", kw_only=True, omit_defaults=True):
    """What a process said of itself."""

    place: str
    began: float
    ended: float
    position: int
    age_s: float | None = None
    epoch: int = 0
    digest: str = ""


class Calm(msgspec.Struct, tag="calm", kw_only=True):
    """Everything was healed at `healed`; equal from `began` on at `position`, nothing was broken until `ended`.

    `began` None: the replicas did not become equal in time, and `said` tells what was different.
    """

    number: int
    healed: float
    began: float | None = None
    ended: float | None = None
    position: int = 0
    said: str = ""


class Logged(msgspec.Struct, tag="logged", kw_only=True, omit_defaults=True):
    """One entry of the log as it was read in the end; `rows` as table/key, `audits` of the revocations in it.

    `revocations` are the names of those: of one from a site's feed where it stands there.
    """

    number: int
    id: str
    rows: list[str] = []
    audits: list[str] = []
    revocations: list[str] = []


class Audit(msgspec.Struct, tag="audit", kw_only=True):
    """What the store itself says in the end: where its log begins and ends, and what its tables have wrong."""

    place: str
    first: int
    head: int
    wrong: list[str] = []


class Setup(msgspec.Struct, tag="setup", kw_only=True):
    """What the checker has to know of the federation; `regions` as in `cluster.Topology`."""

    controllers: list[str]
    sites: list[str]
    seed: int
    system_s: float
    regions: list[list[str]] = []


Event = Did | Fault | Saw | Calm | Logged | Audit | Setup


class History:
    """Events in memory and in a file, added by many threads."""

    def __init__(self, path: Path | None = None) -> None:
        self.events: list[Event] = []
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._numbers = 0
        self._file = path.open("wb") if path else None
        self._encoder = msgspec.json.Encoder()

    def now(self) -> float:
        return round(time.monotonic() - self._began, 6)

    def number(self) -> int:
        """A number that nothing else has."""
        with self._lock:
            self._numbers += 1
            return self._numbers

    def add(self, event: Event) -> None:
        with self._lock:
            self.events.append(event)
            if self._file is not None:
                self._file.write(self._encoder.encode(event) + b"\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def read(path: Path) -> Iterator[Event]:
    """The events of a file."""
    decoder = msgspec.json.Decoder(Event)
    with path.open("rb") as lines:
        for line in lines:
            yield decoder.decode(line)


def latest(events: Iterable[Fault | Calm]) -> list[Any]:
    """Each as it was told last."""
    return list({one.number: one for one in events}.values())


def shown(event: Event) -> str:
    """One line for people."""
    if not isinstance(event, Did):
        return msgspec.json.encode(event).decode()[:300]
    ended = "never" if math.isinf(event.ended) else f"{event.ended:.3f}"
    words = [f"#{event.number} {event.began:.3f}..{ended} {event.client} at {event.place}:", event.kind, event.table]
    words += [event.key, f"{event.sent}" if event.sent else "", f"floor {event.floor}" if event.floor else ""]
    words += [f"-> {event.outcome} {event.status}", f"position {event.position}" if event.position else ""]
    words += [f"{event.got}" if event.got is not None else "", event.said]
    return " ".join(word for word in words if word)
