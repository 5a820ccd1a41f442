"""Checks passwords and counts what comes of it: at each place for all places, durable before the answer.

A failure that cannot be written counts in this process and is answered 503, so no fault gives anybody more guesses; a
right password is let in although nothing could be written, which only leaves old failures standing.
Source: keystone/identity/backends/sql.py, authenticate.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple, Protocol

import msgspec
import structlog

from regional_keystone import compliance
from regional_keystone.compliance import DAY, Count
from regional_keystone.errors import Unavailable
from regional_keystone.log import Change, put
from regional_keystone.model import Attempts, User
from regional_keystone.passwords import How, verify_password
from regional_keystone.ports import Clock, Reader
from regional_keystone.settings import SecurityCompliance

log = structlog.get_logger("attempts")

Record = Callable[[Attempts], Awaitable[None]]
"""Makes a report durable, and effective here. Raises Unavailable."""
_WAITING = 64  # logins of one user that wait for others of the same user


class Verifier(Protocol):
    """What checks passwords."""

    async def verify(self, user: User | None, text: str) -> bool:
        """Whether this is the user's password and may be used; False for nobody, after the same work."""
        ...

    async def entered(self, user: User) -> None:
        """Note that the user has proven who it is."""
        ...

    def is_inactive(self, user: User, now: int) -> bool:
        """Whether the user certainly counts as disabled for not having logged in."""
        ...

    def active_until(self, user: User) -> int | None:
        """From when on the user will; None: never."""
        ...


class Uncounted:
    """Where nothing is counted, nothing is written."""

    def __init__(self, how: How) -> None:
        self._how = how

    async def verify(self, user: User | None, text: str) -> bool:
        """Whether this is the user's password."""
        return await verify_password(text, user.password_hash if user else None, self._how)

    async def entered(self, user: User) -> None:
        """Nothing is noted."""

    def is_inactive(self, user: User, now: int) -> bool:
        """Nobody is."""
        del user, now
        return False

    def active_until(self, user: User) -> int | None:
        """Nobody will be."""
        del user
        return None


