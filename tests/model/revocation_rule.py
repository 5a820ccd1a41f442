"""What a token is worth, in plain dictionaries: upstream's rules written anew, with nothing of the product's but its rows.

`History` is told every entry of the log. It knows what was so at each position, and therefore what an answer may say
that claims to be as new as that.
"""

from bisect import bisect_right
from collections import defaultdict
from typing import NamedTuple

from regional_keystone.log import Put
from regional_keystone.model import (
    ApplicationCredential,
    Grant,
    Implication,
    Membership,
    Project,
    RevocationEvent,
    Role,
    Trust,
    User,
)
from regional_keystone.record import decode, facts

KINDS = {facts(kind).name: kind for kind in (
    ApplicationCredential, Grant, Implication, Membership, Project, Role, Trust, User,
)}  # fmt: skip
SECOND = 1_000_000
TRAITS = ("user_id", "project_id", "trust_id", "audit_id", "domain_id", "role_id", "expires_at")


class Known(NamedTuple):
    """A token as whoever asked for it knows it. `above`: the tokens that it was made from, the first login first.

    `site` issued it, and had heard of `position` when it was asked for it.
    """

    number: int
    text: str
    user_id: str
    scope: tuple[str, str]
    trust_id: str | None
    credential_id: str | None
    audit_id: str
    above: tuple[str, ...]
    issued_at: int
    expires_at: int
    site: str
    position: int


class State:
    """All rows at one position, and up to the next at which some changed; what was asked of them."""

    def __init__(self, position, tables):
        self.position = position
        self.tables = tables
        self.found = {}

    def get(self, table, *key):
        return self.tables[table].get(key)

    def worth(self, token):
        """The names of the roles that it shows; the reason why it is worth nothing, as text."""
        key = token.user_id, token.scope, token.trust_id, token.credential_id
        if key not in self.found:
            self.found[key] = self._worth(token)
        return self.found[key]

    def _worth(self, token):
        user = self.get("users", token.user_id)
        if user is None or not user.enabled or not self._is_open(user.domain_id):
            return "its user"
        kind, place = token.scope
        if kind in {"project", "domain"}:
            target = self.get("projects", place)
            if target is None or not target.enabled or target.is_domain != (kind == "domain"):
                return "its scope"
            if kind == "project" and not self._is_open(target.domain_id):
                return "the domain of its scope"
        if token.trust_id is not None:
            return self._by_trust(token)
        roles = self._roles(token.user_id, kind, place)
        if token.credential_id is not None:
            credential = self.get("application_credentials", token.credential_id)
            if credential is None or credential.user_id != token.user_id:
                return "its application credential"
            roles &= set(credential.role_ids)
        if not roles and kind != "unscoped":
            return "no role"
        return frozenset(roles)

    def _by_trust(self, token):
        trust = self.get("trusts", token.trust_id)
        if trust is None:
            return "its trust"
        trustor = self.get("users", trust.trustor_user_id)
        if trustor is None or not trustor.enabled or not self._is_open(trustor.domain_id):
            return "its trustor"
        wanted = self._implied(set(trust.role_ids))
        if not wanted <= self._roles(trust.trustor_user_id, "project", trust.project_id):
            return "what the trustor has"
        return frozenset(wanted) or "no role"

    def _is_open(self, domain_id):
        domain = self.get("projects", domain_id)
        return domain is not None and domain.enabled

    def _roles(self, user_id, kind, place):
        if kind == "unscoped":
            return set()
        groups = {one.group_id for one in self.tables["memberships"].values() if one.user_id == user_id}
        above = self._above(place) if kind == "project" else ()
        found = set()
        for grant in self.tables["grants"].values():
            if grant.actor_id == user_id or grant.actor_id in groups:
                here = (grant.target, grant.target_id) == (kind, place) and not grant.inherited
                if here or (grant.inherited and grant.target_id in above):
                    found.add(grant.role_id)
        return {role for role in self._implied(found) if self.get("roles", role) is not None}

    def _above(self, project_id):
        found = []
        while project_id is not None and project_id not in found:
            project = self.get("projects", project_id)
            if project is None:
                break
            found.append(project_id)
            project_id = project.parent_id
        return found[1:]

    def _implied(self, roles):
        found = set(roles)
        while True:
            more = {one.implied_role_id for one in self.tables["implications"].values() if one.prior_role_id in found}
            if more <= found:
                return found
            found |= more


