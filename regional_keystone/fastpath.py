"""The short road: remembered verdicts, re-asked for expiry, revocation and change on every hit.
A shortcut of `validate`, not a second implementation: whatever is not plain here takes the long road. No I/O, no await.
"""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Protocol

from regional_keystone.delegation import Within
from regional_keystone.freshness import class_of
from regional_keystone.keys import KeyRing
from regional_keystone.record import Touch
from regional_keystone.revocation import RevocationIndex, Traits
from regional_keystone.signing import Signers
from regional_keystone.token import Named, Principal

_WINDOW = 4096
_NEVER: Mapping[str, int] = {}


class Knowledge(Protocol):
    """What this process knows of the federation, and how fresh that is; `ring` and `index` may be swapped any time."""

    @property
    def ring(self) -> KeyRing:
        """The keys that seal and open tokens now."""
        ...

    @property
    def signers(self) -> Signers:
        """Whose signing keys count, and for what; may be swapped any time as well."""
        ...

    @property
    def index(self) -> RevocationIndex:
        """Every revocation that this process has heard of."""
        ...

    @property
    def position(self) -> int:
        """The last entry of the log that ring, index and replica show."""
        ...

    def age_s(self) -> float:
        """For how long at most something may have been true elsewhere without being known here."""
        ...

    @property
    def allow_expired_us(self) -> int | None:
        """For how long after its end a token may be shown, since keys are kept no longer; None: nothing is said."""
        ...

    def accepts_key(self, key_id: str) -> bool:
        """Whether what the key of this id has sealed or signed is taken for a token now. Asked for every hit."""
        ...

    def may_lack_key(self, sealed_at: int) -> bool:
        """Whether a key that is not known here may have sealed something by then, in microseconds since 1970 UTC."""
        ...

    def may_lack(self, made_at: int) -> bool:
        """Whether something may be unknown here that was there by then, in microseconds since 1970 UTC."""
        ...

    def read_keys_again(self) -> bool:
        """Whether keys are known now that were not when a token found none; asked before it is refused."""
        ...

    def note_issue(self, user_id: str, at: int, made_of: int | None = None) -> None:
        """A token was issued for this user: a revocation that comes late must reach it."""
        ...


class Answered(Protocol):
    """Is told what the fast path answers 200 with a body; each token, by class of callers, again after `again_us`."""

    @property
    def again_us(self) -> int:
        """After how many microseconds a token that is still answered is told again."""
        ...

    def note(self, token: str, verdict: "Verdict", asked_by: str) -> None:
        """This token, as it was sent, is about to be answered to a caller of this class of `freshness.CLASSES`."""
        ...


class Derived:
    """Something computed from the replica: true from `position` on, until a write disturbs one of `reads`."""

    __slots__ = ("key", "position", "reads", "stale")

    def __init__(self, key: object, reads: frozenset[Touch], position: int) -> None:
        self.key = key
        self.reads = reads
        self.position = position
        self.stale = False


class Facts(Derived):
    """Who a user is and has in one scope, for any number of tokens; `user`, `rest`, `catalog` are parts of a body.

    `may`: what policy lets such a caller validate, by the methods of its token (see Verdict). `ends`: whose tokens it
    may revoke, anybody's and its user's own, in the same way. `within`: what limits a delegated token.
    """

    __slots__ = ("catalog", "domain", "ends", "home_id", "may", "project", "rest", "roles", "user", "who", "within")

    def __init__(
        self,
        key: object,
        reads: frozenset[Touch],
        position: int,
        *,
        who: Named,
        home_id: str,
        project: Named | None,
        domain: Named | None,
        roles: tuple[Named, ...],
        user: bytes,
        rest: bytes,
        catalog: bytes = b"",
        within: Within | None = None,
    ) -> None:
        """`home_id` is the user's domain; `who`, `project`, `domain` and `roles` are a Principal's."""
        super().__init__(key, reads, position)
        self.who, self.home_id, self.project, self.domain, self.roles = who, home_id, project, domain, roles
        self.user, self.rest, self.catalog, self.within = user, rest, catalog, within
        self.may: dict[tuple[str, ...], tuple[bool, bool, bool, bool]] = {}
        self.ends: dict[tuple[str, ...], tuple[bool, bool]] = {}

    @property
    def domains(self) -> frozenset[str]:
        """The domains that a token of these facts is about: its user's, as whom it acts, and its scope's."""
        scope = None if self.domain is None else self.domain.id
        about = {self.home_id, self.who.domain_id, self.project.domain_id if self.project else None, scope}
        return frozenset(one for one in about if one is not None)

    def with_catalog(self, catalog: bytes, offered: bytes, reads: frozenset[Touch], position: int) -> "Facts":
        """The same with this catalog and what tokens offer beside it, both read from `reads`.

        All together is true from `position` on.
        """
        return Facts(
            self.key,
            self.reads | reads,
            position,
            who=self.who,
            home_id=self.home_id,
            project=self.project,
            domain=self.domain,
            roles=self.roles,
            user=self.user,
            rest=self.rest + offered,
            catalog=catalog,
            within=self.within,
        )


