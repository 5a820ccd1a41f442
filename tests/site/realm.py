"""One replica with everything that issues and validates, without a federation around it: for tests of decisions."""

import json
import uuid
from contextlib import asynccontextmanager
from pathlib import Path

from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.api import assignment, auth, catalog, identity, projects
from regional_keystone.api.serve import Api
from regional_keystone.attempts import Uncounted
from regional_keystone.fastpath import FastPath
from regional_keystone.follow import revocation
from regional_keystone.issue import Issuer, Login
from regional_keystone.keys import KeyRing
from regional_keystone.log import Collision, Entry, Position, Put, disturbed, put, remove
from regional_keystone.messages import Request
from regional_keystone.model import (
    Endpoint,
    Grant,
    Implication,
    Project,
    Region,
    RevocationEvent,
    Role,
    Service,
    User,
)
from regional_keystone.overlay import Overlay
from regional_keystone.passwords import hash_password
from regional_keystone.policy import Policy
from regional_keystone.record import decode
from regional_keystone.revocation import RevocationIndex
from regional_keystone.settings import Freshness, Settings, Token
from regional_keystone.settings import Identity as IdentitySettings
from regional_keystone.signing import Signers
from regional_keystone.token import ProjectScope
from regional_keystone.validate import Validator
from tests.stand_ins import ManualClock

U, P = "aa" * 16, "bb" * 16
ROLE = {name: name[0] * 32 for name in ("admin", "member", "reader", "service")}
SCOPE_P = {"project": {"id": P}}
SYSTEM = {"system": {"all": True}}
ON_P = ProjectScope(P)
KEEP_S = 180_000.0
PASSWORD = "correct horse"
KEYS = [bytes([65 + number]) * 42 + b"A=" for number in range(6)]
SETTINGS = Settings(
    identity=IdentitySettings(password_hash_rounds=4), token=Token(expiration=3600), freshness=Freshness(system=30.0)
)


class Known:
    """Knowledge that a test turns by hand."""

    def __init__(self) -> None:
        self.ring = KeyRing({0: KEYS[0], 1: KEYS[1]}, 1)
        self.signers = Signers()
        self.index = RevocationIndex()
        self.position = 0
        self.age = 0.0
        self.lacks_key = False
        self.lacks = False
        self.ahead = 0.0
        self.refused = None
        self.lifetime_us = 0
        self.allow_expired_us = None
        self.issued, self.made_of = [], []
        self.sealed = []

    def age_s(self) -> float:
        return self.age

    def read_keys_again(self) -> bool:
        return False

    def accepts_key(self, key_id: str) -> bool:
        return key_id in self.ring.ids or key_id in self.signers.ids

    def may_lack(self, made_at: int) -> bool:
        return self.lacks

    def may_lack_key(self, sealed_at: int) -> bool:
        return self.lacks_key

    def why_not_seal(self) -> str | None:
        return self.refused

    def ahead_s(self) -> float:
        return self.ahead

    def sealing_number(self) -> int:
        return self.ring.primary

    def note_issue(self, user_id: str, at: int, made_of: int | None = None) -> None:
        self.issued.append((user_id, at))
        self.made_of.append(made_of)

    def note_sealed(self, key_id: str, at: int) -> None:
        self.sealed.append(key_id)


