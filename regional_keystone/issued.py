"""Until when tokens may have been issued here, and for whom: a revocation that comes late must reach them.

Separate from follow, which asks it of each revocation of all tokens of a user.
"""

from collections.abc import Callable, Collection, Iterable, Mapping

import msgspec

from regional_keystone.log import Put, origin
from regional_keystone.model import RevocationEvent, Taken
from regional_keystone.record import decode, spread, unspread
from regional_keystone.watermarks import WATERMARK

LATE = "late/"  # begins the names of revocations by which a site answers one that reached back over its own issues
LIMIT = 100_000


class Issued:
    """The last moment for each user, for as long as such a token may live; and one for all users, of an earlier life.

    Instants are microseconds since 1970 UTC.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._least = self._limit = limit
        self._until: dict[str, int] = {}
        self._made_of: dict[
            str, tuple[int, int]
        ] = {}  # of tokens: when the oldest was issued, when one was exchanged last
        self._earlier = 0
        self._unwritten: dict[str, RevocationEvent] = {}
        self._brought: set[int] = set()  # revocations of a snapshot that is not applied yet, each as a hash
        self.keep: Callable[[int], None] = _unkept  # is told when each token is issued, for a later life
        self.kept: Callable[[], int] = _never  # when any process of this site was told so last

    def __len__(self) -> int:
        """For how many users it is known."""
        return len(self._until)

    def note(self, user_id: str, at: int, oldest: int, made_of: int | None = None) -> None:
        """A token was issued, out of one of `made_of` if that is an instant. None of before `oldest` is accepted."""
        if len(self._until) >= self._limit:
            self._until = {user: then for user, then in self._until.items() if then > oldest}
            self._made_of = {user: of for user, of in self._made_of.items() if user in self._until}
            self._limit = max(self._least, 2 * len(self._until))
        self.keep(at)
        self._until[user_id] = max(at, self._until.get(user_id, 0))
        if made_of is not None:
            first, last = self._made_of.get(user_id, (made_of, at))
            self._made_of[user_id] = min(first, made_of), max(last, at)

    def lived(self, until: int) -> None:
        """An earlier life of this site may have issued tokens until then; for whom is not known any more."""
        self._earlier = max(self._earlier, until)

    def lost(self) -> None:
        """Another process of this site has issued tokens, and will not say for whom."""
        self.lived(self.kept())

    def until(self, user_id: str | None, latest: int) -> int:
        """When a token of this user may have been issued here last; 0 for never, and for no user.

        An earlier life's word counts up to `latest`: its clock may have been wrong, and it is about every user.
        """
        return max(self._until.get(user_id, 0), min(self._earlier, latest)) if user_id else 0

    @property
    def unwritten(self) -> Collection[RevocationEvent]:
        """Answers that count here and that no feed holds yet."""
        return self._unwritten.values()

    def owes(self, answers: list[RevocationEvent]) -> list[RevocationEvent]:
        """These are to be written; returns them."""
        for event in answers:
            known = self._unwritten.get(event.id)
            if known is None or known.issued_before < event.issued_before:
                self._unwritten[event.id] = event
        return answers

    def written(self, event: RevocationEvent) -> RevocationEvent:
        """The own feed holds this, or it never will; returns it."""
        known = self._unwritten.get(event.id)
        if known is not None and known.issued_before <= event.issued_before:
            del self._unwritten[event.id]
        return event

    def brought(self, event: RevocationEvent, answers: list[RevocationEvent]) -> list[RevocationEvent]:
        """Its answers, of what a snapshot brings; it gets no others, should the snapshot break off and come again."""
        if event.user_id:
            self._brought.add(hash((event.id, event.issued_before)))
        return answers

    def applied(self) -> None:
        """The snapshot has replaced what was there: what it brought does not come again as new."""
        self._brought.clear()

    def answer(
        self, event: RevocationEvent, own: str | None, peers: Mapping[str, int], *, is_new: bool, latest: int
    ) -> RevocationEvent | None:
        """What voids the tokens that were issued here behind a revocation of their user; None where there are none.

        None to what comes from the feed `own`, or came from one of `peers` (feed -> how far it was read) before, or is
        a watermark, whose name does not tell its entry, and not `is_new`: that was answered when it was.

        Another place's answer is answered only for what was made here of tokens that it voids: who issued behind the
        revocation, not knowing it, may have issued to somebody who exchanged that here, where the revocation was known.
        """
        if hash((event.id, event.issued_before)) in self._brought:
            return None
        name = unspread(event.id)
        feed, number = origin(name)
        if own and name.removeprefix(LATE).startswith(f"{own}/"):
            return None
        if (name.startswith(LATE) or WATERMARK in name) and not is_new:
            return None
        if name.startswith(LATE):
            issued_at = self._exchanged(event, latest)
        elif 0 < number <= peers.get(feed, 0):
            return None
        else:
            issued_at = self.until(event.user_id, latest)
            if event.user_id and _is_of_all(event):  # of what was exchanged so far nothing remains
                self._made_of.pop(event.user_id, None)
        if issued_at // 1_000_000 <= event.issued_before // 1_000_000:
            return None
        # to watermarks there is one row of each user, or trust, as they are one themselves: it reaches ever further
        named = f"{WATERMARK}{event.user_id}/{event.trust_id}" if WATERMARK in name else event.id
        return msgspec.structs.replace(
            event,
            id=spread(f"{LATE}{named}"),
            issued_before=issued_at,
            keep_until=issued_at + event.keep_until - event.issued_before,
        )

    def _exchanged(self, event: RevocationEvent, latest: int) -> int:
        """When something may have been made here last of tokens that this voids; 0 for never."""
        if not event.user_id:
            return 0
        first, last = self._made_of.get(event.user_id, (0, 0))
        return max(last if first // 1_000_000 <= event.issued_before // 1_000_000 else 0, min(self._earlier, latest))


def _unkept(at: int) -> None:
    del at


def _never() -> int:
    return 0


def take_over(changes: Iterable[Put], peers: dict[str, int]) -> None:
    """What the log has of sites' feeds counts here: who reads such an entry in the feed itself answers nothing."""
    for change in changes:
        if change.table == "taken":
            taken = decode(Taken, change.row)
            peers[taken.feed] = max(taken.number, peers.get(taken.feed, 0))


def _is_of_all(event: RevocationEvent) -> bool:
    """Whether it voids every token of its user up to its instant."""
    plain = RevocationEvent(
        id=event.id,
        issued_before=event.issued_before,
        revoked_at=event.revoked_at,
        keep_until=event.keep_until,
        user_id=event.user_id,
    )
    return event == plain


def covers(old: RevocationEvent | None, event: RevocationEvent) -> bool:
    """Whether this row, of the same id, had said as much before: a watermark's moves on."""
    return old is not None and old.issued_before >= event.issued_before
