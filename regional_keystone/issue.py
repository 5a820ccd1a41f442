"""From a proven identity and a wish for a scope to a sealed token: the one place where tokens are made.
Separate from validate: what is decided here is decided once, and stands in the token for good.
"""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from regional_keystone.attempts import Verifier
from regional_keystone.authenticate import METHODS, Evidence, Proof
from regional_keystone.delegation import is_used_up, trusted
from regional_keystone.document import Shared, body, own
from regional_keystone.errors import Forbidden, Unauthenticated, Unavailable, expecting
from regional_keystone.freshness import Limits
from regional_keystone.keys import KeyRing
from regional_keystone.model import ApplicationCredential, Project, Trust, User
from regional_keystone.passwords import recipe
from regional_keystone.ports import Clock, Reader
from regional_keystone.revocation import RevocationIndex, Traits
from regional_keystone.roles import Lacking
from regional_keystone.settings import Settings
from regional_keystone.signing import Signatory, Signers
from regional_keystone.token import (
    ByCredential,
    ByTrust,
    Delegation,
    DomainScope,
    Principal,
    ProjectScope,
    Scope,
    SystemScope,
    Token,
    Unscoped,
    child_audit_id,
    new_audit_id,
    pack,
)

SKEW_S = 60.0
"""How far ahead of another's clock a token's issue may lie; a place that is further ahead issues none."""

RETRY_S = 30
"""When to ask again a place that may not seal."""

_LOOKS = 3  # at a user whom revocations reach while it is looked at
_CHANGING = "This user is being changed just now; try again."

_KINDS = ("system", "project", "domain", "OS-TRUST:trust", "unscoped")
_CLASS_OF = {kind: kind for kind in _KINDS} | {"OS-TRUST:trust": "project"}
_SECOND = 1_000_000
_CREDENTIAL = "application_credential"
_NO_SCOPE = "Error authenticating with application credential: Application credentials cannot request a scope."


class Sealing(Protocol):
    """What issuing needs of a process' knowledge."""

    @property
    def ring(self) -> KeyRing:
        """The keys that seal now."""
        ...

    @property
    def signers(self) -> Signers:
        """Whose public keys count, and for what."""
        ...

    @property
    def index(self) -> RevocationIndex:
        """Which tokens are void."""
        ...

    @property
    def lifetime_us(self) -> int:
        """How long a token may live at most, as the ring says; 0 where it says nothing."""
        ...

    def why_not_seal(self) -> str | None:
        """Why no token may be sealed here now; None when it may."""
        ...

    def age_s(self) -> float:
        """How old what is known may be."""
        ...

    def ahead_s(self) -> float:
        """How far this process' clock is known to be ahead of the controllers'."""
        ...

    def accepts_key(self, key_id: str) -> bool:
        """Whether what this key has sealed or signed is taken for a token now."""
        ...

    def sealing_number(self) -> int:
        """The number of the key that seals now. Raises Unavailable if all of them are condemned, or not in use yet."""
        ...

    def note_issue(self, user_id: str, at: int, made_of: int | None = None) -> None:
        """Must be told of every token that is made, and when that was issued of which it was made, if it was."""
        ...

    def note_sealed(self, key_id: str, at: int) -> None:
        """Must be told which key has sealed it."""
        ...


Prepare = Callable[[str, Scope, Delegation | None], Awaitable[Shared]]
"""(user id, scope, delegation) -> what is in force there; raises Lacking if the user has nothing there, Forbidden if
nothing is handed on."""


class Aim(msgspec.Struct, frozen=True, kw_only=True):
    """What a token is to be for. `scope` None: the default; `trust` and `credential` are what it acts within."""

    scope: Scope | None = None
    trust: Trust | None = None
    credential: ApplicationCredential | None = None

    @property
    def delegation(self) -> Delegation | None:
        """What it acts within."""
        if self.trust is not None:
            return ByTrust(self.trust.id)
        return None if self.credential is None else ByCredential(self.credential.id)

    @property
    def until(self) -> int | None:
        """When that ends."""
        within = self.trust or self.credential
        return within.expires_at if within else None


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """What a client presents and wishes; its parts have the right types already.

    `data`: method -> what it needs; `scope` as the client said it, None for not a word; `principal` whom the token in
    `data` proves, and `traits` what may void that token.
    """

    methods: tuple[str, ...]
    data: Mapping[str, Any]
    scope: Mapping[str, Any] | str | None = None
    principal: Principal | None = None
    traits: Traits | None = None

    def __repr__(self) -> str:
        return f"Login(methods={self.methods!r}, scope={self.scope!r})"


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """A new token: its text, what it says, and the body of the answer with its catalog and without."""

    text: str
    token: Token
    body: bytes
    bare: bytes

    def __repr__(self) -> str:
        return f"Issued(token={self.token!r})"


