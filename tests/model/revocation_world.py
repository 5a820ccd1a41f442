"""A federation that a seed drives through logins, revocations by every cause, and faults: one run of the second model."""

import asyncio
import json
from collections import deque
from typing import NamedTuple

from regional_keystone.document import instant, time
from regional_keystone.errors import IdentityError, Unknown
from regional_keystone.follow import APART_S
from regional_keystone.log import put
from regional_keystone.model import Grant, Group, Project, RevocationEvent, Role, User
from regional_keystone.overlay import transact
from regional_keystone.passwords import hash_password
from tests.model.judge import Violation
from tests.model.revocation_judge import Judge
from tests.model.revocation_nodes import EXPIRY_S, KEEP_S, LIMITS_S, Head, Region, around
from tests.model.revocation_rule import SECOND, Known
from tests.model.stores import Rows
from tests.model.world import CALM_S, World

USERS, PROJECTS, GROUPS = 6, 3, 2
ROLES = ("admin", "member", "reader", "manager", "service")
MOST_TOKENS, DEEPEST = 120, 3
ADMIN, HOME, OTHER = "root", "default", "elsewhere"
# how often each is drawn, in relation to the others
KINDS = {
    "validate": 260,
    "log in": 70,
    "rescope": 30,
    "use credential": 16,
    "use trust": 14,
    "make credential": 10,
    "make trust": 8,
    "revoke token": 24,
    "revoke all": 4,
    "change password": 6,
    "own password": 4,
    "disable user": 5,
    "enable user": 8,
    "delete user": 2,
    "disable project": 3,
    "enable project": 8,
    "disable domain": 2,
    "enable domain": 6,
    "delete project": 1,
    "take role": 12,
    "give role": 14,
    "leave group": 4,
    "join group": 6,
    "delete group": 2,
    "delete role": 1,
    "imply": 3,
    "imply no more": 3,
    "delete credential": 5,
    "delete trust": 4,
    "odd revocation": 3,
    "poison cache": 6,
    "garbage in cache": 3,
    "lose cache": 2,
    "keep house": 8,
    "lose replica": 2,
    "kill site": 3,
    "kill controller": 1,
    "stop site": 3,
    "stop controller": 1,
    "cut": 6,
    "hold": 3,
    "slow": 3,
    "lossy": 5,
    "disorder": 4,
    "shift clock": 3,
    "store away": 2,
    "lossy appends": 2,
    "lossy feed": 3,
    "prune": 3,
}


DATED_S = 3  # a token says its issue in whole seconds, by the clock of another place


class Moment(NamedTuple):
    """What a site was when it was asked, or answered; then also what it said."""

    position: int
    number: int
    now: int
    at: float
    status: int = 0
    roles: frozenset = frozenset()
    road: str = ""
    body: object = None
    allow_expired: bool = False
    may_be_unsure: bool = False