class Verdict:
    """What the long road decided about one token, and all that has to be asked again when it is presented again."""

    __slots__ = (
        "digest",
        "era",
        "expires_at",
        "facts",
        "head",
        "key",
        "kind",
        "max_age_s",
        "may_check",
        "may_check_own",
        "may_validate",
        "may_validate_own",
        "not_before",
        "principal",
        "tail",
        "token",
        "told_at",
        "traits",
    )

    def __init__(
        self,
        *,
        digest: bytes,
        key: str,
        traits: Traits,
        facts: Facts,
        principal: Principal,
        head: bytes,
        tail: bytes,
        not_before: int,
        max_age_s: float | None = None,
        may: tuple[bool, bool, bool, bool] = (False, False, False, False),
        until: int | None = None,
    ) -> None:
        """`key` is the id of what opened it; `head` and `tail` its own parts of the body, before and after the user.

        Refused before `not_before`, from `until` on if that is earlier than the token's own end, and with knowledge
        older than `max_age_s`. `may`: whether its holder may validate anybody's token, its user's own, and the same two
        for HEAD.
        """
        self.digest, self.key, self.traits, self.facts = digest, key, traits, facts
        self.principal, self.token, self.head, self.tail = principal, principal.token, head, tail
        end = principal.token.expires_at
        self.not_before, self.max_age_s = not_before, max_age_s
        self.expires_at = end if until is None else min(end, until)
        self.may_validate, self.may_validate_own, self.may_check, self.may_check_own = may
        self.era = -1
        self.kind = class_of(self.token.scope)
        self.told_at: Mapping[str, int] = _NEVER

    def body(self, *, catalog: bool = True) -> bytes:
        """The whole JSON body of the answer to a validation."""
        facts = self.facts
        return b"".join(
            (self.head, facts.user, self.tail, facts.rest, facts.catalog if catalog else b"", b"}}"),
        )

    def permits(self, subject: "Verdict", *, head: bool = False) -> bool:
        """True if policy lets the holder of this token validate that one."""
        if self.may_check if head else self.may_validate:
            return True
        own = self.may_check_own if head else self.may_validate_own
        return own and self.principal.user.id == subject.token.user_id


class Memory:
    """What was computed from the replica, each under its key until something that it read is disturbed.

    At most `limit`; the least recently used go first. Nothing from before this process began is taken on trust.
    """

    def __init__(self, knowledge: Knowledge, limit: int) -> None:
        self._knowledge = knowledge
        self._limit = limit
        self._derived: OrderedDict[object, Derived] = OrderedDict()
        self._readers: defaultdict[Touch, set[Derived]] = defaultdict(set)
        self._recent: deque[tuple[int, frozenset[Touch]]] = deque()
        self._horizon = knowledge.position  # what was disturbed up to here is not known touch by touch
        self._upto = 0

    def covers(self, position: int) -> bool:
        """Whether everything that was disturbed after this position is known here, touch by touch."""
        return position >= self._horizon

    def holds(self, derived: Derived) -> bool:
        """Whether this is known to be true still: nothing that it read was disturbed after its position."""
        if derived.stale or self._derived.get(derived.key) is derived:
            return not derived.stale
        return self.covers(derived.position) and not self._was_disturbed(derived)

    def keep(self, derived: Derived) -> bool:
        """Keep this until it is disturbed; False if it already has been, or if that can no longer be known."""
        if not self.holds(derived):
            derived.stale = True
            return False
        if self._derived.get(derived.key) is derived:
            return True  # watched all the time, however old it is
        self._drop(self._derived.get(derived.key))
        self._derived[derived.key] = derived
        for touch in derived.reads:
            self._readers[touch].add(derived)
        while len(self._derived) > self._limit:
            self._drop(next(iter(self._derived.values())))
        return True

    def recall(self, key: object) -> Derived | None:
        """What was kept under this key and still holds."""
        found = self._derived.get(key)
        if found is not None:
            self._derived.move_to_end(key)
        return found

    def holds_at(self, derived: Derived) -> int:
        """A position at which what was kept, and is not stale, is true: its own, or as far as changes are known."""
        return max(derived.position, self._upto)

    def disturb(self, position: int, touched: Iterable[Touch]) -> None:
        """Entries up to `position` have changed this; call it for all of them, in order, without awaiting between."""
        touches = frozenset(touched)
        self._upto = max(self._upto, position)
        self._recent.append((position, touches))
        if len(self._recent) > _WINDOW:
            self._horizon = max(self._horizon, self._recent.popleft()[0])
        for touch in touches:
            for derived in list(self._readers.get(touch, ())):
                if derived.position < position:
                    self._drop(derived)

    def doubt(self, touched: Iterable[Touch]) -> None:
        """Rows of the replica were put right: what read them up to the present position is not believed, nor kept."""
        touches = frozenset(touched)
        self._recent.append((self._knowledge.position + 1, touches))
        for touch in touches:
            for derived in list(self._readers.get(touch, ())):
                self._drop(derived)

    def forget_all(self) -> None:
        """Start anew: the replica was replaced, or policy has changed. What is being computed is not accepted."""
        for derived in list(self._derived.values()):
            self._drop(derived)
        self._recent.clear()
        self._horizon = max(self._horizon, self._upto, self._knowledge.position)

    def _was_disturbed(self, derived: Derived) -> bool:
        for at, touched in reversed(self._recent):
            if at <= derived.position:
                return False
            if not touched.isdisjoint(derived.reads):
                return True
        return False

    def _drop(self, derived: Derived | None) -> None:
        if derived is None or self._derived.get(derived.key) is not derived:
            return
        derived.stale = True
        del self._derived[derived.key]
        for touch in derived.reads:
            readers = self._readers[touch]
            readers.discard(derived)
            if not readers:
                del self._readers[touch]


