"""Tokens over HTTP: issue, show, revoke; and what a token's holder can do with it: catalog and scopes.

Source: keystone/api/auth.py, keystone/api/os_revoke.py.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec

from regional_keystone.api.auth_body import login
from regional_keystone.api.shapes import Call, Resource, Result, Route, Shape, about_itself
from regional_keystone.api.tree import DOMAINS, PROJECTS
from regional_keystone.api.verbs import allowed, listing, seen
from regional_keystone.delegation import is_used_up
from regional_keystone.document import instant, time
from regional_keystone.errors import Forbidden, Invalid, NotFound, Unauthenticated
from regional_keystone.fastpath import Verdict
from regional_keystone.issue import Issuer
from regional_keystone.log import Change, put
from regional_keystone.model import Project, RevocationEvent, Trust, User
from regional_keystone.record import spread
from regional_keystone.roles import reachable
from regional_keystone.token import Token
from regional_keystone.validate import Validator
from regional_keystone.watermarks import WATERMARK, Singles, furthest

_END = "identity:revoke_token"
_FORESEEN = frozenset(("identity:validate_token", "identity:check_token", _END))
_RULES_VERSION = 1.0
_TRUE = frozenset(("1", "t", "true", "on", "y", "yes"))
_FALSE = frozenset(("0", "f", "false", "off", "n", "no"))
_SHOWN = ("user_id", "role_id", "domain_id", "project_id", "audit_id", "audit_chain_id")
_SHOWN_OTHERWISE = {
    "trust_id": "OS-TRUST:trust_id",
    "consumer_id": "OS-OAUTH1:consumer_id",
    "access_token_id": "OS-OAUTH1:access_token_id",
}


def shapes(
    issuer: Issuer,
    validator: Validator,
    keep_s: float,
    shown_s: float = 0.0,
    most_singles: int = 0,
    *,
    strict_chain: bool = False,
) -> list[Shape]:
    """The routes below /auth, and those of revocation.

    `keep_s`: for how long a token made now may matter. `shown_s`: for how long one matters after its end.
    `most_singles`: how many of their own tokens users may revoke one by one while that is kept; 0: without end.
    `strict_chain`: revoking a token that was made from another voids all of its chain from its second on.
    """
    singles = Singles(most_singles, keep_s)
    tokens = _Tokens(issuer, validator, keep_s, shown_s, singles, strict_chain=strict_chain)
    return [
        Route(method="POST", path="/auth/tokens", handle=tokens.issue, weigh=_weigh, open=True),
        Route(method="GET", path="/auth/tokens", handle=tokens.show),
        Route(method="DELETE", path="/auth/tokens", handle=tokens.revoke, changes="own", ends_subject=True),
        Route(method="GET", path="/auth/tokens/OS-PKI/revoked", handle=_revoked, open=True),
        Route(method="GET", path="/auth/catalog", handle=tokens.catalog),
        Route(method="GET", path="/auth/system", handle=_system),
        *(
            Route(method="GET", path=f"/{above}/{resource.collection}", handle=partial(_scopes, resource=resource))
            for above in ("auth", "OS-FEDERATION")
            for resource in (PROJECTS, DOMAINS)
        ),
        Route(method="GET", path="/OS-REVOKE/events", handle=_events),
        Route(method="DELETE", path="/users/{user_id}/tokens", handle=tokens.revoke_all, changes="own"),
    ]


class _Tokens:
    """/auth/tokens: the handlers that need the services behind them."""

    def __init__(
        self,
        issuer: Issuer,
        validator: Validator,
        keep_s: float,
        shown_s: float,
        singles: Singles,
        *,
        strict_chain: bool,
    ) -> None:
        self._issuer = issuer
        self._validator = validator
        self._keep_s = keep_s
        self._shown_s = shown_s
        self._singles = singles
        self._strict_chain = strict_chain

    async def issue(self, call: Call) -> Result:
        """A token for what the body presents."""
        asked = login(call.body)
        if "token" in asked.methods and "token" in asked.data:
            shown = await self._validator.check(asked.data["token"]["id"])
            asked = msgspec.structs.replace(asked, principal=shown.principal, traits=shown.traits)
        issued = await call.once("token", lambda: self._issuer.issue(asked, self._validator.facts))
        body = issued.bare if call.query("nocatalog") is not None else issued.body
        changes = await _used(call, issued.token.trust_id) if issued.token.trust_id else ()
        return Result(status=201, body=body, headers={"X-Subject-Token": issued.text}, changes=changes)

    async def show(self, call: Call) -> Result:
        """What a token is worth, to those who may know."""
        action = "identity:check_token" if call.request.method == "HEAD" else "identity:validate_token"
        verdict = await self._subject(call, action, allow_expired=_is_on(call.query("allow_expired")))
        body, text = verdict.body(catalog=call.query("nocatalog") is None), call.request.headers["x-subject-token"]
        if call.request.method == "GET":
            self._validator.shown(text, verdict, call.caller.token.scope)
        return Result(body=body, headers={"X-Subject-Token": text})

    async def revoke(self, call: Call) -> Result:
        """The end of a token, and of all that were made from it unless the query says `cascade=false`."""
        ends_all = _cascades(call.query("cascade"))
        token = (await self._subject(call, _END)).token
        if await call.once("single", partial(self._is_one_too_many, call, token)):
            return Result(status=204, changes=(await _watermark(call, token, self._keep_s),))
        void = partial(
            RevocationEvent,
            revoked_at=call.now,
            # a token of another place, with other settings, may live longer than those that are made here
            keep_until=max(_after(call.now, self._keep_s), _after(token.expires_at, self._shown_s)),
        )
        own = void(id=call.fresh("token"), issued_before=max(call.now, token.issued_at), audit_id=token.audit_id)
        if not ends_all:
            return Result(status=204, changes=(put(own),))
        # Whatever another region still makes from it, before it hears of this, is void as well: hence its expiry.
        made = void(id=call.fresh("made from it"), issued_before=token.expires_at, audit_chain_id=token.line)
        strict = _later(token, void, call) if self._strict_chain else ()
        return Result(status=204, changes=(put(own), put(made), *strict))

    async def _is_one_too_many(self, call: Call, token: Token) -> bool:
        """Whether its holder has revoked so many of their own tokens one by one that all of them go now."""
        if call.caller.token.user_id != token.user_id or token.issued_at > call.now:
            return False
        return self._singles.too_many(token.trust_id or token.user_id, call.now)

    async def revoke_all(self, call: Call) -> Result:
        """The end of every token of a user."""
        user_id = call.path["user_id"]
        await allowed(call, User, "user", "revoke_tokens_for_user")
        event = RevocationEvent(
            id=call.fresh("user"),
            user_id=user_id,
            issued_before=call.now,
            revoked_at=call.now,
            keep_until=_after(call.now, self._keep_s),
        )
        return Result(status=204, changes=(put(event),))

    async def catalog(self, call: Call) -> Result:
        """The catalog that the caller's token shows."""
        call.enforce("identity:get_auth_catalog")
        project = call.caller.project
        if project is None:
            raise Forbidden
        found = (await self._validator.catalog(project.id)).visible(call.caller.user_id, project.id)
        return Result(body={"catalog": found, "links": {"self": call.url("/auth/catalog")}})

    async def _subject(self, call: Call, action: str, *, allow_expired: bool = False) -> Verdict:
        """The token that is asked about; first whether it is one, then whether the caller may ask, as upstream."""
        text = call.request.headers.get("x-subject-token", "")
        if not text:
            call.enforce(action)
            raise NotFound("No token in the request")
        knows = _knows_rules(call.request.headers.get("openstack-identity-access-rules", ""))
        ends = action == _END  # which takes away and grants nothing: of how old a knowledge it may be done at any time
        verdict = await self._validator.check(text, allow_expired=allow_expired, knows_rules=knows, at_any_age=ends)
        if not (action in _FORESEEN and await self._foreseen(call, action, verdict)):
            about = {"user_id": verdict.token.user_id, "user": {"domain": {"id": verdict.principal.user.domain_id}}}
            call.enforce(action, {"target": {"token": about}})
        return verdict

    async def _foreseen(self, call: Call, action: str, subject: Verdict) -> bool:
        """Whether policy was asked this for the caller's verdict already, and said yes."""
        own, ends_itself = call.request.headers["x-auth-token"], action == _END and about_itself(call.request)
        caller = await self._validator.check(own, knows_rules=True, at_any_age=ends_itself)
        if action == _END:
            return self._validator.may_end(caller, subject)
        return caller.permits(subject, head=call.request.method == "HEAD")