class RevocationWorld(World):
    """Users, their tokens, and whatever ends them."""

    kinds_drawn = KINDS
    made_of = Judge, Head, Region
    around = staticmethod(around)

    def __init__(self, seed, root, **more):
        self.tokens = deque(maxlen=MOST_TOKENS)
        self.numbered = 0
        self.passwords = {}
        self.secrets = {}  # application credential -> its secret and owner
        self.callers = {}
        self.away_s = {}
        self.begun = []  # whoever is killed at once has not begun what it was asked for
        super().__init__(seed, root, controllers=2, sites=2, turns_itself=False, **more)

    def _start(self, sites):
        super()._start(sites)
        self.do(self._furnish())
        self.do(self._renew_callers())
        self.until(lambda: not self._wrong(), CALM_S)

    # what there is

    async def _furnish(self):
        controller = next(iter(self.controllers.values()))
        hashed = await hash_password("root", 4)
        rows = [Project(id=one, name=one, is_domain=True) for one in (HOME, OTHER)]
        rows += [self._project_row(number) for number in range(PROJECTS)]
        rows += [Role(id=one, name=one) for one in ROLES]
        rows += [Group(id=f"g{number}", name=f"g{number}", domain_id=HOME) for number in range(GROUPS)]
        rows.append(User(id=ADMIN, name=ADMIN, domain_id=HOME, password_hash=hashed))
        rows.append(Project(id="office", name="office", domain_id=HOME, parent_id=HOME))
        rows += [
            Grant(actor_id=ADMIN, actor="user", target=target, target_id=place, role_id="admin")
            for target, place in (("system", "system"), ("project", "office"), ("domain", HOME))
        ]
        self.passwords[ADMIN] = "root"
        for number in range(USERS):
            rows += await self._user_rows(f"u{number}")
        rows += [
            Grant(actor_id=f"g{number}", actor="group", target="project", target_id=f"p{number}", role_id="reader")
            for number in range(GROUPS)
        ]

        async def decide(reader):
            del reader
            return [put(row) for row in rows], None

        await transact(controller.overlay, controller.sequencer, "furnish", decide)

    def _project_row(self, number):
        domain = OTHER if number == PROJECTS - 1 else HOME
        above = "p0" if number == 1 else domain
        return Project(id=f"p{number}", name=f"p{number}", domain_id=domain, parent_id=above)

    async def _user_rows(self, user_id):
        password = self.passwords[user_id] = f"secret {self.random.random()}"
        hashed = await hash_password(password, 4)
        domain = OTHER if user_id.endswith("5") else HOME
        row = User(id=user_id, name=user_id, domain_id=domain, password_hash=hashed)
        return [row, *(self._grant_row(user_id, f"p{number}", "member") for number in range(2))]

    def _grant_row(self, user_id, project_id, role):
        return Grant(actor_id=user_id, actor="user", target="project", target_id=project_id, role_id=role)

    @property
    def newest(self):
        """All rows, as the log's end has them."""
        return self.judge.history.states[-1]

    def _row(self, table, *, where=lambda row: True):
        found = [row for _, row in sorted(self.newest.tables[table].items()) if where(row)]
        return self.random.choice(found) if found else None

    def _user(self, **more):
        return self._row(
            "users", where=lambda row: row.id != ADMIN and all(getattr(row, k) == v for k, v in more.items())
        )

    def _project(self, **more):
        return self._row(
            "projects",
            where=lambda row: (
                not row.is_domain and row.id != "office" and all(getattr(row, k) == v for k, v in more.items())
            ),
        )

    # who asks

    async def _renew_callers(self):
        for kind, scope in (("system", {"system": {"all": True}}), ("project", {"project": {"id": "office"}})):
            for machine in (*self.sites.values(), *self.controllers.values()):
                if machine.answers:
                    token = await self._logged_in(
                        machine, ADMIN, "root", scope, (kind, "system" if kind == "system" else "office")
                    )
                    if token is not None:
                        self.callers[kind] = token
                        break

    def _caller(self):
        kind = self.random.choice(("system", "project", "project"))
        return self.callers[kind]

    async def _attend(self):
        """Administrators log in again in time."""
        old = min(token.expires_at for token in self.callers.values()) if len(self.callers) > 1 else 0
        if old - next(iter(self.sites.values())).clock.now() < EXPIRY_S * SECOND // 2:
            await self._renew_callers()

    async def _logged_in(self, machine, user_id, password, said, scope, above=None):
        proof = {"methods": ["password"], "password": {"user": {"id": user_id, "password": password}}}
        return await self._issued(machine, {"identity": proof, "scope": said}, user_id, scope)

    async def _issued(self, machine, auth, user_id, scope, *, above=(), trust_id=None, credential_id=None):
        status, headers, body = await machine.ask("POST", "/v3/auth/tokens", body={"auth": auth})
        position = machine.follower.position  # what is applied while somebody logs in is upstream's race as well
        self.count(f"login {status}")
        if status != 201:
            return None
        shown = body["token"]
        self.numbered += 1
        token = Known(
            number=self.numbered,
            text=headers["X-Subject-Token"],
            user_id=user_id,
            scope=scope,
            trust_id=trust_id,
            credential_id=credential_id,
            audit_id=shown["audit_ids"][0],
            above=above,
            issued_at=instant(shown["issued_at"]),
            expires_at=instant(shown["expires_at"]),
            site=machine.name,
            position=position,
        )
        self.tell(
            f"{machine.name} issues {token.number} to {user_id} for {scope}, second {token.issued_at // SECOND % 1000}"
        )
        self.judge.issued(token)
        if user_id != ADMIN:
            self.tokens.append(token)
        return token

    def _answering(self, places=None):
        found = [one for one in (places or self.sites).values() if one.answers]
        return self.random.choice(found) if found else None

    def _token(self, where=lambda token: True):
        now = int(next(iter(self.sites.values())).clock.now())
        found = [one for one in self.tokens if one.expires_at > now and where(one)]
        return self.random.choice(found) if found else None

    def _spawn(self, machine, coroutine):
        self.begun.append(coroutine)
        self.loop.spawn(machine.process, self._quietly(coroutine))
        return True

    async def _quietly(self, coroutine):
        try:
            await coroutine
        except Violation as broken:
            self.loop.failures.append(broken)

    # what is asked of sites

    def _validate(self):
        site = self._answering()
        if site is None or not self.tokens:
            return False
        chosen = [self.random.choice(self.tokens) for _ in range(self.random.randrange(1, 6))]
        return self._spawn(site, self._validates(site, chosen))

    async def _validates(self, site, tokens):
        for token in tokens:
            await self._asks(site, token, allow_expired=self.random.random() < 0.15)

    async def _asks(self, site, token, *, allow_expired=False):
        caller = self._caller()
        asked = self._moment(site, number=self.judge.acknowledged.get(site.name, 0))
        road, roles = "fast", frozenset()
        said = None if allow_expired else site.door.fastpath.ask(caller.text, token.text, False, asked.now)
        if said is not None:
            status, body = 200, said
        else:
            road = "long"
            query = "&allow_expired=1" if allow_expired else ""
            status, _, body = await site.ask(
                "GET", f"/v3/auth/tokens?nocatalog{query}", caller.text, **{"x-subject-token": token.text}
            )
        if status == 200:
            roles = _roles_in(body)
        if status == 401:  # it is about who asks
            token, status, allow_expired = caller, 404, False
        self.judge.answered(
            site,
            token,
            asked,
            self._moment(
                site,
                # a snapshot shows before it is begun with
                position=max(site.follower.position, site.replica.applied),
                number=site.fed.head,
                status=status,
                roles=roles,
                road=road,
                body=body if status != 200 else None,
                allow_expired=allow_expired,
                may_be_unsure=self._may_be_unsure(site, token, caller, asked),
            ),
        )

    def _moment(self, site, **more):
        now = {"position": site.follower.position, "number": 0, "now": site.clock.now(), "at": self.loop.time()}
        return Moment(**(now | more))

    def _may_be_unsure(self, site, token, caller, asked):
        limit = min(LIMITS_S.get(one.scope[0], 1e9) for one in (token, caller))
        age_s = site.follower.age_s()
        known_at = (
            site.clock.now() - min(age_s, 1e9) * SECOND
        )  # what a token rests on may be newer, and dated by a slower clock
        newer = age_s > APART_S and any(one.issued_at + DATED_S * SECOND > known_at for one in (token, caller))
        return age_s > limit or newer or site.faults.away or self.away_s.get(site.name, -1.0) >= asked.at

    def _log_in(self):
        user, place = self._user(), self._answering({**self.sites, **self.controllers})
        if place is None or user is None or user.id not in self.passwords:
            return False
        said, scope = self._wish()
        return self._spawn(place, self._logged_in(place, user.id, self.passwords[user.id], said, scope))

    def _wish(self):
        draw = self.random.random()
        if draw < 0.75:
            project = f"p{self.random.randrange(PROJECTS)}"
            return {"project": {"id": project}}, ("project", project)
        if draw < 0.85:
            return {"domain": {"id": HOME}}, ("domain", HOME)
        if draw < 0.9:
            return {"system": {"all": True}}, ("system", "system")
        return "unscoped", ("unscoped", "")

    def _rescope(self):
        token = self._token(lambda one: not (one.trust_id or one.credential_id) and len(one.above) < DEEPEST)
        place = self._answering({**self.sites, **self.controllers})
        if token is None or place is None:
            return False
        said, scope = self._wish()
        auth = {"identity": {"methods": ["token"], "token": {"id": token.text}}, "scope": said}
        above = (*token.above, token.audit_id)
        return self._spawn(place, self._issued(place, auth, token.user_id, scope, above=above))

    def _use_credential(self):
        credential, place = self._row("application_credentials"), self._answering({**self.sites, **self.controllers})
        if credential is None or place is None or credential.id not in self.secrets:
            return False
        proof = {"id": credential.id, "secret": self.secrets[credential.id]}
        auth = {"identity": {"methods": ["application_credential"], "application_credential": proof}}
        scope = ("project", credential.project_id)
        return self._spawn(place, self._issued(place, auth, credential.user_id, scope, credential_id=credential.id))

    def _use_trust(self):
        trust, place = self._row("trusts"), self._answering({**self.sites, **self.controllers})
        if trust is None or place is None or trust.trustee_user_id not in self.passwords:
            return False
        user = {"id": trust.trustee_user_id, "password": self.passwords[trust.trustee_user_id]}
        auth = {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"OS-TRUST:trust": {"id": trust.id}},
        }
        scope = ("project", trust.project_id)
        return self._spawn(place, self._issued(place, auth, trust.trustee_user_id, scope, trust_id=trust.id))

    def _revoke_token(self):
        token, place = self._token(), self._answering({**self.sites, **self.controllers})
        if token is None or place is None:
            return False
        return self._spawn(place, self._revokes(place, token, alone=self.random.random() < 0.3))

    async def _revokes(self, place, token, *, alone):
        query = "?cascade=false" if alone else ""
        headers = {"x-subject-token": token.text}
        status, _, _ = await place.ask("DELETE", f"/v3/auth/tokens{query}", self._caller().text, **headers)
        self.count(f"revoke {status}")
        if status == 204:
            self.tell(f"{place.name} has revoked {token.number}{' alone' if alone else ''}")
            self._promised(place, token)

    def _promised(self, place, token):
        self.judge.promised.append(token)
        if place.name in self.sites:
            self.judge.acknowledged[place.name] = place.feed.number

    def _revoke_all(self):
        user, place = self._user(), self._answering({**self.sites, **self.controllers})
        if user is None or place is None:
            return False
        return self._spawn(place, self._revokes_all(place, user.id))

    async def _revokes_all(self, place, user_id):
        before = [one for one in self.tokens if one.user_id == user_id and one.site == place.name]
        status, _, _ = await place.ask("DELETE", f"/v3/users/{user_id}/tokens", self._caller().text)
        self.count(f"revoke all {status}")
        if status == 204:
            self.tell(f"{place.name} has revoked all of {user_id}")
            for token in before[:3]:
                self._promised(place, token)

    # what is changed

    def _changes(self, method, path, body=None, *, token=None, then=None):
        places = self.controllers if self.random.random() < 0.6 else {**self.controllers, **self.sites}
        place = self._answering(places)
        if place is None:
            return False
        return self._spawn(place, self._changed(place, method, path, body, token, then))

    async def _changed(self, place, method, path, body, token, then):
        status, _, answer = await place.ask(method, path, (token or self._caller()).text, body=body)
        self.count(f"change {status}")
        self.tell(f"{place.name} answers {method} {path} with {status}")
        if then is not None and status < 300:
            then(answer)

    def _change_password(self):
        user = self._user()
        return user is not None and self._passes_to(user.id, "PATCH", f"/v3/users/{user.id}", "user")

    def _passes_to(self, user_id, method, path, name, token=None, **more):
        password = f"secret {self.random.random()}"

        def then(answer):
            del answer
            self.passwords[user_id] = password

        return self._changes(method, path, {name: {"password": password, **more}}, token=token, then=then)

    def _own_password(self):
        user = self._user()
        if user is None or user.id not in self.passwords:
            return False
        token = self._token(lambda one: one.user_id == user.id and not (one.trust_id or one.credential_id))
        if token is None:
            return False
        old = self.passwords[user.id]
        return self._passes_to(user.id, "POST", f"/v3/users/{user.id}/password", "user", token, original_password=old)

    def _switch(self, row, table, *, on):
        name = "user" if table == "users" else "domain" if row is not None and row.is_domain else "project"
        return row is not None and self._changes("PATCH", f"/v3/{name}s/{row.id}", {name: {"enabled": on}})

    def _disable_user(self):
        return self._switch(self._user(enabled=True), "users", on=False)

    def _enable_user(self):
        return self._switch(self._user(enabled=False), "users", on=True)

    def _disable_project(self):
        return self._switch(self._project(enabled=True), "projects", on=False)

    def _enable_project(self):
        return self._switch(self._project(enabled=False), "projects", on=True)

    def _domain(self, *, enabled):
        return self._row("projects", where=lambda row: row.id == OTHER and row.enabled == enabled)

    def _disable_domain(self):
        return self._switch(self._domain(enabled=True), "projects", on=False)

    def _enable_domain(self):
        return self._switch(self._domain(enabled=False), "projects", on=True)

    def _delete_user(self):
        user = self._user()
        if user is None:
            return False

        def then(answer):
            del answer
            self._spawn(self._any_controller(), self._born())

        return self._changes("DELETE", f"/v3/users/{user.id}", then=then)

    def _any_controller(self):
        return self._some_controller() or next(iter(self.controllers.values()))

    async def _born(self):
        controller = self._some_controller()
        if controller is None:
            return
        self.numbered += 1
        name = f"v{self.numbered}{self.random.randrange(10)}"
        rows = await self._user_rows(name)
        await self._puts(controller, name, rows)

    async def _puts(self, controller, name, rows):
        async def decide(reader):
            for row in rows:
                if isinstance(row, Grant) and await reader.get(Project, row.target_id) is None:
                    return [], None
            return [put(row) for row in rows], None

        try:
            await transact(controller.overlay, controller.sequencer, f"born/{name}", decide)
        except (IdentityError, Unknown):
            self.count("birth failed")

    def _delete_project(self):
        project = self._row("projects", where=lambda row: row.id == f"p{PROJECTS - 1}")
        if project is None:
            controller = self._some_controller()
            if controller is None:
                return False
            name = f"project/{self.deeds}"
            return self._spawn(controller, self._puts(controller, name, [self._project_row(PROJECTS - 1)]))
        return self._changes("DELETE", f"/v3/projects/{project.id}")

    def _take_role(self):
        grant = self._row("grants", where=lambda row: row.actor_id != ADMIN)
        return grant is not None and self._changes("DELETE", _path(grant))

    def _give_role(self):
        user, project, role = self._user(), self._project(), self.random.choice(("member", "reader", "manager"))
        if user is None or project is None:
            return False
        draw = self.random.random()
        actor = ("users", user.id) if draw < 0.8 else ("groups", f"g{self.random.randrange(GROUPS)}")
        place = ("projects", project.id)
        if draw > 0.9 or draw < 0.15:
            place = ("domains", HOME)
        inherits = self.random.random() < 0.2
        path = f"/{place[0]}/{place[1]}/{actor[0]}/{actor[1]}/roles/{role}"
        if draw < 0.03:
            return self._changes("PUT", f"/v3/system/users/{user.id}/roles/{role}")
        return self._changes("PUT", f"/v3/OS-INHERIT{path}/inherited_to_projects" if inherits else f"/v3{path}")

    def _leave_group(self):
        one = self._row("memberships")
        return one is not None and self._changes("DELETE", f"/v3/groups/{one.group_id}/users/{one.user_id}")

    def _join_group(self):
        user = self._user()
        group = f"g{self.random.randrange(GROUPS)}"
        return user is not None and self._changes("PUT", f"/v3/groups/{group}/users/{user.id}")

    def _delete_group(self):
        name = f"g{self.random.randrange(GROUPS)}"
        controller = self._some_controller()
        if controller is None:
            return False

        def then(answer):
            del answer
            grant = Grant(actor_id=name, actor="group", target="project", target_id="p0", role_id="reader")
            rows = [Group(id=name, name=name, domain_id=HOME), grant]
            self._spawn(self._any_controller(), self._puts(self._any_controller(), f"{name}/{self.deeds}", rows))

        return self._changes("DELETE", f"/v3/groups/{name}", then=then)

    def _delete_role(self):
        role = self._row("roles", where=lambda row: row.id == "manager")
        if role is not None:
            return self._changes("DELETE", "/v3/roles/manager")
        controller = self._some_controller()
        if controller is None:
            return False
        rows = [Role(id="manager", name="manager")]
        return self._spawn(controller, self._puts(controller, f"role/{self.deeds}", rows))

    def _imply(self):
        prior, implied = self.random.sample(("member", "reader", "manager"), 2)
        return self._changes("PUT", f"/v3/roles/{prior}/implies/{implied}")

    def _imply_no_more(self):
        one = self._row("implications")
        return one is not None and self._changes(
            "DELETE", f"/v3/roles/{one.prior_role_id}/implies/{one.implied_role_id}"
        )

    def _make_credential(self):
        token = self._token(lambda one: one.scope[0] == "project" and not (one.trust_id or one.credential_id))
        if token is None:
            return False
        body = {"application_credential": {"name": f"c{self.deeds}", "secret": f"s{self.deeds}"}}

        def then(answer):
            self.secrets[answer["application_credential"]["id"]] = answer["application_credential"]["secret"]

        return self._changes("POST", f"/v3/users/{token.user_id}/application_credentials", body, token=token, then=then)

    def _delete_credential(self):
        one = self._row("application_credentials")
        if one is None:
            return False
        return self._changes("DELETE", f"/v3/users/{one.user_id}/application_credentials/{one.id}")

    def _make_trust(self):
        token = self._token(lambda one: one.scope[0] == "project" and not (one.trust_id or one.credential_id))
        trustee = self._user()
        if token is None or trustee is None:
            return False
        trust = {
            "trustor_user_id": token.user_id,
            "trustee_user_id": trustee.id,
            "project_id": token.scope[1],
            "impersonation": self.random.random() < 0.5,
            "roles": [{"id": self.random.choice(("member", "reader"))}],
        }
        if self.random.random() < 0.5:
            ends = next(iter(self.sites.values())).clock.now() + self.random.randrange(3, EXPIRY_S) * SECOND
            trust["expires_at"] = time(ends)
        return self._changes("POST", "/v3/OS-TRUST/trusts", {"trust": trust}, token=token)

    def _delete_trust(self):
        one = self._row("trusts")
        token = one and self._token(lambda token: token.user_id == one.trustor_user_id and token.trust_id is None)
        return token is not None and self._changes("DELETE", f"/v3/OS-TRUST/trusts/{one.id}", token=token)

    def _odd_revocation(self):
        """One that names more than one trait, as upstream's rule knows them."""
        token, controller = self._token(), self._some_controller()
        if token is None or controller is None:
            return False
        state = self.newest
        user = state.get("users", token.user_id)
        if user is None:
            return False
        roles = state.worth(token)
        choices = {
            "user_id": token.user_id,
            "domain_id": self.random.choice((user.domain_id, HOME)),
            "expires_at": token.expires_at,
            "role_id": self.random.choice(sorted(roles)) if isinstance(roles, frozenset) and roles else "member",
        }
        if token.scope[0] == "project":
            choices["project_id"] = token.scope[1]
        if token.trust_id:
            choices["trust_id"] = token.trust_id
        names = self.random.sample(sorted(choices), 2)
        now = controller.clock.now()
        event = RevocationEvent(
            id=f"odd{self.deeds}",
            issued_before=now - self.random.randrange(3 * SECOND),
            revoked_at=now,
            keep_until=now + int(KEEP_S * SECOND),
            **{name: choices[name] for name in names},
        )
        return self._spawn(controller, self._puts(controller, event.id, [event]))

    # faults of their own

    def _poison_cache(self):
        site = self._some_site(running=False)
        if site is None or not site.cache.old:
            return False
        for _ in range(10):
            name, entry = self.random.choice(site.cache.old)
            site.cache.entries[name] = entry
        return True

    def _garbage_in_cache(self):
        site = self._some_site(running=False)
        if site is None or len(site.cache.entries) < 2:
            return False
        names = sorted(site.cache.entries)
        one, other = self.random.sample(names, 2)
        site.cache.entries[one] = self.random.choice((site.cache.entries[other], site.cache.entries[one][:-1], b"x"))
        return True

    def _lose_cache(self):
        site = self._some_site(running=False)
        if site is not None:
            site.cache.entries.clear()
        return site is not None

    def _keep_house(self):
        controller = self._some_controller()
        return controller is not None and self._spawn(controller, controller.keep_house())

    def _lose_replica(self):
        site = self._some_site(running=False)
        if site is None:
            return False
        if site.runs:
            self._kill(site)
        self.tell(f"the replica of {site.name} is lost")
        site.replica = Rows()  # when it last lived is noted beside it
        return True

    def _lossy_feed(self):
        site = self._some_site(running=False)
        site.faults.lossy = 0.4

        def well():
            site.faults.lossy = 0.0

        self._later(4.0, well)
        return True

    def _store_away(self):
        machine = self.random.choice([*self.sites.values(), *self.controllers.values()])
        machine.faults.away = True

        self._later(4.0, lambda: self._back(machine))
        return True

    def _back(self, machine):
        if machine.faults.away:
            machine.faults.away = False
            self.away_s[machine.name] = self.loop.time()

    # the run

    def act(self, kind):
        super().act(kind)
        if self.deeds % 20 == 0:
            place = self._answering({**self.sites, **self.controllers})
            if place is not None:
                self._spawn(place, self._attend())
            self.judge.history.forget(min(site.replica.applied for site in self.sites.values()))

    def step(self, until=float("inf")):
        self.loop.step(until)
        if self.loop.failures:
            raise self.loop.failures[0]

    def close(self):
        super().close()
        for one in self.begun:
            one.close()

    def _wrong(self):
        head = self.rows.head
        return [
            f"{site.name} at {site.replica.applied} of {head}, owes {site.feed.pending() if site.ready else '?'}"
            for site in self.sites.values()
            if not site.ready or site.replica.applied < head or site.feed.pending() or site.follower.age_s() > 2.5
        ]

    def rest(self):
        """Faults end. Without anybody's help all sites know all, and nothing that was promised is lost."""
        self.tell("all faults end")
        for machine in (*self.controllers.values(), *self.sites.values()):
            self._back(machine)
            machine.faults.lossy = 0.0
            if not machine.runs:
                machine.begin()
            else:
                machine.process.stopped_until = 0.0
        for site in self.sites.values():
            self._mend(site)
        if not self.until(lambda: not self._wrong(), CALM_S):
            raise Violation(f"INV-24: {CALM_S} s after the last fault not all is known: {self._wrong()}")
        self.do(self._quietly(self._renew_callers()))
        self.until(lambda: not self._wrong(), CALM_S)
        self._nothing_is_lost()
        self._index_is_bounded()
        for site in self.sites.values():
            self.do(self._all_at(site))
            if self.loop.failures:
                raise self.loop.failures[0]

    async def _all_at(self, site):
        task = self.loop.spawn(site.process, self._quietly(self._validates(site, list(self.tokens))))
        while not task.done():
            await asyncio.sleep(0.01)

    def _nothing_is_lost(self):
        head, state = self.rows.head, self.newest
        for token in self.judge.promised:
            if self.judge.history.events.void(token, state, head) is None:
                raise Violation(f"INV-24: that {token.number} is revoked was promised, and the log does not say it")
        self.count("promises kept")
        self.judge.promised.clear()

    def _index_is_bounded(self):
        for machine in (*self.sites.values(), *self.controllers.values()):
            now = machine.clock.now()
            machine.follower.index.expire(now)
            live = sum(until > now - 61 * SECOND for until in self.judge.history.kept.values())
            if machine.ready and len(machine.follower.index) > 2 * live + 20:
                raise Violation(f"INV-19: {machine.name} keeps {len(machine.follower.index)} revocations of {live}")


def _path(grant):
    place = "system" if grant.target == "system" else f"{grant.target}s/{grant.target_id}"
    path = f"/{place}/{grant.actor}s/{grant.actor_id}/roles/{grant.role_id}"
    return f"/v3/OS-INHERIT{path}/inherited_to_projects" if grant.inherited else f"/v3{path}"


def _roles_in(body):
    token = (json.loads(body) if isinstance(body, bytes) else body)["token"]
    return frozenset(role["id"] for role in token.get("roles", ()))
