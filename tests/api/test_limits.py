"""Registered limits and limits: all or none, each once, what is in use stays, and who sees which."""

import asyncio
from dataclasses import replace

import pytest

from controller import settings as sections
from regional_keystone.api.limit_models import model_named
from tests import replay
from tests.api.conftest import Client

GONE = "0" * 32
R, L = "/registered_limits", "/limits"


@pytest.fixture
async def service(admin):
    return (await admin.make("service", type="s"))["id"]


async def registered(admin, *rows):
    return await admin("POST", R, {"registered_limits": list(rows)})


async def limits(admin, *rows):
    return await admin("POST", L, {"limits": list(rows)})


def row(service, name="cpu", **more):
    return {"service_id": service, "resource_name": name, "default_limit": 10, **more}


def of(service, name="cpu", limit=5, **more):
    return {"service_id": service, "resource_name": name, "resource_limit": limit, **more}


@pytest.fixture
async def place(admin, service):
    """A registered limit of cpu; a domain with a project in it, and another domain."""
    await registered(admin, row(service))
    domain, other = await admin.make("domain", name="d"), await admin.make("domain", name="e")
    project = await admin.make("project", name="p", domain_id=domain["id"])
    second = await admin.make("project", name="q", domain_id=domain["id"])
    found = {"domain": domain, "other": other, "project": project, "second": second}
    return {"service": service, **{name: one["id"] for name, one in found.items()}}


async def test_registered_limits_are_resources(admin, service):
    await admin.make("region", id="north")
    made = await registered(admin, row(service, description="d"), row(service, region_id="north"))
    assert (made.status, set(made.body)) == (201, {"registered_limits"})
    first, second = made.body["registered_limits"]
    assert (first["region_id"], second["region_id"], second["description"]) == (None, "north", None)
    path = f"{R}/{first['id']}"
    assert first["links"]["self"].endswith(f"/v3{path}")
    assert (await admin("GET", path)).body == {"registered_limit": first}
    assert (await admin("GET", f"{R}?region_id=north")).body["registered_limits"] == [second]
    assert (await admin("GET", f"{R}?resource_name=ram")).body["registered_limits"] == []
    changed = await admin("PATCH", path, {"registered_limit": {"default_limit": -1, "description": None}})
    assert changed.body["registered_limit"] == first | {"default_limit": -1, "description": None}
    assert (await admin("PATCH", path, {"registered_limit": {}})).position is None
    assert (await admin("DELETE", path)).status == 204
    gone = await admin("GET", path)
    assert (gone.status, gone.message) == (404, f"Could not find registered limit for {first['id']}.")


async def test_each_is_registered_once_and_all_or_none(admin, service):
    await registered(admin, row(service))
    for rows in (
        [row(service)],
        [row(service, "ram"), row(service)],
        [row(service, "ram"), row(service, "ram")],
    ):
        answer = await registered(admin, *rows)
        assert (answer.status, answer.position) == (409, None)
        assert answer.message == "Conflict occurred attempting to store registered_limit - Duplicate entry."
    assert len((await admin("GET", R)).body["registered_limits"]) == 1


async def test_of_many_who_register_the_same_exactly_one_does(admin, service):
    answers = await asyncio.gather(*(registered(admin, row(service)) for _ in range(6)))
    assert sorted(one.status for one in answers) == [201, *[409] * 5]


async def test_a_change_does_not_make_two_of_one(admin, service):
    made = await registered(admin, row(service), row(service, "ram"))
    path = f"{R}/{made.body['registered_limits'][1]['id']}"
    assert (await admin("PATCH", path, {"registered_limit": {"resource_name": "cpu"}})).status == 409
    assert (await admin("PATCH", path, {"registered_limit": {"resource_name": "disk"}})).status == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"service_id": "x"},
        {"service_id": GONE},
        {"region_id": "nowhere"},
        {"resource_name": ""},
        {"resource_name": " "},
        {"default_limit": -2},
        {"default_limit": 2**31},
        {"default_limit": "5"},
        {"default_limit": True},
        {"default_limit": 1.0},
        {"description": "x" * 256},
        {"colour": "red"},
        {"id": GONE},
    ],
)
async def test_what_is_no_registered_limit_is_refused(admin, service, wrong):
    answer = await registered(admin, row(service, "good"), row(service) | wrong)
    assert (answer.status, answer.position) == (400, None)
    assert next(iter(wrong)) in answer.message
    made = (await registered(admin, row(service))).body["registered_limits"][0]
    assert (await admin("PATCH", f"{R}/{made['id']}", {"registered_limit": wrong})).status == 400
    assert (await admin("GET", R)).body["registered_limits"] == [made]


