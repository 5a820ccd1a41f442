"""Every kind of token that acts for somebody within what was handed on, and all the scopes that it could wish for."""

import uuid
from typing import NamedTuple

from tests.security.programs import by, program
from tests.security.regions import NAMES, Household
from tests.security.trusts import altered, trust, using

EC2 = ("ec2credential",)  # the method of a token that an EC2 key was exchanged for
SERVERS = {"service": "compute", "path": "/v2.1/servers", "method": "GET"}
CREATES = "/v3/users/{}/application_credentials"


class Handed(NamedTuple):
    """A token, as whom it acts, and how its own kind of delegation is called."""

    name: str
    token: str
    user_id: str

    @property
    def is_program(self):
        """Whether it was made with an application credential, and nothing else."""
        return self.name in ("restricted", "unrestricted")


class Estate(NamedTuple):
    """The household that hands on, the one that it is handed to, and what both hold besides.

    The owner has a role on its project, its domain, the system and `elsewhere`; what is handed on is the role `part`
    and that of a member, both on the project.
    """

    home: Household
    friend: Household
    elsewhere: dict
    own: str
    part: dict
    trust: dict
    other_trust: dict
    programs: dict

    def scopes(self):
        """Every scope that a token could be exchanged for; None: not a word of it."""
        return (
            None,
            "unscoped",
            {"unscoped": {}},
            {"project": {"id": self.home.project["id"]}},
            {"project": {"name": self.home.project["name"], "domain": {"id": self.home.domain["id"]}}},
            {"project": {"id": self.elsewhere["id"]}},
            {"domain": {"id": self.home.domain["id"]}},
            {"system": {"all": True}},
            {"OS-TRUST:trust": {"id": self.trust["id"]}},
            {"OS-TRUST:trust": {"id": self.other_trust["id"]}},
        )


def settle(regions, role="manager"):
    """A household with power in many places that has handed on a part of it by all means there are."""
    home, friend = regions.household(role=role), regions.household()
    elsewhere = regions.make("project", name=f"elsewhere {home.user['name']}", domain_id=home.domain["id"])
    part = regions.make("role", name=f"part of {home.user['name']}")
    user, role_id = f"users/{home.user['id']}", regions.roles[role]["id"]
    regions.grant(home.user, elsewhere, role)
    for place in (f"domains/{home.domain['id']}", "system"):
        regions.expect(204, "PUT", f"/v3/{place}/{user}/roles/{role_id}")
    regions.expect(204, "PUT", f"/v3/projects/{home.project['id']}/{user}/roles/{part['id']}")
    regions.expect(200, "PATCH", f"/v3/{user}", {"user": {"default_project_id": elsewhere["id"]}})
    own = regions.login(home.auth())
    handed = {"roles": [{"id": part["id"]}, {"name": "member"}]}
    made = [trust(regions, home, friend, own, impersonation=impersonation, **handed) for impersonation in (True, False)]
    programs = {
        name: program(regions, home, own, name=name, unrestricted=name == "unrestricted", **handed)
        for name in ("restricted", "unrestricted")
    }
    return Estate(home, friend, elsewhere, own, part, *made, programs)


def handed_on(regions, estate, at="Global"):
    """A token of each kind, made in this region."""
    owner, friend = estate.home.user["id"], estate.friend.user["id"]
    unscoped = regions.login(estate.friend.auth(None), at)
    trusts = [regions.login(using(one, unscoped), at) for one in (estate.trust, estate.other_trust)]
    found = [Handed("trust", trusts[0], owner), Handed("trust without impersonation", trusts[1], friend)]
    for name, made in estate.programs.items():
        token = regions.login(by(made), at)
        found += [Handed(name, token, owner), Handed(f"EC2 by {name}", altered(regions, token, methods=EC2), owner)]
    found.append(Handed("EC2 by trust", altered(regions, trusts[0], methods=EC2), owner))
    found.append(Handed("EC2", altered(regions, estate.own, methods=EC2), owner))
    return found


def unserved(regions, estate):
    """Tokens of kinds that nothing makes here yet: none is worth anything anywhere."""
    access = altered(regions, estate.own, methods=("oauth1",), access_token_id=uuid.uuid4().hex)
    found = [access, altered(regions, access, methods=EC2)]
    assert [regions.statuses(token) for token in found] == [[404] * len(NAMES)] * 2
    return found