class Pending:
    """What this place has counted and the log does not show yet: the newest row of each user."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[int, Attempts]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def note(self, number: int, row: Attempts) -> None:
        """An entry of the own feed has this row."""
        self._rows[row.user_id] = (number, row)

    def get(self, user_id: str) -> Attempts | None:
        """The row, if the log does not show it yet."""
        found = self._rows.get(user_id)
        return found[1] if found else None

    def drop(self, upto: int) -> None:
        """The log shows the own feed up to this number."""
        for user_id in [one for one, (number, _) in self._rows.items() if number <= upto]:
            del self._rows[user_id]


class _Gate:
    """Logins of one user that are under way: never more than may still fail."""

    def __init__(self) -> None:
        self.busy = self.waiting = self.ended = 0
        self.changed = asyncio.Event()


class Counted(Uncounted):
    """Counts failures and notes activity, as [security_compliance] says. One for each process that answers."""

    def __init__(
        self,
        how: How,
        *,
        rules: SecurityCompliance,
        reader: Reader,
        pending: Pending,
        place: str,
        record: Record,
        clock: Clock,
        may_lack: Callable[[int], bool] = lambda _: False,
    ) -> None:
        """`may_lack`: whether a login until a moment may be unknown here, as `fastpath.Knowledge` has it."""
        super().__init__(how)
        self._may_lack = may_lack
        self._rules = rules
        self._reader = reader
        self._pending = pending
        self._place = place
        self._record = record
        self._clock = clock
        self._gates: dict[str, _Gate] = {}
        self._unwritten: dict[str, Attempts] = {}  # failures that could not be written: they count in this process
        self._writing: set[str] = set()

    async def verify(self, user: User | None, text: str) -> bool:
        """Whether this is the user's password and the user is not locked out; the work is the same.

        Raises Unavailable if a failure could not be made to count.
        """
        if user is None or not compliance.counts(self._rules, user):
            return await super().verify(user, text)
        await self._write_late(user.id)
        async with self._admitted(user.id) as admitted:
            if not admitted:
                return await super().verify(None, text)
            if await super().verify(user, text):
                return await self._left(user.id) > 0  # other places may have counted meanwhile
            await self._failed(user.id)
            return False

    async def entered(self, user: User) -> None:
        """Clear what failed before and note the day, if there is anything to write. Never fails for want of a store."""
        now = self._clock.now()
        count = await self._count(user.id) if compliance.counts(self._rules, user) else Count()
        cleared_at = max(now, count.failed_at) if count.failed else 0
        active_at = now // DAY * DAY if self._is_new_day(user, now) else 0
        if not (cleared_at or active_at):
            return
        try:
            await self._record(Attempts(user_id=user.id, place=self._place, cleared_at=cleared_at, active_at=active_at))
            self._unwritten.pop(user.id, None)
        except Unavailable as error:
            log.warning("login_not_noted", user_id=user.id, why=error.message)

    def is_inactive(self, user: User, now: int) -> bool:
        """Whether the user counts as disabled for not having logged in, here or anywhere.

        Not where a login that changes that may have been made elsewhere: what is answered then, `[freshness]` says.
        """
        until = self.active_until(user)
        return until is not None and now >= until and not self._may_lack(until)

    def active_until(self, user: User) -> int | None:
        """From when on the user counts as disabled, by all that is known of logins."""
        known = self._pending.get(user.id)
        return compliance.active_until(self._rules, user, known.active_at if known else 0)

    def _is_new_day(self, user: User, now: int) -> bool:
        if not self._rules.disable_user_account_days_inactive:
            return False
        known = self._pending.get(user.id)
        last = max(user.last_active_at or 0, known.active_at if known else 0)
        return now // DAY > last // DAY

    async def _failed(self, user_id: str) -> None:
        now = self._clock.now()
        before = compliance.current(self._rules, await self._count(user_id), now)
        at = max(now, before.cleared_at + 1)  # a clock that is behind makes no failure forgotten
        said = Attempts(user_id=user_id, place=self._place, failed=1, failed_at=at, cleared_at=before.cleared_at)
        try:
            await self._record(said)
        except BaseException:
            self._unwritten[user_id] = compliance.joined(self._unwritten.get(user_id), said)
            raise

    async def _write_late(self, user_id: str) -> None:
        """Try again to write what could not be written, so that whoever unlocks the user knows of it."""
        said = self._unwritten.get(user_id)
        if said is None or user_id in self._writing:
            return
        self._writing.add(user_id)
        try:
            await self._record(said)
            if self._unwritten.get(user_id) is said:
                del self._unwritten[user_id]
        except Unavailable as error:
            log.warning("failed_login_not_written", user_id=user_id, why=error.message)
        finally:
            self._writing.discard(user_id)

    async def _left(self, user_id: str) -> int:
        return compliance.attempts_left(self._rules, await self._count(user_id), self._clock.now())

    async def _count(self, user_id: str) -> Count:
        rows = await self._reader.find(Attempts, user_id=user_id)
        mine = self._pending.get(user_id)
        if mine is not None:
            rows = [*(row for row in rows if row.place != self._place), mine]
        unwritten = self._unwritten.get(user_id)
        return compliance.counted([*rows, *([unwritten] if unwritten else [])])

    @asynccontextmanager
    async def _admitted(self, user_id: str) -> AsyncIterator[bool]:
        """Wait until one more failure would not be one too many; False for who is locked out."""
        gate = self._gates.setdefault(user_id, _Gate())
        gate.waiting += 1
        admitted = False
        try:
            if gate.waiting > _WAITING:
                raise Unavailable("Too many logins of this user are under way; try again.")
            admitted = await self._wait(gate, user_id)
            yield admitted
        finally:
            gate.waiting -= 1
            if admitted:
                gate.busy -= 1
                gate.ended += 1
                gate.changed.set()
            if not gate.waiting:
                self._gates.pop(user_id, None)

    async def _wait(self, gate: _Gate, user_id: str) -> bool:
        while True:
            ended = gate.ended
            left = await self._left(user_id)
            if gate.ended != ended:
                continue  # what has ended since may have been counted after it was looked
            if not left:
                return False
            if gate.busy < left:
                gate.busy += 1
                return True
            gate.changed.clear()
            await gate.changed.wait()


class Facts(NamedTuple):
    """What the log holds for a report: the place's row and the user; None for what is not there."""

    row: Attempts | None
    user: User | None


async def facts(reader: Reader, said: Attempts) -> Facts:
    """What the log holds of this user and place."""
    return Facts(await reader.get(Attempts, said.user_id, said.place), await reader.get(User, said.user_id))


def changes(known: Facts, row: Attempts) -> list[Change]:
    """What a place's new row changes in the log: itself, and the user's last day. Nothing for a user who is gone."""
    if known.user is None:
        return []
    found: list[Change] = [put(row, known.row)]
    if row.active_at > (known.user.last_active_at or 0):
        found.append(put(msgspec.structs.replace(known.user, last_active_at=row.active_at), known.user))
    return found


def cleared(rows: list[Attempts], user_id: str, place: str, now: int) -> list[Change]:
    """What an administrator changes who enables a user: at this place it is written that nothing counts any more."""
    count = compliance.counted(rows)
    if not count.failed:
        return []
    mine = next((row for row in rows if row.place == place), None)
    said = Attempts(user_id=user_id, place=place, cleared_at=max(now, count.failed_at))
    return [put(compliance.joined(mine, said), mine)]