def _later(token: Token, void: Callable[..., RevocationEvent], call: Call) -> tuple[Change, ...]:
    """What voids all of a token's chain that is not older, the first of it by its own name; nothing for the first."""
    if token.audit_id == token.chain_id:
        return ()
    void = partial(void, issued_before=0, issued_from=token.issued_at)
    return (
        put(void(id=call.fresh("its chain"), audit_chain_id=token.chain_id)),
        put(void(id=call.fresh("the first of it"), audit_id=token.chain_id)),
    )


async def _watermark(call: Call, token: Token, keep_s: float) -> Change:
    """The end of all that the holder of this token has, or has by the same trust; one row, however often it comes."""
    user_id = None if token.trust_id else token.user_id
    name = spread(f"{WATERMARK}{token.trust_id or token.user_id}")
    old = await call.reader.get(RevocationEvent, name)
    now, keep_until = call.now, _after(call.now, keep_s)
    event = RevocationEvent(
        id=name, issued_before=now, revoked_at=now, keep_until=keep_until, user_id=user_id, trust_id=token.trust_id
    )
    return put(furthest(event, old), old)


async def _weigh(call: Call) -> str:
    """A login that uses up a part of a trust is a change, made where all changes are; every other changes nothing."""
    found: Any = call.body
    for name in ("auth", "scope", "OS-TRUST:trust", "id"):
        found = found.get(name) if isinstance(found, dict) else None
    trust = await call.reader.get(Trust, found) if isinstance(found, str) else None
    return "no" if trust is None or trust.remaining_uses is None else "log"