async def test_what_has_limits_stays_as_it_is(admin, place):
    one = (await admin("GET", R)).body["registered_limits"][0]
    limit = (await limits(admin, of(place["service"], project_id=place["project"]))).body["limits"][0]
    told = f"Unable to update or delete registered limit {one['id']} because there are project limits associated with"
    for method, body in (("PATCH", {"registered_limit": {"default_limit": 1}}), ("DELETE", None)):
        answer = await admin(method, f"{R}/{one['id']}", body)
        assert (answer.status, answer.message) == (403, f"{told} it.")
    assert (await admin("DELETE", f"/services/{place['service']}")).status == 409
    assert (await admin("DELETE", f"{L}/{limit['id']}")).status == 204
    assert (await admin("DELETE", f"{R}/{one['id']}")).status == 204
    assert (await admin("DELETE", f"/services/{place['service']}")).status == 204


async def test_limits_are_resources(admin, place):
    made = await limits(
        admin,
        of(place["service"], project_id=place["project"], description="d"),
        of(place["service"], domain_id=place["domain"], limit=9),
    )
    assert (made.status, set(made.body)) == (201, {"limits"})
    mine, theirs = made.body["limits"]
    assert (mine["project_id"], mine["domain_id"]) == (place["project"], None)
    assert (theirs["project_id"], theirs["domain_id"]) == (None, place["domain"])
    assert "registered_limit_id" not in mine
    path = f"{L}/{mine['id']}"
    assert (await admin("GET", path)).body == {"limit": mine}
    assert (await admin("GET", f"{L}?project_id={place['project']}")).body["limits"] == [mine]
    assert (await admin("GET", f"{L}?domain_id={place['domain']}")).body["limits"] == [theirs]
    assert (await admin("GET", f"{L}?resource_name=ram")).body["limits"] == []
    changed = await admin("PATCH", path, {"limit": {"resource_limit": 0, "description": None}})
    assert changed.body["limit"] == mine | {"resource_limit": 0, "description": None}
    assert (await admin("DELETE", path)).status == 204
    gone = await admin("GET", path)
    assert (gone.status, gone.message) == (404, f"Could not find limit for {mine['id']}.")


async def test_the_limit_of_a_project_that_is_a_domain_is_the_domains(admin, place):
    made = (await limits(admin, of(place["service"], project_id=place["domain"]))).body["limits"][0]
    assert (made["project_id"], made["domain_id"]) == (None, place["domain"])
    assert (await limits(admin, of(place["service"], domain_id=place["domain"]))).status == 409


async def test_each_has_one_limit_and_all_or_none(admin, place):
    mine = of(place["service"], project_id=place["project"])
    other = of(place["service"], project_id=place["second"])
    await limits(admin, mine)
    for rows in ([mine], [other, mine], [other, other]):
        answer = await limits(admin, *rows)
        assert (answer.status, answer.position) == (409, None)
    unknown = await limits(admin, other, of(place["service"], "ram", project_id=place["second"]))
    assert (unknown.status, unknown.message) == (
        403,
        "Unable to create a limit that has no corresponding registered limit.",
    )
    assert len((await admin("GET", L)).body["limits"]) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"project_id": None},
        {"domain_id": None},
        {"project_id": "P", "domain_id": "D"},
        {"project_id": "P", "domain_id": None},
        {"project_id": GONE},
        {"domain_id": GONE},
        {"domain_id": "P"},
        {"project_id": "a/b"},
        {"project_id": "P", "resource_limit": None},
        {"project_id": "P", "resource_limit": -2},
        {"project_id": "P", "service_id": GONE},
        {"project_id": "P", "region_id": "nowhere"},
        {"project_id": "P", "colour": "red"},
    ],
)
async def test_what_is_no_limit_is_refused(admin, place, wrong):
    names = {"P": place["project"], "D": place["domain"]}
    sent = {name: names.get(value, value) if isinstance(value, str) else value for name, value in wrong.items()}
    answer = await limits(admin, of(place["service"], project_id=place["second"]), of(place["service"]) | sent)
    assert (answer.status, answer.position) == (400, None)
    assert (await admin("GET", L)).body["limits"] == []


