"""How many tokens were issued, by key and hour: what it would cost to condemn a key. Bounded, and of no secret.

Kept at the site that issues, told to the controllers with each acknowledgement, and an estimate: a site that is killed
forgets its last seconds. Source: docs/adr/0026-condemned-keys.md.
"""

from collections.abc import Iterable, Mapping

import msgspec

HOUR_US = 3_600_000_000
MOST_KEYS, MOST_HOURS = 16, 72
_MOST = 10**12

Issues = dict[str, dict[int, int]]
"""Key id -> hour since 1970 UTC -> tokens."""


class IssueCounts:
    """What this process has counted, of the newest keys and hours."""

    def __init__(self) -> None:
        self._counts: Issues = {}

    def note(self, key_id: str, at: int) -> None:
        """One more token was sealed with this key."""
        hour = at // HOUR_US
        hours = self._counts.setdefault(key_id, {})
        hours[hour] = hours.get(hour, 0) + 1
        if len(hours) > MOST_HOURS or len(self._counts) > MOST_KEYS:
            self._counts = bounded(self._counts)

    def add(self, counts: Issues) -> None:
        """Count these as well: what was known before this process began, or of a process that has ended."""
        self._counts = bounded(summed((self._counts, counts)))

    def told(self) -> Issues:
        """All of it."""
        return {key: dict(hours) for key, hours in self._counts.items()}


def summed(counted: Iterable[Mapping[str, Mapping[int, int]]]) -> Issues:
    """The sum of what several processes have counted."""
    found: Issues = {}
    for counts in counted:
        for key, hours in counts.items():
            mine = found.setdefault(key, {})
            for hour, count in hours.items():
                mine[hour] = mine.get(hour, 0) + count
    return found


def bounded(counts: Mapping[str, Mapping[int, int]]) -> Issues:
    """The newest hours of the keys that were used last, as many as are kept; no number that cannot be."""
    kept = {
        key[:64]: {hour: min(hours[hour], _MOST) for hour in sorted(hours)[-MOST_HOURS:] if hours[hour] > 0}
        for key, hours in counts.items()
    }
    latest = sorted((key for key in kept if kept[key]), key=lambda key: max(kept[key]))[-MOST_KEYS:]
    return {key: kept[key] for key in latest}


def live(hours: Mapping[int, int], now: int, lifetime_us: int) -> int:
    """Of tokens counted so, about how many have not expired: those of every hour that such a token may be from."""
    first = (now - lifetime_us) // HOUR_US
    return sum(count for hour, count in hours.items() if hour >= first)


def totals(counts: Mapping[str, Mapping[int, int]]) -> dict[str, float]:
    """All hours together, by key."""
    return {key: float(sum(hours.values())) for key, hours in counts.items()}


def written(counts: Issues) -> bytes:
    """As bytes, for a file."""
    return msgspec.msgpack.encode(counts)


def read(data: bytes) -> Issues:
    """What `written` wrote; nothing for what it did not."""
    try:
        return bounded(msgspec.msgpack.decode(data, type=Issues))
    except ValueError:
        return {}