class FastPath(Memory):
    """Verdicts by the digest of their token's canonical text, at most `limit`; the least recently used go first."""

    def __init__(self, knowledge: Knowledge, limit: int = 100_000) -> None:
        super().__init__(knowledge, limit)
        self._young: dict[bytes, Verdict] = {}  # two generations: what is hit moves to the young one
        self._old: dict[bytes, Verdict] = {}
        self._era = 0
        self._index: RevocationIndex | None = None
        self._version = -1
        self.answered: Answered | None = None

    def __len__(self) -> int:
        """How many verdicts are remembered at most; some may be twice in it."""
        return len(self._young) + len(self._old)

    def ask(self, caller: str, subject: str, catalog: bool, now: int, *, head: bool = False) -> bytes | None:  # noqa: FBT001
        """The body of the 200 answer to a validation of `subject` by `caller`; None: take the long road.

        `now` in microseconds since 1970 UTC. The body belongs to HEAD as well, which has a policy of its own.
        """
        try:
            me = self.verdict(sha256(caller.encode("ascii")).digest(), now)
            if me is None:
                return None
            it = me if subject == caller else self.verdict(sha256(subject.encode("ascii")).digest(), now)
        except UnicodeEncodeError:
            return None
        if it is None or not ((me.may_validate and not head) or me.permits(it, head=head)):
            return None
        answered = self.answered
        if answered is not None and not (head or 0 <= now - it.told_at.get(me.kind, 0) < answered.again_us):
            it.told_at = {**it.told_at, me.kind: now}
            answered.note(subject, it, me.kind)
        return it.body(catalog=catalog)

    def verdict(self, digest: bytes, now: int) -> Verdict | None:
        """The verdict if it still holds: not expired, not revoked, nothing changed, knowledge fresh enough."""
        found = self._young.get(digest) or self._promoted(digest)
        if found is None:
            return None
        if found.facts.stale or not found.not_before <= now < found.expires_at:
            self._forget(digest)
            return None
        knowledge = self._knowledge
        index = knowledge.index
        if index is not self._index or self._version != index.version:
            self._begin_era()
        if not knowledge.accepts_key(found.key) or (found.era != self._era and not self._survives(found)):
            self._forget(digest)
            return None
        if found.max_age_s is not None and knowledge.age_s() > found.max_age_s:
            return None
        return found

    def remember(self, verdict: Verdict) -> bool:
        """Keep this verdict, unless what it was computed from has been disturbed since."""
        if not self.keep(verdict.facts):
            return False
        verdict.era = -1
        self._young[verdict.digest] = verdict
        if len(self._young) * 2 > self._limit:
            self._old, self._young = self._young, {}
        return True

    def forget_all(self) -> None:
        """Start anew: the replica was replaced, or policy has changed. What is being computed is not accepted."""
        super().forget_all()
        self._young, self._old = {}, {}

    def _promoted(self, digest: bytes) -> Verdict | None:
        found = self._old.pop(digest, None)
        if found is not None:
            self._young[digest] = found
            if len(self._young) * 2 > self._limit:
                self._old, self._young = self._young, {}
        return found

    def _forget(self, digest: bytes) -> None:
        self._young.pop(digest, None)
        self._old.pop(digest, None)

    def _begin_era(self) -> None:
        """Revocations are not what they were: every verdict has to be asked again, once."""
        self._era += 1
        self._index = self._knowledge.index
        self._version = self._index.version

    def _survives(self, verdict: Verdict) -> bool:
        if self._knowledge.index.voided(verdict.traits):
            return False
        verdict.era = self._era
        return True


class Confirmed:
    """A fast path that answers only while what is known was true everywhere `within_s` seconds ago.

    For a controller beside others: what they have answered counts here. The long road asks how far the log goes.
    """

    __slots__ = ("_fastpath", "_knowledge", "_within_s")

    def __init__(self, fastpath: FastPath, knowledge: Knowledge, within_s: float) -> None:
        self._fastpath, self._knowledge, self._within_s = fastpath, knowledge, within_s

    def ask(self, caller: str, subject: str, catalog: bool, now: int, *, head: bool = False) -> bytes | None:  # noqa: FBT001
        """As `FastPath.ask`; None as well when what is known is older."""
        if self._knowledge.age_s() > self._within_s:
            return None
        return self._fastpath.ask(caller, subject, catalog, now, head=head)