class _Overtaken(Exception):
    """What was looked at has changed meanwhile."""


class Issuer:
    """Makes tokens out of proofs; `prepare` says who somebody is in a scope, for issuing and validating alike."""

    def __init__(
        self,
        reader: Reader,
        knowledge: Sealing,
        *,
        clock: Clock,
        settings: Settings,
        verifier: Verifier,
        signatory: Signatory | None = None,
    ) -> None:
        """With `signatory` tokens are signed, else sealed."""
        self._signatory = signatory
        self._verifier = verifier
        self._reader = reader
        self._knowledge = knowledge
        self._clock = clock
        self._settings = settings
        self._limits = Limits(settings.freshness, knowledge.age_s)

    async def issue(self, login: Login, prepare: Prepare) -> Issued:
        """The token that this login deserves.

        Raises Invalid for what is missing, Unauthenticated for what is wrong, Forbidden for a token that may not be
        exchanged, Unavailable where this place would not answer for the token, or changes do not let up. Source:
        keystone/api/_shared/authentication.py.
        """
        self._check_lease()
        self._check_clock()
        if self._signatory is None:
            self._knowledge.sealing_number()
        else:
            self._signatory.check()
        check_methods(login, self._settings.auth.methods)
        if _CREDENTIAL in login.methods and login.scope is not None:
            raise Unauthenticated(_NO_SCOPE)
        kinds = scope_kinds(login.scope)
        for name in _classes(login, kinds):  # before a name, a password or a role is called wrong, which may be new
            self._limits.check_class(name)
        for _ in range(_LOOKS):
            with suppress(_Overtaken):
                return await self._issued(login, kinds, prepare)
        raise Unavailable(_CHANGING)

    async def _issued(self, login: Login, kinds: frozenset[str], prepare: Prepare) -> Issued:
        """One look at all that the token is made of. Raises _Overtaken where it is to be looked at again."""
        aim = await self._aim(login.scope, kinds)
        proof = await self._proven(login, kinds)
        await self._check_factors(proof)
        if proof.credential is not None:
            aim = Aim(scope=ProjectScope(proof.credential.project_id), credential=proof.credential)
        try:
            if aim.scope is None:
                scope, prepared = await self._default(proof.user_id, prepare)
                aim = msgspec.structs.replace(aim, scope=scope)
            else:
                prepared = await prepare(proof.user_id, aim.scope, aim.delegation)
        except Lacking:
            raise Unauthenticated from None
        self._limits.check(aim.scope or Unscoped())
        self._check_revoked(login, proof)
        made_of = login.traits.issued_at if proof.made_from and login.traits is not None else None
        return self._sealed(proof, aim, prepared, made_of)

    def _check_revoked(self, login: Login, proof: Proof) -> None:
        """Refuse a proof that was revoked while it was looked at. Nothing is awaited between this and the token.

        Whether a password is right still shows at another look. What a token shown was made of does not: the answer of
        the place that issued it, behind the revocation, may be on its way.
        """
        index = self._knowledge.index
        if login.traits is not None and index.voided(login.traits):
            raise Unauthenticated
        if proof.reach is not None and index.reach(_all_of(proof.user_id)) > proof.reach:
            raise Unavailable(_CHANGING) if proof.made_from else _Overtaken

    def _check_lease(self) -> None:
        """Refuse to seal what others might have no key for when they see it."""
        if (why := self._knowledge.why_not_seal()) is not None:
            raise Unavailable(why, retry_after_s=RETRY_S)

    def _check_clock(self) -> None:
        """Refuse to date tokens so far ahead that they would outlive revocations which are made meanwhile."""
        if self._knowledge.ahead_s() > SKEW_S:
            raise Unavailable("The clock of this region is too fast to issue tokens.")

    async def _proven(self, login: Login, kinds: frozenset[str]) -> Proof:
        """One proof out of all methods, which must agree on the user."""
        proofs = [await METHODS[name](self._evidence(login, name, kinds)) for name in login.methods]
        if not proofs or len({proof.user_id for proof in proofs}) > 1:
            raise Unauthenticated
        known = self._settings.auth.methods
        named = {name for proof in proofs for name in proof.methods}
        return Proof(
            user_id=proofs[0].user_id,
            methods=tuple(name for name in reversed(known) if name in named),
            expires_at=next((proof.expires_at for proof in proofs if proof.expires_at is not None), None),
            made_from=next((proof.made_from for proof in proofs if proof.made_from), ()),
            signers=next((proof.signers for proof in proofs if proof.signers), ()),
            credential=next((proof.credential for proof in proofs if proof.credential is not None), None),
            reach=min((proof.reach for proof in proofs if proof.reach is not None), default=None),
        )

    def _evidence(self, login: Login, name: str, kinds: frozenset[str]) -> Evidence:
        return Evidence(
            reader=self._reader,
            data=login.data[name],
            verifier=self._verifier,
            rounds=recipe(self._settings.identity),
            now=self._clock.now(),
            principal=login.principal,
            scope_kinds=kinds,
            may_rescope=self._settings.token.allow_rescope_scoped_token,
            reach=lambda user_id: self._knowledge.index.reach(_all_of(user_id)),
        )

    async def _check_factors(self, proof: Proof) -> None:
        """Refuse a user whose rules ask for more methods. Stricter than upstream, which ignores unknown methods."""
        user = await self._reader.get(User, proof.user_id)
        options = user.options if user else {}
        rules = options.get("multi_factor_auth_rules") or []
        if rules and options.get("multi_factor_auth_enabled", True):
            asked = [set(rule) for rule in rules if rule]
            if not any(rule <= set(proof.methods) for rule in asked):
                raise Unauthenticated

    async def _default(self, user_id: str, prepare: Prepare) -> tuple[Scope, Shared]:
        """The user's default project if it can be used, else no scope."""
        user = await self._reader.get(User, user_id)
        if user is not None and user.default_project_id:
            scope = ProjectScope(user.default_project_id)
            try:
                return scope, await prepare(user_id, scope, None)
            except Lacking:
                pass
        return Unscoped(), await prepare(user_id, Unscoped(), None)

    async def _aim(self, said: Mapping[str, Any] | str | None, kinds: frozenset[str]) -> Aim:
        """What is asked for. Raises Invalid, and Unauthenticated for what is not there."""
        if said is None:
            return Aim()
        if isinstance(said, str) or "unscoped" in kinds:
            return Aim(scope=Unscoped())
        if "system" in kinds:
            return Aim(scope=SystemScope())
        if "project" in kinds:
            return Aim(scope=ProjectScope(await self._project_id(said["project"])))
        if "domain" in kinds:
            return Aim(scope=DomainScope(await self._domain_id(said["domain"])))
        return await self._by_trust(said["OS-TRUST:trust"])

    async def _by_trust(self, said: Mapping[str, Any]) -> Aim:
        """A trust that can be used. Raises Forbidden where the chain that it is part of does not hold."""
        if not said.get("id"):
            raise expecting("trust_id", "trust")
        try:
            trust = await trusted(self._reader, str(said["id"]), self._clock.now())
        except Lacking:
            raise Unauthenticated from None
        if is_used_up(trust):
            raise Unauthenticated
        return Aim(scope=Unscoped() if trust.project_id is None else ProjectScope(trust.project_id), trust=trust)

    async def _project_id(self, said: Mapping[str, Any]) -> str:
        if not said.get("name"):
            return str(said["id"])
        if "domain" not in said:
            raise expecting("domain", "project")
        domain_id = await self._domain_id(said["domain"])
        found = await self._reader.find(Project, domain_id=domain_id, name=said["name"])
        if not found:
            raise Unauthenticated
        return found[0].id

    async def _domain_id(self, said: Mapping[str, Any]) -> str:
        if not said.get("name"):
            return str(said["id"])
        found = await self._reader.find(Project, domain_id=None, name=said["name"])
        domain_id = next((one.id for one in found if one.is_domain), None)
        if domain_id is None:
            raise Unauthenticated
        return domain_id

    def _sealed(self, proof: Proof, aim: Aim, prepared: Shared, made_of: int | None) -> Issued:
        issued_at = self._clock.now() // _SECOND * _SECOND
        longest = (
            issued_at + self._settings.token.expiration * _SECOND if proof.expires_at is None else proof.expires_at
        )
        if self._knowledge.lifetime_us:  # the keys are kept for no longer
            longest = min(longest, issued_at + self._knowledge.lifetime_us)
        random, above = os.urandom(16), proof.made_from
        token = Token(
            user_id=proof.user_id,
            methods=proof.methods,
            scope=aim.scope or Unscoped(),
            expires_at=self._whole(longest if aim.until is None else min(longest, aim.until)),
            issued_at=issued_at,
            audit_ids=(child_audit_id(above, random), above[-1]) if above else (new_audit_id(random),),
            trust_id=aim.trust.id if aim.trust else None,
            application_credential_id=aim.credential.id if aim.credential else None,
        )
        self._check_signers(proof, token.scope, prepared)
        self._check_chain(token)
        text = self._written(token, prepared, proof.signers)
        for user_id in (token.user_id, *([aim.trust.trustor_user_id] if aim.trust else ())):
            self._knowledge.note_issue(user_id, issued_at, made_of)
        parts = own(token)
        return Issued(text=text, token=token, body=body(parts, prepared), bare=body(parts, prepared, catalog=False))

    def _whole(self, instant: int) -> int:
        """An expiry as it can be written: signed tokens know no part of a second."""
        return instant if self._signatory is None else instant // _SECOND * _SECOND

    def _check_chain(self, token: Token) -> None:
        """Refuse what is void as it is made: a strict revocation ends what its chain makes later as well."""
        chain = Traits(
            issued_at=token.issued_at,
            expires_at=token.expires_at,
            audit_id=token.audit_id,
            audit_chain_id=token.chain_id if len(token.audit_ids) > 1 else None,
            lines=token.lines,
        )
        if self._knowledge.index.voided(chain):
            raise Unauthenticated("A token of this chain was revoked: log in anew.")

    def _check_signers(self, proof: Proof, scope: Scope, prepared: Shared) -> None:
        """Refuse to make of a token what one of its signers could not have signed.

        A signed token says of what it was made, and is bound by it further on. A sealed one cannot; but then every site
        holds the keys that seal, and could have sealed it.
        """
        signers = self._knowledge.signers
        if proof.made_from and not proof.signers and not signers.reads_sealed:  # since it was looked at
            raise Unauthenticated
        for name in proof.signers:
            owner = signers.owner(name)
            if owner is None or not self._knowledge.accepts_key(name):
                raise Unauthenticated
            if (beyond := signers.beyond(owner, scope, prepared.domains)) is not None:
                raise Forbidden(f"The region that signed this token does not issue tokens for {beyond}: log in anew.")

    def _written(self, token: Token, prepared: Shared, of: Sequence[str]) -> str:
        """Sealed or signed. Raises Forbidden for what this place may not sign for."""
        methods, knowledge = self._settings.auth.methods, self._knowledge
        if self._signatory is None:
            ring, number = knowledge.ring, knowledge.sealing_number()
            text, key = ring.seal(pack(token, methods), token.issued_at, number=number), ring.key_ids[number]
        else:
            text, key = self._signatory.sign(token, prepared.domains, methods, of), self._signatory.key_id
        knowledge.note_sealed(key, token.issued_at)
        return text