class Events:
    """Revocations in the order of their positions: for each trait that they name the latest second, as it grew."""

    def __init__(self):
        self.by = defaultdict(lambda: ([], []))  # (trait, value) -> positions, the latest second by then
        self.many = []  # (position, second, traits) of those that name more than one trait
        self.made_from = {}  # the name of a line -> the audit id of the token that it begins with

    def add(self, position, event, before=None):
        """`before` is what was revoked just before in the same entry: the token whose line this may be."""
        traits = {name: getattr(event, name) for name in TRAITS if getattr(event, name) is not None}
        second = event.issued_before // SECOND
        if event.audit_chain_id is not None:
            assert before is not None, "a line ends only with the token that it begins with"
            assert before.audit_id is not None
            self.made_from[event.audit_chain_id] = before.audit_id
            traits["made_from"] = before.audit_id
        if len(traits) > 1:
            self.many.append((position, second, traits))
            return traits
        (one,) = traits.items()
        positions, seconds = self.by[one]
        positions.append(position)
        seconds.append(max(second, seconds[-1] if seconds else second))
        return traits

    def void(self, token, state, position):
        """The trait by which it is void at this position."""
        issued = token.issued_at // SECOND
        traits = self._traits(token, state)
        for one in traits:
            if one in self.by:
                positions, seconds = self.by[one]
                place = bisect_right(positions, position)
                if place and seconds[place - 1] >= issued:
                    return one[0]
        for at, second, wanted in self.many:
            if at <= position and second >= issued and self._fits(wanted, traits):
                return "+".join(sorted(wanted))
        return None

    def _fits(self, wanted, traits):
        for name, value in wanted.items():
            value = value // SECOND if name == "expires_at" else value  # noqa: PLW2901
            if name == "domain_id" and "expires_at" in wanted:
                name = "scope_domain_id"  # noqa: PLW2901
            if (name, value) not in traits:
                return False
        return True

    def _traits(self, token, state):
        kind, place = token.scope
        user = state.get("users", token.user_id)
        found = [("user_id", token.user_id), ("audit_id", token.audit_id)]
        found += [("made_from", one) for one in token.above]
        if kind == "project":
            found.append(("project_id", place))
        if kind == "domain":
            found += [("domain_id", place), ("scope_domain_id", place)]
        if user is not None:
            found.append(("domain_id", user.domain_id))
        if token.trust_id is not None:
            found.append(("trust_id", token.trust_id))
            trust = state.get("trusts", token.trust_id)
            if trust is not None:
                found += [("user_id", trust.trustor_user_id), ("user_id", trust.trustee_user_id)]
        if self.many:
            found.append(("expires_at", token.expires_at // SECOND))
            roles = state.worth(token)
            found += [("role_id", one) for one in roles] if isinstance(roles, frozenset) else []
        return found


class History:
    """The log, as far as it says what a token is worth."""

    def __init__(self):
        self.states = [State(0, {name: {} for name in KINDS})]
        self.events = Events()
        self.causes = defaultdict(
            list
        )  # user -> (position, second, the feed that it came from) of what ends all tokens
        self.kept = {}  # id -> keep_until, of the revocations in the log's table
        self._positions = [0]

    def at(self, position):
        """How things were there."""
        return self.states[bisect_right(self._positions, position) - 1]

    def entry(self, entry):
        """The log's next. Returns what it should have made void and did not, as text."""
        tables, changed = dict(self.states[-1].tables), set()
        owed, before = set(), None
        for change in entry.changes:
            if change.table == "revocations":
                if isinstance(change, Put):
                    before = self._revoked(entry, change, before, owed)
                else:
                    self.kept.pop(change.key[0], None)
            elif change.table in KINDS:
                if change.table not in changed:
                    tables[change.table] = dict(tables[change.table])
                    changed.add(change.table)
                owed |= self._changed(tables[change.table], change)
        for one in [one for one in owed if one[0] == "done"]:
            owed -= {one, one[1:]}
        if changed:
            self.states.append(State(entry.number, tables))
            self._positions.append(entry.number)
        return sorted(owed)

    def _revoked(self, entry, change, before, owed):
        event = decode(RevocationEvent, change.row)
        self.kept[event.id] = event.keep_until
        traits = self.events.add(entry.number, event, before)
        name = event.id.partition("/")[2]
        if set(traits) == {"user_id"} and not name.startswith("late/"):
            self.causes[event.user_id].append((entry.number, event.issued_before // SECOND, name.partition("/")[0]))
        for trait in ("user_id", "project_id", "trust_id"):
            if getattr(event, trait) is not None:
                owed.add(("done", trait, getattr(event, trait)))
        return event

    def _changed(self, rows, change):
        """Whose tokens end by this, as upstream's modules say: those of identity, resource and trust."""
        old = rows.get(change.key)
        if not isinstance(change, Put):
            rows.pop(change.key, None)
            if change.table == "users":
                return {("user_id", old.id)}
            if change.table == "projects":
                return {("project_id", old.id)}
            return {("trust_id", old.id)} if change.table == "trusts" else set()
        new = rows[change.key] = decode(KINDS[change.table], change.row)
        if change.table == "users" and old is not None:
            other = new.password_hash is not None and new.password_hash != old.password_hash
            if other or (old.enabled and not new.enabled):
                return {("user_id", new.id)}
        return set()

    def forget(self, before):
        """What nobody can claim any more."""
        place = bisect_right(self._positions, before) - 1
        if place > 200:
            del self.states[:place], self._positions[:place]