@pytest.mark.parametrize("path", [R, L])
@pytest.mark.parametrize("wrong", [None, {}, [], "x", [None], [[]], ["x"], [{}]])
async def test_a_list_that_is_none_is_refused(admin, path, wrong):
    assert (await admin("POST", path, {path[1:]: wrong})).status == 400


@pytest.mark.parametrize("wrong", [{"project_id": GONE}, {"service_id": GONE}, {"id": GONE}, {"resource_limit": "5"}])
async def test_a_change_is_of_the_number_and_the_description(admin, place, wrong):
    made = (await limits(admin, of(place["service"], project_id=place["project"]))).body["limits"][0]
    assert (await admin("PATCH", f"{L}/{made['id']}", {"limit": wrong})).status == 400
    assert (await admin("GET", f"{L}/{made['id']}")).body["limit"] == made


async def test_limits_go_with_their_project_and_their_domain(admin, place):
    await limits(
        admin, of(place["service"], project_id=place["project"]), of(place["service"], domain_id=place["other"])
    )
    await admin("DELETE", f"/projects/{place['project']}")
    await admin("PATCH", f"/domains/{place['other']}", {"domain": {"enabled": False}})
    await admin("DELETE", f"/domains/{place['other']}")
    assert (await admin("GET", L)).body["limits"] == []


@pytest.fixture
async def people(admin, stranger, place):
    """Someone's tokens for each scope, and the limit of each project and domain."""
    user = await admin.make("user", name="u", password="secret-1")
    roles = {role["name"]: role["id"] for role in (await admin("GET", "/roles")).body["roles"]}
    for path, role in (
        (f"/projects/{place['project']}", "member"),
        (f"/projects/{place['second']}", "service"),
        (f"/domains/{place['domain']}", "reader"),
        ("/system", "reader"),
    ):
        assert (await admin("PUT", f"{path}/users/{user['id']}/roles/{roles[role]}")).status == 204
    scopes = {
        "member": {"project": {"id": place["project"]}},
        "service": {"project": {"id": place["second"]}},
        "domain": {"domain": {"id": place["domain"]}},
        "system": {"system": {"all": True}},
        "unscoped": None,
    }
    owners = ({"project_id": place["project"]}, {"project_id": place["second"]})
    domains = ({"domain_id": place["domain"]}, {"domain_id": place["other"]})
    made = (await limits(admin, *(of(place["service"], **one) for one in (*owners, *domains)))).body["limits"]
    names = dict(zip(("project", "second", "domain", "other"), (one["id"] for one in made), strict=True))
    return {name: await stranger.login("u", "secret-1", scope) for name, scope in scopes.items()}, names


SEES = {
    "member": "project",
    "service": "project second domain other",
    "domain": "project second domain",
    "system": "project second domain other",
    "unscoped": "",
}
MAY = SEES | {"service": "second"}


@pytest.mark.parametrize("who", SEES)
async def test_each_sees_the_limits_of_its_own(people, who):
    clients, names = people
    listed = (await clients[who]("GET", L)).body["limits"]
    assert {one["id"] for one in listed} == {names[one] for one in SEES[who].split()}
    for name, key in names.items():
        answer = await clients[who]("GET", f"{L}/{key}")
        assert (answer.status == 200) == (name in MAY[who].split()), name
    assert (await clients[who]("GET", f"{L}/{GONE}")).status in {403, 404}
    assert (await clients[who]("GET", f"{L}/model")).status == 200
    assert len((await clients[who]("GET", R)).body["registered_limits"]) == 1