async def _used(call: Call, trust_id: str) -> tuple[Change, ...]:
    """One use less, if uses are counted. Raises Unauthenticated if none is left by now."""
    trust = await call.reader.get(Trust, trust_id)
    if trust is None or is_used_up(trust):
        raise Unauthenticated
    if trust.remaining_uses is None:
        return ()
    return (put(msgspec.structs.replace(trust, remaining_uses=trust.remaining_uses - 1), trust),)


def _after(instant: int, seconds: float) -> int:
    return instant + int(seconds * 1_000_000)


def _knows_rules(version: str) -> bool:
    """Whether a service says that it keeps to the access rules of application credentials."""
    try:
        return float(version) >= _RULES_VERSION
    except ValueError:
        return False


async def _revoked(call: Call) -> Result:
    """The list of revoked tokens, which nobody has kept since tokens became stateless."""
    del call
    raise Forbidden


async def _scopes(call: Call, *, resource: Resource) -> Result:
    """The projects, or the domains, where the caller has a role; also those that are disabled, as upstream does."""
    call.enforce(f"identity:get_auth_{resource.collection}")
    found = await reachable(call.reader, call.caller.user_id)
    ids = sorted({one.target_id for one in found if one.target == resource.member})
    records = [record for record in [await call.reader.get(Project, one) for one in ids] if record]
    wanted = [record for record in records if resource is PROJECTS or record.is_domain]
    body = listing(call, resource.collection, [await seen(call, resource, record) for record in wanted])
    return Result(body=body)


async def _system(call: Call) -> Result:
    """Whether the caller could ask for a token of the system."""
    call.enforce("identity:get_auth_system")
    found = await reachable(call.reader, call.caller.user_id)
    system = [{"all": True}] if any(one.target == "system" for one in found) else []
    return Result(body={"system": system, "links": {"self": call.url("/auth/system")}})


async def _events(call: Call) -> Result:
    """The revocations that count, as upstream shows them."""
    call.enforce("identity:list_revoke_events")
    since = call.query("since")
    try:
        after = instant(since) if since else 0
    except ValueError:
        raise Invalid(f"invalidate date format {since}") from None
    events = [_event(one) async for one in call.reader.scan(RevocationEvent) if one.revoked_at >= after]
    links = {"next": None, "self": call.url("/OS-REVOKE/events"), "previous": None}
    return Result(body={"events": events, "links": links})


def _event(event: RevocationEvent) -> dict[str, Any]:
    found = _set(event, ((name, name) for name in _SHOWN)) | _set(event, _SHOWN_OTHERWISE.items())
    if event.expires_at is not None:
        found["expires_at"] = f"{time(event.expires_at)[:19]}Z"
    return found | {"issued_before": time(event.issued_before), "revoked_at": time(event.revoked_at)}


def _set(event: RevocationEvent, names: Iterable[tuple[str, str]]) -> dict[str, Any]:
    values = ((shown, getattr(event, name)) for name, shown in names)
    return {shown: value for shown, value in values if value is not None}


def _cascades(value: str | None) -> bool:
    """Whether what was made of a token ends with it. Raises Invalid for a word that may mean either."""
    word = (value or "true").strip().lower()
    if word not in _TRUE | _FALSE:
        raise Invalid(
            f"cascade={word[:32]} says neither: leave it out, or say cascade=false to spare what was made of it."
        )
    return word in _TRUE


def _is_on(value: str | None) -> bool:
    return (value or "").strip().lower() in _TRUE
