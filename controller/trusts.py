"""Trusts that have ended are taken out of the tables, some hundred at a step, through the log like any other change.

Separate from housekeeping: it is done when an operator asks. Source: keystone/cmd/cli.py (TrustFlush),
keystone/trust/backends/sql.py.
"""

import secrets
from typing import Any

import msgspec

from controller.commit import Sequencer
from regional_keystone.api.consequences import follow
from regional_keystone.delegation import is_used_up
from regional_keystone.errors import Invalid
from regional_keystone.log import Change, remove
from regional_keystone.model import RevocationEvent, Trust
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.ports import Clock
from regional_keystone.record import facts

ROWS = 200  # that one step looks at
_EVENTS = facts(RevocationEvent).name


class Wanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which trusts: ended before this instant (microseconds since 1970 UTC; None: now), of this project and users.

    With `used_up` also those of which no use is left, whenever they end. `after` is where the step before stood.
    """

    before: int | None = None
    project_id: str | None = None
    trustor_user_id: str | None = None
    trustee_user_id: str | None = None
    used_up: bool = False
    after: str | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """How many trusts were looked at and removed; the next step begins `after`, there is none if that is None."""

    seen: int
    removed: int
    after: str | None


class Trusts:
    """Flushes trusts, a step at a time, so that other changes pass in between and a break loses nothing."""

    def __init__(self, *, overlay: Overlay, sequencer: Sequencer, clock: Clock, keep_s: float) -> None:
        """`keep_s`: how long it is remembered that a token is void."""
        self._overlay = overlay
        self._sequencer = sequencer
        self._clock = clock
        self._keep_s = keep_s

    async def flush(self, wanted: Wanted) -> Step:
        """One step. Raises Invalid for an instant that is still to come: what ends until then has not ended."""
        now = self._clock.now()
        before = now if wanted.before is None else wanted.before
        if before > now:
            raise Invalid("The date lies ahead; trusts that end until then have not ended.")
        after = None if wanted.after is None else (wanted.after,)
        rows = await self._overlay.page(Trust, after, ROWS, **_group(wanted))
        places = [row.id for row in rows if _has_ended(row, wanted, before)]
        removed = await self._remove(places, wanted, before, now) if places else 0
        return Step(seen=len(rows), removed=removed, after=rows[-1].id if len(rows) == ROWS else None)

    async def _remove(self, places: list[str], wanted: Wanted, before: int, now: int) -> int:
        async def decide(reader: Recording) -> tuple[list[Change], int]:
            gone: list[Change] = []
            spent: list[Change] = []
            for place in places:
                row = await reader.get(Trust, place)
                if row is not None and _has_ended(row, wanted, before):
                    (gone if _is_over(row, before) else spent).append(remove(row))
            changes = [*await follow(reader, gone, now, self._keep_s)]
            # tokens by a trust that is over are void because of its end: nothing more has to be remembered of them
            changes = [one for one in changes if one.table != _EVENTS]
            changes += await follow(reader, spent, now, self._keep_s)
            return changes, len({one.key for one in changes if one.table == facts(Trust).name})

        return (await transact(self._overlay, self._sequencer, f"flush/{secrets.token_hex(8)}", decide))[0]


def _group(wanted: Wanted) -> dict[str, Any]:
    """The values by which the fewest rows are read."""
    for name in ("trustor_user_id", "trustee_user_id", "project_id"):
        if (value := getattr(wanted, name)) is not None:
            return {name: value}
    return {}


def _has_ended(row: Trust, wanted: Wanted, before: int) -> bool:
    asked = ("project_id", "trustor_user_id", "trustee_user_id")
    if any(getattr(wanted, name) not in {None, getattr(row, name)} for name in asked):
        return False
    return _is_over(row, before) or (wanted.used_up and is_used_up(row))


def _is_over(row: Trust, before: int) -> bool:
    return row.expires_at is not None and row.expires_at < before