def _classes(login: Login, kinds: frozenset[str]) -> frozenset[str]:
    """The classes of what may be issued, as far as that is known before it is known to whom."""
    if kinds:
        return frozenset(_CLASS_OF[kind] for kind in kinds)
    return frozenset({"project"} if _CREDENTIAL in login.methods else {"project", "unscoped"})


def _all_of(user_id: str) -> Traits:
    """What every token of a user has."""
    return Traits(issued_at=0, expires_at=0, audit_id="", user_id=user_id)


def check_methods(login: Login, known: tuple[str, ...]) -> None:
    """Raise Invalid for a method without its data, Unauthenticated for one that is not accepted here."""
    for name in login.methods:
        if name not in login.data:
            raise expecting(name, "identity")
    if any(name not in METHODS or name not in known for name in login.methods):
        raise Unauthenticated("Attempted to authenticate with an unsupported method.")


def scope_kinds(said: Mapping[str, Any] | str | None) -> frozenset[str]:
    """Which kinds of scope are asked for. Raises Invalid unless it is one, or nothing is said of scope at all."""
    if said is None:
        return frozenset()
    found = frozenset(kind for kind in _KINDS if kind in said)
    if len(found) != 1 or (isinstance(said, str) and found != {"unscoped"}):
        raise expecting("system, project, domain, OS-TRUST:trust or unscoped", "scope")
    return found
