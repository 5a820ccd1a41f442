"""How many tokens somebody has revoked one by one: too many become one revocation of all of them.

So that a user who issues and revokes in a loop fills no table. Pure; each process counts what it is asked itself.
"""

import msgspec

from regional_keystone.model import RevocationEvent

WATERMARK = "watermark/"  # begins the names of such revocations
_FORGET = 10_000  # users beyond which those are looked for that have nothing left to count


class Singles:
    """A bucket for each user that leaks: `most` at once, and as many again in the time for which one is kept."""

    def __init__(self, most: int, kept_s: float) -> None:
        """`most` 0: they are not counted."""
        self.most = most
        self._us_each = int(kept_s * 1_000_000) // most if most else 0
        self._empty_at: dict[str, int] = {}  # whose -> when nothing will be left to count
        self._forget = _FORGET

    def __len__(self) -> int:
        """How many users something is known of."""
        return len(self._empty_at)

    def too_many(self, whose: str, now: int) -> bool:
        """Count one more of a user's, or a trust's, at `now`, in microseconds; True if all are to be void instead."""
        if not self.most:
            return False
        if len(self._empty_at) >= self._forget:
            self._empty_at = {one: at for one, at in self._empty_at.items() if at > now}
            self._forget = max(_FORGET, 2 * len(self._empty_at))
        empty_at = max(self._empty_at.get(whose, 0), now) + self._us_each
        if empty_at - now > self.most * self._us_each:
            return True
        self._empty_at[whose] = empty_at
        return False


def furthest(event: RevocationEvent, old: RevocationEvent | None) -> RevocationEvent:
    """What takes the place of a former one of the same name: it voids no less, for no shorter, whatever the clock."""
    if old is None:
        return event
    return msgspec.structs.replace(
        event,
        issued_before=max(event.issued_before, old.issued_before),
        revoked_at=max(event.revoked_at, old.revoked_at),
        keep_until=max(event.keep_until, old.keep_until),
    )