class Realm:
    """A replica whose log is written directly; `change` is what a follower does with an entry."""

    def __init__(self, store: Sqlite, settings: Settings = SETTINGS, remembered: int = 1000) -> None:
        self.clock = ManualClock()
        self.known = Known()
        self.overlay = Overlay(store)
        self.settings = settings
        self.fastpath = FastPath(self.known, remembered)
        self.policy = Policy()
        self.validator = self.another_validator(self.fastpath)
        self.issuer = Issuer(self.overlay, self.known, clock=self.clock, settings=settings, verifier=Uncounted(4))

    def another_validator(self, fastpath: FastPath) -> Validator:
        """The long road over the same replica, with a memory of its own."""
        return Validator(self.overlay, self.known, fastpath, self.policy, clock=self.clock, settings=self.settings)

    def forgetful(self) -> Validator:
        """The long road that has to look everything up."""
        return self.another_validator(FastPath(self.known, 10))

    def change(self, *changes) -> int:
        number = self.overlay.position + 1
        entry = Entry(number, f"test/{number}", self.clock.now(), tuple(changes))
        self.overlay.note((entry,))
        for one in changes:
            if one.table == "revocations" and isinstance(one, Put):
                event = decode(RevocationEvent, one.row)
                self.known.index.add(revocation(event), event.keep_until)
        self.known.position = number
        self.fastpath.disturb(number, disturbed(changes))
        return number

    async def replace(self, record):
        """Store a record in the place of what is there."""
        from regional_keystone.record import facts

        old = await self.overlay.get(type(record), *facts(type(record)).key_of(record))
        self.change(put(record, old))
        return record

    async def drop(self, record) -> None:
        self.change(remove(record))

    def revoke(self, **traits) -> None:
        now = self.clock.now()
        event = {"id": uuid.uuid4().hex, "issued_before": now, "revoked_at": now, "keep_until": now + 10**12}
        self.change(put(RevocationEvent(**{**event, **traits})))

    # a Committer, so that an Api can write
    async def commit(self, transaction) -> Position:
        if transaction.position < self.overlay.position:
            raise Collision
        return Position(self.change(*transaction.changes))

    @asynccontextmanager
    async def alone(self):
        yield

    def api(self, keep_s: float = KEEP_S, shown_s: float = 0.0) -> Api:
        strict = self.settings.token.strict_chain
        shapes = [*auth.shapes(self.issuer, self.validator, keep_s, shown_s, strict_chain=strict)]
        for module in (catalog, projects, identity, assignment):
            shapes += module.SHAPES
        return Api(
            shapes,
            reader=self.overlay,
            committer=self,
            prove=self.validator.proven,
            policy=self.policy,
            clock=self.clock,
            keep_s=keep_s,
        )

    async def furnish(self) -> None:
        """Domain default, project p under it, user u with role member (which implies reader) on p; catalog of two regions."""
        hashed = await hash_password(PASSWORD, 4)
        self.change(
            put(Project(id="default", name="Default", is_domain=True)),
            put(Project(id=P, name="p", domain_id="default", parent_id="default")),
            put(User(id=U, name="u", domain_id="default", password_hash=hashed)),
            *(put(Role(id=ROLE[name], name=name)) for name in ROLE),
            put(Implication(prior_role_id=ROLE["admin"], implied_role_id=ROLE["member"])),
            put(Implication(prior_role_id=ROLE["member"], implied_role_id=ROLE["reader"])),
            put(grant(U, P, "member")),
            put(Service(id="s" * 32, type="identity", name="keystone")),
            *(put(Region(id=name)) for name in ("RegionOne", "RegionTwo")),
            *(put(endpoint(name, f"http://{name}/v3")) for name in ("RegionOne", "RegionTwo")),
        )

    async def login(self, scope=None, *, password=PASSWORD, user=U):
        data = {"password": {"user": {"id": user, "password": password}}}
        return await self.issuer.issue(Login(methods=("password",), data=data, scope=scope), self.validator.facts)

    async def rescope(self, text, scope=None):
        verdict = await self.validator.check(text)
        login = Login(
            methods=("token",),
            data={"token": {"id": text}},
            scope=scope,
            principal=verdict.principal,
            traits=verdict.traits,
        )
        return await self.issuer.issue(login, self.validator.facts)


def grant(actor_id, target_id, role, *, target="project", actor="user", inherited=False) -> Grant:
    return Grant(
        actor_id=actor_id,
        actor=actor,
        target=target,
        target_id=target_id,
        role_id=ROLE.get(role, role),
        inherited=inherited,
    )


def endpoint(region, url, *, interface="public", service_id="s" * 32, **more) -> Endpoint:
    return Endpoint(
        id=uuid.uuid5(uuid.NAMESPACE_URL, f"{region}{url}{interface}").hex,
        service_id=service_id,
        interface=interface,
        url=url,
        region_id=region,
        **more,
    )


@asynccontextmanager
async def realm(directory: Path, *, furnished=True, **options):
    store = await Sqlite.open(directory / "replica.db")
    try:
        made = Realm(store, **options)
        await made.overlay.start()
        if furnished:
            await made.furnish()
        yield made
    finally:
        await store.close()


async def ask(api: Api, method: str, path: str, *, token="", subject="", body=None, headers=None):
    """(status, headers, parsed body) of one request to an Api."""
    path, _, query = path.partition("?")
    pairs = tuple((name, value) for name, _, value in (part.partition("=") for part in query.split("&") if part))
    given = {"x-auth-token": token, "x-subject-token": subject, "content-type": "application/json", **(headers or {})}
    response = await api.answer(
        Request(
            id=uuid.uuid4().hex,
            method=method,
            path=path,
            query=pairs,
            headers={name: value for name, value in given.items() if value},
            body=b"" if body is None else json.dumps(body).encode(),
            base_url="http://here",
        )
    )
    return response.status, response.headers, json.loads(response.body) if response.body else None
