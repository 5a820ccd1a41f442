"""The long road: opens a token, looks up what its user has now, asks whether it was revoked, renders, remembers.
The only place but `issue` where a Principal is made, so that a handler cannot meet an unchecked one.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from hashlib import sha256

import structlog

from regional_keystone import jws
from regional_keystone.catalog import Catalog, any_chosen, chosen, visible
from regional_keystone.delegation import Within, delegated
from regional_keystone.document import common, listed, named, offered, own
from regional_keystone.errors import Forbidden, NotFound, Unauthenticated, Unavailable
from regional_keystone.fastpath import Derived, Facts, FastPath, Knowledge, Verdict
from regional_keystone.freshness import Limits, class_of
from regional_keystone.issue import SKEW_S
from regional_keystone.model import ServiceProvider, User
from regional_keystone.overlay import Positioned, Recording
from regional_keystone.payload import NoKeyFits, NotAToken
from regional_keystone.policy import Policy
from regional_keystone.ports import Clock
from regional_keystone.record import Touch
from regional_keystone.revocation import Traits
from regional_keystone.roles import Lacking, Standing, standing
from regional_keystone.settings import Settings
from regional_keystone.shared import SharedFacts
from regional_keystone.token import (
    Delegation,
    Principal,
    ProjectScope,
    Scope,
    Token,
    Unscoped,
    unpack,
)

log = structlog.get_logger("validate")

_SECOND = 1_000_000
_SAY_AGAIN_S = 60.0  # of the same signer or key
_ATTEMPTS = 3
_NOBODY = "\x00"  # no user has this id
_ACTIONS = ("identity:validate_token", "identity:check_token")
_END = "identity:revoke_token"
_UNRECOGNIZED = "Could not recognize Fernet token"
_FAILED = "Failed to validate token"


class _Listing(Derived):
    """The catalog of everybody, until a service or an endpoint changes; and whether any project has one of its own."""

    __slots__ = ("catalog", "narrows")

    def __init__(self, reads: frozenset[Touch], position: int, catalog: Catalog, *, narrows: bool) -> None:
        super().__init__(_Listing, reads, position)
        self.catalog = catalog
        self.narrows = narrows


class _Offers(Derived):
    """The service providers that every token names, until one of them changes."""

    __slots__ = ("shown",)

    def __init__(self, reads: frozenset[Touch], position: int, shown: bytes) -> None:
        super().__init__(_Offers, reads, position)
        self.shown = shown


class Validator:
    """Says what a token is worth now. What it says is never older than the position of the replica when it is asked."""

    def __init__(
        self,
        reader: Positioned,
        knowledge: Knowledge,
        fastpath: FastPath,
        policy: Policy,
        *,
        clock: Clock,
        settings: Settings,
        shared: SharedFacts | None = None,
    ) -> None:
        """With `shared`, what another process of the region has found is not looked up again."""
        self._reader = reader
        self._knowledge = knowledge
        self._fastpath = fastpath
        self._policy = policy
        self._clock = clock
        self._settings = settings
        self._shared = shared
        self._under_way: dict[object, asyncio.Future[None]] = {}
        self.limits = Limits(settings.freshness, knowledge.age_s)
        self.beyond: Counter[str] = Counter()  # tokens beyond what their signer may sign for, by signer
        self.sealed = 0  # sealed tokens, by keys that are good, where those are refused
        self._said: dict[str, float] = {}
        self.active_until: Callable[[User], int | None] | None = None  # set where who does not log in is shut out

    async def proven(self, text: str, *, at_any_age: bool = False) -> tuple[Principal, frozenset[Touch]]:
        """The caller whom this token proves, and what that depends on, for a transaction that stands or falls with it.

        Raises Unauthenticated, and Unavailable if it cannot be known now.
        """
        try:
            verdict = await self.check(text, knows_rules=True, at_any_age=at_any_age)
        except NotFound:
            raise Unauthenticated from None
        return verdict.principal, verdict.facts.reads

    async def check(
        self, text: str, *, allow_expired: bool = False, knows_rules: bool = False, at_any_age: bool = False
    ) -> Verdict:
        """What a token says and is worth. Raises NotFound for one that is worth nothing; never repeats its text.

        With `allow_expired` it is shown for a while after its end, unless it was revoked. `knows_rules`: whoever asks
        will keep to the token's access rules; to others one that has some is worth nothing. `at_any_age`: what comes of
        it only takes away, so that `[freshness]` does not forbid it.
        """
        if not text:
            raise NotFound("No token in the request")
        try:
            canonical = jws.spelling(text)
        except NotAToken:
            raise NotFound(_UNRECOGNIZED) from None
        name = sha256(canonical.encode("ascii")).digest()
        found = self._fastpath.verdict(name, self._clock.now())
        found = found or await self._examined(name, canonical, allow_expired=allow_expired, at_any_age=at_any_age)
        within = found.facts.within
        if within is not None and within.allowed is not None and not knows_rules:
            raise NotFound(_FAILED)
        return found

    def shown(self, text: str, verdict: Verdict, asked_by: Scope) -> None:
        """The body of this verdict is the answer about `text`, as it was sent: whoever asked may keep it.

        `asked_by` is what the caller's token is for.
        """
        if self._fastpath.answered is not None:
            self._fastpath.answered.note(text, verdict, class_of(asked_by))

    async def facts(self, user_id: str, scope: Scope, delegation: Delegation | None = None) -> Facts:
        """Who the user is and has in the scope now, with the parts of the body that say so.

        Raises Lacking, and Forbidden where a delegation does not hold. Whether it has ended since is not asked.
        """
        key = (user_id, scope) if delegation is None else (user_id, scope, delegation)
        known = self._fastpath.recall(key)
        if isinstance(known, Facts):
            return known
        if key in self._under_way:  # somebody asks the same: what comes of it counts if it can be kept
            await asyncio.wait([self._under_way[key]])
            known = self._fastpath.recall(key)
            return known if isinstance(known, Facts) else await self._found(user_id, scope, delegation)
        self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            return await self._found(user_id, scope, delegation)
        finally:
            self._under_way.pop(key).set_result(None)

    async def catalog(self, project_id: str | None = None) -> Catalog:
        """What the tokens of a project show; without one, all that tokens without a project do."""
        return await self._narrowed(await self._listing(), Recording(self._reader), project_id)

    async def _examined(self, name: bytes, text: str, *, allow_expired: bool, at_any_age: bool) -> Verdict:
        token, signers = self._opened(text)
        self._check_times(token, allow_expired=allow_expired)
        _check_kind(token)
        try:
            facts = await self.facts(token.user_id, token.scope, token.delegation)
        except Lacking as lacking:
            self._check_known(token)
            raise NotFound(_told(lacking)) from None
        except Forbidden:
            self._check_known(token)
            raise NotFound(_FAILED) from None
        active_until = await self._active_until(token, facts)
        traits = _traits(token, facts)
        self._check_times(token, facts.within, allow_expired=allow_expired)
        if self._knowledge.index.voided(traits) or not all(map(self._knowledge.accepts_key, signers)):
            raise NotFound(_FAILED)  # asked last: it may have been condemned while the facts were looked up
        if not at_any_age:
            self.limits.check(token.scope)
        for one in signers:
            self._check_signer(one, token.scope, facts)
        verdict = self._verdict(name, signers, token, traits, facts, active_until)
        # Whoever asks for one with rules has to be asked what it understands; of several keys each is asked every time.
        if verdict.principal.allowed is None and len(signers) == 1:
            self._fastpath.remember(verdict)
        return verdict

    async def _active_until(self, token: Token, facts: Facts) -> int | None:
        """Until when its user, and by a trust its trustor, count as active; None: for ever. Raises NotFound where not.

        The facts depend on the same records, so what comes of it is forgotten with them. Where a login until that
        moment may have been made elsewhere, the user may be active: then the token counts for as long as `[freshness]`
        allows, and is asked about anew each time.
        """
        if self.active_until is None:
            return None
        trustor_id = facts.within.trustor_id if facts.within else None
        who = [await self._reader.get(User, one) for one in {token.user_id, trustor_id} if one is not None]
        ends = [end for user in who if user is not None and (end := self.active_until(user)) is not None]
        if any(self._clock.now() >= end and not self._knowledge.may_lack(end) for end in ends):
            self._check_known(token)  # an administrator may have enabled the user since, and the token be of then
            raise NotFound(_FAILED)
        return min(ends, default=None)

    def _opened(self, text: str) -> tuple[Token, tuple[str, ...]]:
        """The token, the id of the key that fitted and of those it is made of; both formats are read, always."""
        try:
            token, signers = self._unsigned(text) if jws.is_signed(text) else self._unsealed(text)
        except NoKeyFits as unknown:
            if self._knowledge.read_keys_again():
                return self._opened(text)
            if self._knowledge.may_lack_key(unknown.sealed_at):
                raise Unavailable("The key of this token may not have reached this region yet; try again.") from None
            raise NotFound(_UNRECOGNIZED) from None
        except NotAToken:
            raise NotFound(_UNRECOGNIZED) from None
        if not all(map(self._knowledge.accepts_key, signers)):  # keys are refused here and by the fast path alone
            if not self._knowledge.signers.reads_sealed and not jws.is_signed(text):
                self._refuse_sealed(token, *signers)
            raise NotFound(_UNRECOGNIZED)
        return token, signers

    def _refuse_sealed(self, token: Token, key: str) -> None:
        """Say so, loudly: none is issued any more. Raises Unavailable where it may have been, without our knowledge."""
        if self._knowledge.may_lack_key(token.issued_at):
            raise Unavailable("Whether sealed tokens are read again may not have reached this region yet; try again.")
        self.sealed += 1
        self._complain("sealed_token_refused", key, id=key, refused=self.sealed)

    def _unsealed(self, text: str) -> tuple[Token, tuple[str, ...]]:
        ring, methods = self._knowledge.ring, self._settings.auth.methods
        payload, issued_at, number = ring.open(text)
        return unpack(payload, issued_at, methods), (ring.key_ids[number],)

    def _unsigned(self, text: str) -> tuple[Token, tuple[str, ...]]:
        signed = jws.read(text)
        key = self._knowledge.signers.opener(signed)
        return signed.token(self._settings.auth.methods), (key, *signed.of)

    def _check_signer(self, key: str, scope: Scope, facts: Facts) -> None:
        """Refuse, loudly, a token for what its signer may not sign for. Nothing is awaited between this and its use."""
        signers = self._knowledge.signers
        owner = signers.owner(key)
        what = None if owner is None else signers.beyond(owner, scope, facts.domains)
        if owner is None or what is None:
            return
        self.beyond[owner] += 1
        self._complain("token_beyond_its_signer", owner, signer=owner, id=key, what=what, refused=self.beyond[owner])
        raise NotFound(_UNRECOGNIZED)

    def _complain(self, event: str, of: str, **more: object) -> None:
        ticks = self._clock.ticks()
        if ticks - self._said.get(of, float("-inf")) >= _SAY_AGAIN_S:
            self._said[of] = ticks
            log.error(event, **more)

    def _check_times(self, token: Token, within: Within | None = None, *, allow_expired: bool) -> None:
        now = self._clock.now()
        window = self._window_us() if allow_expired else 0
        if now >= token.expires_at + window or now < _not_before(token):
            raise NotFound(_FAILED)
        if within is not None and within.until is not None and now >= within.until:
            raise NotFound(_FAILED)

    def _window_us(self) -> int:
        wanted, kept = self._settings.token.allow_expired_window * _SECOND, self._knowledge.allow_expired_us
        return wanted if kept is None else min(wanted, kept)

    def _check_known(self, token: Token) -> None:
        """Refuse to say that a token is worth nothing where only what is known here is too old for it.

        Whatever it was made of may be newer than that. What is known to have ended it is asked apart, and holds.
        """
        if self._knowledge.index.voided(_traits(token)):
            return
        self.limits.check(token.scope)
        if self._knowledge.may_lack(token.issued_at):
            raise Unavailable("What this token rests on may not have reached this region yet; try again.")

    async def _found(self, user_id: str, scope: Scope, delegation: Delegation | None) -> Facts:
        if delegation is not None:
            return await self._found_within(user_id, scope, delegation)
        if self._shared is not None:
            bare = await self._shared.recall(user_id, scope)
            if bare is not None:
                found = await self._with_catalog(bare, user_id, scope)
                if self._fastpath.keep(found):
                    return found
        for _ in range(_ATTEMPTS):
            bare = await self._looked_up(user_id, scope)
            found = await self._with_catalog(bare, user_id, scope)
            if self._fastpath.keep(found):
                if self._shared is not None:
                    self._shared.offer(user_id, scope, bare)
                break
        return found

    async def _looked_up(self, user_id: str, scope: Scope) -> Facts:
        """The facts without their catalog."""
        recording = Recording(self._reader)
        found = await standing(recording, user_id, scope)
        return _facts((user_id, scope), recording.reads, int(recording.position), found, scope)

    async def _found_within(self, user_id: str, scope: Scope, delegation: Delegation) -> Facts:
        """The facts of a delegated token; these are not shared with other processes."""
        for _ in range(_ATTEMPTS):
            recording = Recording(self._reader)
            standing, within = await delegated(recording, user_id, scope, delegation, self._clock.now())
            key = (user_id, scope, delegation)
            bare = _facts(key, recording.reads, int(recording.position), standing, scope, within)
            found = await self._with_catalog(bare, within.trustor_id or user_id, scope)
            if self._fastpath.keep(found):
                break
        return found

    async def _with_catalog(self, bare: Facts, user_id: str, scope: Scope) -> Facts:
        offers = await self._offers()
        if isinstance(scope, Unscoped):
            position = min(bare.position, self._fastpath.holds_at(offers))
            return bare.with_catalog(b"", offers.shown, offers.reads, position)
        listing, recording = await self._listing(), Recording(self._reader)
        project_id = scope.project_id if isinstance(scope, ProjectScope) else None
        catalog = await self._narrowed(listing, recording, project_id)
        return bare.with_catalog(
            listed(catalog.rendered(user_id, project_id)),
            offers.shown,
            listing.reads | recording.reads | offers.reads,
            min(bare.position, *map(self._fastpath.holds_at, (listing, offers)), int(recording.position)),
        )

    async def _narrowed(self, listing: _Listing, recording: Recording, project_id: str | None) -> Catalog:
        """Asks what the project was given only where some project was given something."""
        asks = listing.narrows and project_id is not None
        return listing.catalog.narrowed(await chosen(recording, project_id) if asks and project_id else ())

    async def _offers(self) -> _Offers:
        known = self._fastpath.recall(_Offers)
        if isinstance(known, _Offers):
            return known
        recording = Recording(self._reader)
        shown = offered([one async for one in recording.scan(ServiceProvider)])
        offers = _Offers(recording.reads, int(recording.position), shown)
        self._fastpath.keep(offers)
        return offers

    async def _listing(self) -> _Listing:
        known = self._fastpath.recall(_Listing)
        if isinstance(known, _Listing):
            return known
        recording = Recording(self._reader)
        front = self._settings.listen.public_endpoint
        names = {"public_endpoint": front} if front else {}
        all_if_none = self._settings.endpoint_filter.return_all_endpoints_if_no_filter
        catalog = await visible(recording, names=names, all_if_none=all_if_none)
        asked = Recording(self._reader)
        narrows = await any_chosen(asked)
        if not narrows:  # the first that is given anything changes it for all; each after that for one project
            recording.depend(asked.reads)
        listing = _Listing(recording.reads, int(recording.position), catalog, narrows=narrows)
        self._fastpath.keep(listing)
        return listing

    def _verdict(
        self,
        name: bytes,
        keys: tuple[str, ...],
        token: Token,
        traits: Traits,
        facts: Facts,
        active_until: int | None,
    ) -> Verdict:
        principal = Principal(
            token=token,
            user=facts.who,
            project=facts.project,
            domain=facts.domain,
            roles=facts.roles,
            allowed=facts.within.allowed if facts.within else None,
            signers=keys if self._knowledge.signers.owner(keys[0]) is not None else (),
        )
        parts = own(token)
        return Verdict(
            digest=name,
            key=keys[0],
            traits=traits,
            facts=facts,
            principal=principal,
            head=parts.head,
            tail=parts.tail,
            not_before=_not_before(token),
            max_age_s=self.limits.of(token.scope),
            may=self._may(principal, facts),
            until=min((end for end in (facts.within and facts.within.until, active_until) if end), default=None),
        )

    def _may(self, principal: Principal, facts: Facts) -> tuple[bool, bool, bool, bool]:
        """Whether policy lets this caller validate anybody's token and its user's own, by GET and by HEAD.

        Asked once for all tokens of the same facts and methods: nothing else of a token is in the credentials of rules.
        Where a rule asks for more of a request, nothing is allowed beforehand.
        """
        known = facts.may.get(principal.token.methods)
        if known is None:
            known = facts.may[principal.token.methods] = self._asked(principal)
        return known

    def _asked(self, principal: Principal) -> tuple[bool, bool, bool, bool]:
        whose = (_NOBODY, principal.user_id)
        get, get_own, head, head_own = (
            self._permits(principal, action, user_id) for action in _ACTIONS for user_id in whose
        )
        return get, get_own, head, head_own

    def may_end(self, caller: Verdict, subject: Verdict) -> bool:
        """Whether policy lets this caller revoke that token; asked once, as `_may`. False: it has to be asked anew."""
        facts, principal = caller.facts, caller.principal
        known = facts.ends.get(principal.token.methods)
        if known is None:
            anybodys, own_ = (self._permits(principal, _END, whose) for whose in (_NOBODY, principal.user_id))
            known = facts.ends[principal.token.methods] = (anybodys, own_)
        return known[0] or (known[1] and principal.user_id == subject.token.user_id)

    def _permits(self, principal: Principal, action: str, user_id: str) -> bool:
        if not self._policy.foresees(action):
            return False
        try:
            self._policy.check(principal, action, {"target": {"token": {"user_id": user_id}}})
        except Forbidden:
            return False
        return True


def _check_kind(token: Token) -> None:
    """Refuse what acts for somebody through something that nothing here can make yet."""
    if token.access_token_id:
        raise NotFound(f"Could not find Access Token: {token.access_token_id}.")
    if token.identity_provider_id or token.protocol_id or token.group_ids:
        raise NotFound(f"Could not find Identity Provider: {token.identity_provider_id}.")
    if token.thumbprint:
        raise NotFound(_FAILED)


def _told(lacking: Lacking) -> str:
    """What a client is told: upstream says what is not there or disabled, but not that a role is gone."""
    return lacking.reason if lacking.reason.startswith(("Could not find", "Unable to")) else _FAILED


def _not_before(token: Token) -> int:
    return token.issued_at - int(SKEW_S * _SECOND)


def _traits(token: Token, facts: Facts | None = None) -> Traits:
    """What a revocation may ask for; without `facts` what the token itself says of that."""
    within = None if facts is None else facts.within
    return Traits(
        issued_at=token.issued_at,
        expires_at=token.expires_at,
        audit_id=token.audit_id,
        audit_chain_id=token.chain_id if len(token.audit_ids) > 1 else None,
        lines=token.lines,
        user_id=token.user_id,
        user_domain_id=facts.home_id if facts else None,
        assignment_domain_id=token.domain_id,
        project_id=token.project_id,
        role_ids=tuple(role.id for role in facts.roles) if facts else (),
        trust_id=token.trust_id,
        trustor_id=within.trustor_id if within else None,
        trustee_id=within.trustee_id if within else None,
    )


def _facts(
    key: object, reads: frozenset[Touch], position: int, found: Standing, scope: Scope, within: Within | None = None
) -> Facts:
    user, home = found.user, found.home
    if within is not None and within.acting is not None and within.home is not None:
        user, home = within.acting, within.home
    shown = within.shown if within else None
    parts = common(user, home, scope, found.project, found.domain, found.roles, shown)
    project = named(found.project, found.domain) if found.project else None
    return Facts(
        key,
        reads,
        position,
        who=named(user, home),
        home_id=found.home.id,
        project=project,
        domain=named(found.domain) if found.domain and project is None else None,
        roles=tuple(named(role) for role in found.roles),
        user=parts.user,
        rest=parts.rest,
        within=within,
    )
