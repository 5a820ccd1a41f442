"""Catalogs of projects that were given some endpoints: theirs alone, shared where they are equal, true at every moment."""

import json
from dataclasses import replace

import pytest

from regional_keystone.catalog import Catalog
from regional_keystone.log import put, remove
from regional_keystone.model import EndpointGroup, Project, ProjectEndpoint, ProjectEndpointGroup, Service, User
from regional_keystone.settings import EndpointFilter
from regional_keystone.token import DomainScope, ProjectScope
from tests.site.realm import ON_P, SETTINGS, P, U, endpoint, grant, realm

S, BARE = Service(id="s" * 32, type="identity"), Service(id="t" * 32, type="volume")
A, B = endpoint("R", "http://a"), endpoint("R", "http://b", interface="internal")
OFF, OWN = endpoint("R", "http://off", enabled=False), endpoint("R", "http://x/$(project_id)s")
GROUP = EndpointGroup(id="g" * 32, name="g", filters={"interface": "internal"})
Q = ProjectScope("dd" * 16)


def catalog(*endpoints, **how):
    return Catalog([S, BARE], endpoints or (A, B, OFF), groups=[GROUP], **how)


def urls(found, project="p"):
    return [one["url"] for service in found.visible("u", project) for one in service["endpoints"]]


def test_what_was_given_is_shown_and_services_without_it_are_not():
    found = catalog().narrowed([A.id])
    assert [one["id"] for one in found.visible("u", "p")] == [S.id]
    assert urls(found) == ["http://a"]
    assert sorted(urls(catalog().narrowed([A.id, GROUP.id]))) == ["http://a", "http://b"]


def test_nothing_given_is_everything_or_nothing():
    whole, none = catalog(), catalog(all_if_none=False)
    for chosen in ((), ["unknown"], ["unknown", "other"]):
        assert whole.narrowed(chosen) is whole
        assert none.narrowed(chosen).rendered("u", "p") == b"[]"
    assert urls(none.narrowed([A.id])) == ["http://a"]


def test_a_disabled_endpoint_is_given_and_not_shown():
    assert catalog().narrowed([OFF.id]).rendered("u", "p") == b"[]"


def test_an_endpoint_that_cannot_be_completed_takes_its_service_along():
    found = catalog(A, OWN).narrowed([OWN.id])
    assert urls(found) == ["http://x/p"]
    assert found.visible("u", None) == []


def test_equal_choices_are_one_object():
    whole = catalog()
    given = whole.narrowed([B.id]).rendered("u", "p")
    assert whole.narrowed([GROUP.id]).rendered("v", "q") is given
    assert whole.narrowed(()).rendered("v", "q") is whole.rendered("u", "p")


def test_choices_are_kept_within_bounds():
    ends = [endpoint("R", f"http://{number}") for number in range(1500)]
    whole = catalog(*ends)
    for one in ends:
        assert urls(whole.narrowed([one.id])) == [one.url]
    assert len(whole._narrowed) <= 1000


@pytest.fixture
async def place(tmp_path):
    async with realm(tmp_path) as made:
        made.change(
            put(Project(id=Q.project_id, name="q", domain_id="default", parent_id="default")),
            put(grant(U, Q.project_id, "member")),
        )
        yield made


async def shown(place, scope=ON_P):
    """The places in the catalog of this scope; equal to what someone without memory says."""
    facts = await place.validator.facts(U, scope)
    assert facts.catalog == (await place.forgetful().facts(U, scope)).catalog
    found = json.loads(facts.catalog.removeprefix(b',"catalog":'))
    return [one["region"] for service in found for one in service["endpoints"]]


def given(place, region, project=P):
    return ProjectEndpoint(project_id=project, endpoint_id=endpoint(region, f"http://{region}/v3").id)


async def test_the_first_and_every_other_association_counts_at_once(place):
    assert await shown(place) == ["RegionOne", "RegionTwo"]
    place.change(put(given(place, "RegionOne", Q.project_id)))  # the first of all is another project's
    assert await shown(place) == ["RegionOne", "RegionTwo"]
    assert await shown(place, Q) == ["RegionOne"]
    place.change(put(given(place, "RegionTwo")))
    assert await shown(place) == ["RegionTwo"]
    place.change(remove(given(place, "RegionTwo")))
    assert await shown(place) == ["RegionOne", "RegionTwo"]


async def test_groups_count_at_once(place):
    group = EndpointGroup(id="g" * 32, name="g", filters={"region_id": "RegionOne"})
    place.change(put(group), put(ProjectEndpointGroup(project_id=P, endpoint_group_id=group.id)))
    assert await shown(place) == ["RegionOne"]
    await place.replace(EndpointGroup(id=group.id, name="g", filters={"region_id": "RegionTwo"}))
    assert await shown(place) == ["RegionTwo"]


async def test_a_token_that_is_remembered_shows_the_change(place):
    text = (await place.login({"project": {"id": P}})).text
    before = (await place.validator.check(text)).body()
    place.change(put(given(place, "RegionOne")))
    after = (await place.validator.check(text)).body()
    assert b"http://RegionTwo" in before
    assert b"http://RegionTwo" not in after


async def test_another_projects_association_disturbs_nobody_once_there_are_some(place):
    place.change(put(given(place, "RegionOne", "elsewhere")))
    facts = await place.validator.facts(U, ON_P)
    place.change(put(given(place, "RegionTwo", Q.project_id)))
    assert await place.validator.facts(U, ON_P) is facts


async def test_all_whose_catalogs_are_equal_share_one(place):
    place.change(put(given(place, "RegionOne")), put(User(id="ee" * 16, name="v", domain_id="default")))
    place.change(put(grant("ee" * 16, P, "member")), put(grant("ee" * 16, Q.project_id, "member")))
    listing = await place.validator.catalog()
    narrowed = await place.validator.catalog(P)
    assert (await place.validator.catalog(Q.project_id)) is listing
    assert narrowed.rendered(U, P) is (await place.validator.catalog(P)).rendered("ee" * 16, P)
    assert narrowed.rendered(U, P) is not listing.rendered(U, P)


async def test_where_nobody_chooses_nothing_is_asked_for_a_project(place):
    asked = []
    find = place.overlay.find

    async def watched(kind, **equals):
        asked.append(kind)
        return await find(kind, **equals)

    await place.validator.catalog()
    place.overlay.find = watched
    await place.validator.facts(U, ON_P)
    assert asked
    assert not {ProjectEndpoint, ProjectEndpointGroup} & set(asked)


async def test_without_a_filter_there_may_be_nothing(tmp_path):
    settings = replace(SETTINGS, endpoint_filter=EndpointFilter(return_all_endpoints_if_no_filter=False))
    async with realm(tmp_path, settings=settings) as place:
        place.change(put(grant(U, "default", "member", target="domain")))
        assert await shown(place) == []
        assert await shown(place, DomainScope("default")) == []
        place.change(put(given(place, "RegionOne")))
        assert await shown(place) == ["RegionOne"]
