"""Effective roles: direct, by group, inherited, implied; and who has none."""

import pytest

from regional_keystone.log import put
from regional_keystone.model import Group, Implication, Membership, Project, Role, User
from regional_keystone.roles import Lacking, descendants, effective, expand, reachable, standing
from regional_keystone.token import DomainScope, ProjectScope, SystemScope, Unscoped
from tests.site.realm import ON_P, ROLE, P, U, grant, realm

D, G, CHILD, GRANDCHILD = "dd" * 16, "99" * 16, "c1" * 16, "c2" * 16


@pytest.fixture
async def place(tmp_path):
    async with realm(tmp_path) as made:
        made.change(
            put(Project(id=D, name="d", is_domain=True)),
            put(Project(id=CHILD, name="child", domain_id="default", parent_id=P)),
            put(Project(id=GRANDCHILD, name="grandchild", domain_id="default", parent_id=CHILD)),
            put(Group(id=G, name="g", domain_id="default")),
        )
        yield made


async def names(place, scope, user=U):
    return [role.name for role in await effective(place.overlay, user, scope)]


async def test_a_role_brings_what_it_implies_and_roles_are_in_order_of_name(place):
    assert await names(place, ON_P) == ["member", "reader"]
    place.change(put(grant(U, P, "admin")))
    assert await names(place, ON_P) == ["admin", "member", "reader"]


async def test_implications_in_a_circle_end(place):
    place.change(put(Implication(prior_role_id=ROLE["reader"], implied_role_id=ROLE["member"])))
    assert await names(place, ON_P) == ["member", "reader"]


async def test_members_have_the_roles_of_their_group_and_only_while_they_are_members(place):
    place.change(put(grant(G, P, "service", actor="group")))
    assert await names(place, ON_P) == ["member", "reader"]
    member = Membership(user_id=U, group_id=G)
    place.change(put(member))
    assert await names(place, ON_P) == ["member", "reader", "service"]
    await place.drop(member)
    assert await names(place, ON_P) == ["member", "reader"]


async def test_a_grant_to_a_group_whose_id_is_a_users_gives_that_user_nothing(place):
    place.change(put(grant(U, P, "service", actor="group")), put(grant(G, P, "service")))
    place.change(put(Membership(user_id=U, group_id=G)))
    assert await names(place, ON_P) == ["member", "reader"]


@pytest.mark.parametrize("target", ["project", "domain"])
async def test_an_inherited_role_counts_below_and_not_at_its_target(place, target):
    top = P if target == "project" else "default"
    place.change(put(grant(U, top, "service", target=target, inherited=True)))
    assert "service" in await names(place, ProjectScope(CHILD))
    assert "service" in await names(place, ProjectScope(GRANDCHILD))
    assert ("service" in await names(place, ON_P)) == (target == "domain")
    assert "service" not in await names(place, DomainScope("default"))


async def test_an_inherited_role_stays_in_its_branch(place):
    place.change(
        put(grant(U, CHILD, "service", inherited=True)), put(grant(U, D, "service", target="domain", inherited=True))
    )
    assert await names(place, ON_P) == ["member", "reader"]
    assert await names(place, ProjectScope(CHILD)) == []
    assert await names(place, ProjectScope(GRANDCHILD)) == ["service"]


async def test_a_role_on_a_project_is_none_on_its_domain_nor_on_the_system(place):
    assert await names(place, DomainScope("default")) == []
    assert await names(place, SystemScope()) == []
    assert await names(place, Unscoped()) == []
    place.change(put(grant(U, "system", "admin", target="system")))
    assert await names(place, SystemScope()) == ["admin", "member", "reader"]
    assert await names(place, ON_P) == ["member", "reader"]


async def test_a_role_of_a_domain_gives_what_it_implies_and_is_not_shown_itself(place):
    own = Role(id="e" * 32, name="own", domain_id="default")
    place.change(put(own), put(Implication(prior_role_id=own.id, implied_role_id=ROLE["service"])))
    place.change(put(grant(U, CHILD, own.id)))
    assert await names(place, ProjectScope(CHILD)) == ["service"]


async def test_reachable_is_where_effective_finds_roles(place):
    place.change(
        put(grant(G, "default", "service", target="domain", actor="group", inherited=True)),
        put(grant(U, D, "reader", target="domain")),
        put(grant(U, "system", "reader", target="system")),
        put(Membership(user_id=U, group_id=G)),
        put(User(id="ab" * 16, name="other", domain_id="default")),
        put(Membership(user_id="ab" * 16, group_id=G)),
    )
    found = {(one.target, one.target_id) for one in await reachable(place.overlay, U)}
    assert found == {("project", P), ("project", CHILD), ("project", GRANDCHILD), ("domain", D), ("system", "system")}
    for target, target_id in found:
        scope = {"project": ProjectScope(target_id), "domain": DomainScope(target_id), "system": SystemScope()}[target]
        here = {one.role_id for one in await reachable(place.overlay, U) if one.target_id == target_id}
        assert here == {role.id for role in await effective(place.overlay, U, scope)}
    assert {one.user_id for one in await reachable(place.overlay, U)} == {U}


def test_expansion_tells_by_which_way_a_role_comes():
    one = grant("g", "d", "member", target="domain", actor="group", inherited=True)
    found = list(expand([one], {"g": ["u", "v"]}, {"d": ["p"]}, {ROLE["member"]: [ROLE["reader"]]}))
    ways = [(each.user_id, each.target, each.target_id, each.role_id[0], each.prior_role_id) for each in found]
    assert ways == [
        ("u", "project", "p", "m", None),
        ("u", "project", "p", "r", ROLE["member"]),
        ("v", "project", "p", "m", None),
        ("v", "project", "p", "r", ROLE["member"]),
    ]
    assert all(each.grant is one for each in found)


async def test_a_tree_that_is_a_circle_ends(place):
    await place.replace(Project(id=P, name="p", domain_id="default", parent_id=GRANDCHILD))
    assert {one.id for one in await descendants(place.overlay, P)} == {CHILD, GRANDCHILD}
    assert await names(place, ProjectScope(GRANDCHILD)) == []


@pytest.mark.parametrize(
    ("gone", "reason"),
    [
        (User(id=U, name="u", domain_id="default", enabled=False), "account is disabled"),
        (Project(id=P, name="p", domain_id="default", parent_id="default", enabled=False), "project .* is disabled"),
        (Project(id="default", name="Default", is_domain=True, enabled=False), "domain default is disabled"),
    ],
)
async def test_whatever_is_disabled_takes_the_standing(place, gone, reason):
    assert (await standing(place.overlay, U, ON_P)).roles
    await place.replace(gone)
    with pytest.raises(Lacking, match=reason):
        await standing(place.overlay, U, ON_P)


@pytest.mark.parametrize(
    ("user", "scope", "reason"),
    [
        ("nobody", ON_P, "Could not find user"),
        (U, ProjectScope("nowhere"), "Could not find project"),
        (U, ProjectScope("default"), "Could not find project"),
        (U, DomainScope(P), "Could not find domain"),
        (U, DomainScope("default"), "no access to domain"),
        (U, SystemScope(), "no access to the system"),
        (U, ProjectScope(CHILD), "no access to project"),
    ],
)
async def test_no_standing_without_user_place_or_role(place, user, scope, reason):
    with pytest.raises(Lacking, match=reason):
        await standing(place.overlay, user, scope)