@pytest.mark.parametrize("who", SEES)
async def test_only_admins_change_limits(admin, place, people, who):
    clients, names = people
    one = (await admin("GET", R)).body["registered_limits"][0]["id"]
    for method, path, body in (
        ("POST", L, {"limits": [of(place["service"], project_id=place["project"])]}),
        ("PATCH", f"{L}/{names['project']}", {"limit": {"resource_limit": 1}}),
        ("DELETE", f"{L}/{names['project']}", None),
        ("POST", R, {"registered_limits": [row(place["service"], "x")]}),
        ("PATCH", f"{R}/{one}", {"registered_limit": {"default_limit": 1}}),
        ("DELETE", f"{R}/{one}", None),
    ):
        assert (await clients[who](method, path, body)).status == 403
    for method, body in (("PATCH", {"limit": {"resource_limit": 1}}), ("DELETE", None)):
        gone = await clients[who](method, f"{L}/{GONE}", body)  # told before the policy, as Keystone does
        assert (gone.status, gone.message) == (404, f"Could not find limit for {GONE}.")
        registered_ = {"registered_limit": {"default_limit": 1}} if body else None
        assert (await clients[who](method, f"{R}/{GONE}", registered_)).status == 403


async def test_a_query_does_not_widen_what_a_member_sees(people, place):
    clients, _ = people
    assert (await clients["member"]("GET", f"{L}?project_id={place['second']}")).body["limits"] == []
    assert (await clients["domain"]("GET", f"{L}?domain_id={place['other']}")).body["limits"] == []


async def test_the_flat_model_asks_nothing(admin, place):
    model = (await admin("GET", f"{L}/model")).body["model"]
    assert model["name"] == "flat"
    answer = await limits(
        admin,
        of(place["service"], project_id=place["project"], limit=50),
        of(place["service"], domain_id=place["domain"]),
    )
    assert answer.status == 201


@pytest.fixture
async def strict(tmp_path):
    """An admin where no project's limit is above its domain's."""
    world = replay.World(tmp_path)
    limited = sections.Settings().unified_limit
    world.settings = replace(world.settings, unified_limit=replace(limited, enforcement_model="strict_two_level"))
    async with replay.AsyncExitStack() as stack:
        await world.start(stack)
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        yield await Client(world).login("admin", replay.PASSWORD, scope)


async def test_two_levels(strict):
    assert (await strict("GET", f"{L}/model")).body["model"]["name"] == "strict_two_level"
    service = (await strict.make("service", type="s"))["id"]
    await registered(strict, row(service), row(service, "ram"))
    domain = (await strict.make("domain", name="d"))["id"]
    project = (await strict.make("project", name="p", domain_id=domain))["id"]

    above = await limits(strict, of(service, project_id=project, limit=11))
    about = f"project_id: {project}, resource_name: cpu, resource_limit: 11, service_id: {service}, region_id: None"
    told = f"Invalid resource limit: The resource limit ({about}) doesn't satisfy current hierarchy model.."
    assert (above.status, above.message) == (403, told)
    mine = (await limits(strict, of(service, project_id=project, limit=10))).body["limits"][0]
    below = await limits(strict, of(service, domain_id=domain, limit=9))
    assert (below.status, "domain_id: " in below.message) == (403, True)
    theirs = (await limits(strict, of(service, domain_id=domain, limit=20))).body["limits"][0]

    async def change(limit, to):
        return (await strict("PATCH", f"{L}/{limit['id']}", {"limit": {"resource_limit": to}})).status

    assert [await change(mine, to) for to in (20, 21)] == [200, 403]
    assert [await change(theirs, to) for to in (19, 30, 20)] == [403, 200, 200]
    pair = (of(service, "ram", domain_id=domain, limit=5), of(service, "ram", project_id=project, limit=6))
    assert (await limits(strict, *pair)).status == 403
    assert (await limits(strict, pair[0] | {"resource_limit": 6}, pair[1])).status == 201


async def test_two_levels_of_projects(strict):
    one = await strict.make("project", name="one")
    two = await strict.make("project", name="two", parent_id=one["id"])
    answer = await strict("POST", "/projects", {"project": {"name": "three", "parent_id": two["id"]}})
    assert (answer.status, answer.message) == (403, f"Max hierarchy depth reached for {two['id']} branch.")


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="flat, strict_two_level"):
        model_named("three_levels")
