"""Lists: filters, pages, how long they are, and what belongs to projects and assignments besides."""

from dataclasses import replace
from urllib.parse import quote

import msgspec
import pytest

from controller import settings as sections
from regional_keystone.api.shapes import Lengths
from regional_keystone.log import put
from regional_keystone.model import User
from regional_keystone.overlay import transact
from regional_keystone.wiring import _lengths
from tests import replay


async def names(caller, path, collection=None):
    answer = await caller("GET", path)
    assert answer.status == 200, answer.body
    collection = collection or path.partition("?")[0].rpartition("/")[2]
    return [one["name"] for one in answer.body[collection]]


@pytest.fixture
async def lengths(world):
    """Lets a test say how long lists are."""

    def set_to(most, **usual):
        world.api._lengths = Lengths(most, {name or "": value for name, value in usual.items()})

    return set_to


class Counted:
    """The reader of the API, which counts the rows that lists read."""

    def __init__(self, below):
        self.below, self.rows, self.longest = below, 0, 0

    def __getattr__(self, name):
        return getattr(self.below, name)

    async def page(self, kind, after, limit, like=(), **equals):
        rows = await self.below.page(kind, after, limit, like, **equals)
        self.rows += len(rows)
        self.longest = max(self.longest, len(rows))
        return rows

    def scan(self, kind):
        raise AssertionError(f"all of {kind.__name__} is read")


@pytest.fixture
def counted(world):
    world.api._reader = Counted(world.api._reader)
    return world.api._reader


async def test_a_page_reads_about_as_many_rows_as_it_shows(admin, counted):
    for number in range(30):
        await admin.make("group", name=f"g{number:02}")
    counted.rows = 0
    page = (await admin("GET", "/groups?limit=3&domain_id=default")).body
    assert (len(page["groups"]), page["truncated"], counted.rows) == (3, True, 4)
    counted.rows = 0
    assert await names(admin, "/groups?name=g07") == ["g07"]
    assert counted.rows == 1


@pytest.mark.parametrize("query", ["", "&domain_id=default", "&name__contains=g", "&name__iendswith=1"])
async def test_pages_are_the_list_whatever_is_asked(admin, query):
    for number in range(12):
        await admin.make("group", name=f"g{number}")
    whole = [one["id"] for one in (await admin("GET", f"/groups?{query[1:]}")).body["groups"]]
    for limit in (1, 2, 5, 12, 13):
        found, path = [], f"/groups?limit={limit}{query}"
        while path:
            page = (await admin("GET", path)).body
            assert ("truncated" in page) is (page["links"]["next"] is not None)
            assert len(page["groups"]) <= limit
            found += [one["id"] for one in page["groups"]]
            path = (page["links"]["next"] or "").partition("/v3")[2]
        assert found == whole == sorted(found)


async def test_a_marker_is_a_place_and_need_not_be_in_the_answer(admin):
    made = sorted(
        [await admin.make("group", name=f"{letter}{one}") for letter in "ab" for one in range(4)],
        key=lambda one: one["id"],
    )
    marker = next(one for one in made if one["name"].startswith("a"))
    wanted = [one["name"] for one in made if one["id"] > marker["id"] and one["name"].startswith("b")]
    assert await names(admin, f"/groups?name__startswith=b&marker={marker['id']}") == wanted
    for collection in ("users", "groups", "projects", "domains"):
        answer = await admin("GET", f"/{collection}?marker=none")
        assert (answer.status, answer.message) == (404, "Marker none could not be found.")
    for collection in ("roles", "services", "regions", "credentials"):
        assert (await admin("GET", f"/{collection}?marker=none")).status == 200
    every = (await admin("GET", "/roles")).body["roles"]
    assert len(every) > 1
    assert (await admin("GET", "/roles?marker=none")).body["roles"] == every


async def test_the_next_page_is_asked_for_in_the_same_words(admin):
    for one in range(3):
        await admin.make("group", name=f"g{one}")
    page = (await admin("GET", "/groups?name__icontains=G&x=a%20b:c&limit=1")).body
    marker = page["groups"][0]["id"]
    assert page["links"]["next"] == f"{replay.URL}/v3/groups?name__icontains=G&x=a+b%3Ac&limit=1&marker={marker}"


@pytest.mark.parametrize(("limit", "count"), [("0", 4), ("-1", 4), ("", 4), ("9" * 30, 4), ("2", 2), ("+2", 2)])
async def test_a_limit_is_what_can_be_meant(admin, limit, count):
    for one in range(4):
        await admin.make("group", name=f"g{one}")
    assert len(await names(admin, f"/groups?limit={quote(limit)}")) == count


@pytest.mark.parametrize("limit", ["abc", "1.5", "²"])
async def test_a_limit_that_is_no_number_is_refused(admin, limit):
    assert (await admin("GET", f"/users?limit={quote(limit)}")).status == 400


async def test_lists_are_as_long_as_is_configured(admin, lengths):
    for one in range(6):
        await admin.make("group", name=f"g{one}")
    lengths(5, groups=2)
    assert len(await names(admin, "/groups")) == 2
    assert len(await names(admin, "/groups?limit=4")) == 4
    page = (await admin("GET", "/groups?limit=100")).body
    assert (len(page["groups"]), page["truncated"]) == (5, True)
    assert "limit=5" in page["links"]["next"]
    assert len(await names(admin, "/roles")) == 5
    assert "truncated" not in (await admin("GET", "/roles")).body


def test_the_settings_of_lists_have_upstreams_names_and_order():
    settings = sections.Settings()
    assert _lengths(settings).usual == {
        **dict.fromkeys(("users", "groups", "projects", "domains"), 1000),
        **dict.fromkeys(
            ("roles", "policies", "regions", "services", "endpoints", "limits", "registered_limits", ""), 0
        ),
    }
    changed = replace(
        settings,
        default=replace(settings.default, list_limit=50, max_db_limit=70),
        identity=replace(settings.identity, list_limit=60),
        catalog=replace(settings.catalog, list_limit=100),
    )
    found = _lengths(changed)
    assert found.most == 70
    assert [found.of(one) for one in ("users", "groups", "projects", "roles", "services", "trusts")] == [
        60,
        60,
        50,
        50,
        70,
        50,
    ]


async def test_filters_of_one_key_all_hold(admin):
    await admin.make("group", name="one")
    await admin.make("group", name="two")
    assert await names(admin, "/groups?name=one&name=two") == []
    assert await names(admin, "/groups?name=one&name__contains=n") == ["one"]
    assert await names(admin, "/groups?name=one&name__unlike=x") == ["one"]
    assert await names(admin, "/groups?name__contains=%25") == []


async def test_a_filter_that_is_none_narrows_nothing(admin):
    user = await admin.make("user", name="x", default_project_id="p")
    assert "x" in await names(admin, "/users?default_project_id=other")
    assert user["name"] in await names(admin, "/users?id=other")


async def expires(world, user, at):
    old = await world.overlay.get(User, user["id"])

    async def decide(reading):
        del reading
        return [put(msgspec.structs.replace(old, password_expires_at=at), old)], None

    await transact(world.overlay, world.api._committers["log"], f"expire-{user['id']}", decide)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("lt:2030-01-01T00:00:00Z", ["early"]),
        ("lte:2030-01-01T00:00:00Z", ["early", "late"]),
        ("gt:2030-01-01T00:00:00Z", []),
        ("gte:2030-01-01T00:00:00", ["late"]),
        ("eq:2030-01-01T00:00:00Z", ["late"]),
        ("2030-01-01T00:00:00Z", ["late"]),
        ("neq:2030-01-01T00:00:00Z", ["early"]),
        ("gt:2029-06-01", ["late"]),
        ("eq:2030-01-01T02:00:00%2B02:00", ["late"]),
    ],
)
async def test_users_by_when_their_passwords_expire(world, admin, said, expected):
    early, late, never = [await admin.make("user", name=name) for name in ("early", "late", "never")]
    group = await admin.make("group", name="g")
    for user in (early, late, never):
        assert (await admin("PUT", f"/groups/{group['id']}/users/{user['id']}")).status == 204
    second = 1_000_000
    await expires(world, early, 1_800_000_000 * second)
    await expires(world, late, 1_893_456_000 * second)  # 2030
    for path in ("/users", f"/groups/{group['id']}/users"):
        assert sorted(await names(admin, f"{path}?password_expires_at={said}", "users")) == expected


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("xx:2016-11-06T15:32:17Z", "The given operator xx is not valid. It must be one of the following: "),
        ("ltx:2016-11-06T15:32:17Z", "The given operator ltx is not valid. It must be one of the following: "),
        ("lt:foo", "Timestamp not in expected format. "),
        ("xx:foo", "Timestamp not in expected format. "),
        ("", "Timestamp not in expected format. "),
        ("lt:0001-01-01T00:00:00%2B23:00", None),
    ],
)
async def test_what_is_no_time_is_refused_also_of_nobody(admin, said, message):
    group = await admin.make("group", name="empty")
    for path in ("/users", f"/groups/{group['id']}/users"):
        answer = await admin("GET", f"{path}?password_expires_at={said}")
        assert answer.status == (200 if message is None else 400)
        assert message is None or answer.message.startswith(message)


async def test_who_acts_in_a_domain_sees_of_a_group_and_of_a_user_what_is_its_own(admin, stranger):
    domain = await admin.make("domain", name="d")
    mine = await admin.make("user", name="m", domain_id=domain["id"], password="secret-1")
    theirs = await admin.make("user", name="x")
    group, foreign = await admin.make("group", name="g", domain_id=domain["id"]), await admin.make("group", name="f")
    for one, user in ((group, mine), (group, theirs), (foreign, mine)):
        await admin("PUT", f"/groups/{one['id']}/users/{user['id']}")
    roles = {role["name"]: role["id"] for role in (await admin("GET", "/roles")).body["roles"]}
    await admin("PUT", f"/domains/{domain['id']}/users/{mine['id']}/roles/{roles['manager']}")
    manager = await stranger.login("m", "secret-1", {"domain": {"id": domain["id"]}}, domain["id"])
    assert await names(manager, f"/groups/{group['id']}/users", "users") == ["m"]
    assert await names(manager, f"/users/{mine['id']}/groups", "groups") == ["g"]
    assert sorted(await names(admin, f"/groups/{group['id']}/users", "users")) == ["m", "x"]


async def test_a_groups_users_are_paged(admin):
    group = await admin.make("group", name="g")
    made = [await admin.make("user", name=f"u{one}") for one in range(5)]
    for user in made:
        await admin("PUT", f"/groups/{group['id']}/users/{user['id']}")
    path, found = f"/groups/{group['id']}/users?limit=2", []
    while path:
        page = (await admin("GET", path)).body
        found += [one["id"] for one in page["users"]]
        path = (page["links"]["next"] or "").partition("/v3")[2]
    assert sorted(found) == sorted(one["id"] for one in made)


@pytest.fixture
async def forest(admin):
    """A domain's projects: a above b above c, and d beside b."""
    a = await admin.make("project", name="a", tags=["x", "y"])
    b = await admin.make("project", name="b", parent_id=a["id"], tags=["y"])
    c = await admin.make("project", name="c", parent_id=b["id"])
    d = await admin.make("project", name="d", parent_id=a["id"], tags=["z", "x"])
    return {"a": a["id"], "b": b["id"], "c": c["id"], "d": d["id"]}


@pytest.mark.usefixtures("forest")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("tags=x", "ad"),
        ("tags=x,y", "a"),
        ("tags-any=x,z", "ad"),
        ("not-tags=x", "bc"),
        ("not-tags=x,y", "bcd"),
        ("not-tags-any=x,z", "bc"),
        ("tags=y&tags-any=x", "a"),
        ("tags=x&not-tags=y", "d"),
        ("tags=x&not-tags-any=z", "a"),
        ("tags=nope&not-tags=x", ""),  # upstream answers everything without x
        ("not-tags=x&not-tags-any=z", "bc"),  # and here everything that has z as well
        ("tags=x&tags=y", "ad"),
        ("tags=&name=a", ""),
    ],
)
async def test_projects_by_their_tags(admin, query, expected):
    assert "".join(sorted(one for one in await names(admin, f"/projects?{query}") if one != "admin")) == expected


async def test_projects_by_their_place(admin, forest):
    assert sorted(await names(admin, f"/projects?parent_id={forest['a']}")) == ["b", "d"]
    assert await names(admin, f"/projects?parent_id={forest['a']}&name=b") == ["b"]
    assert await names(admin, "/projects?is_domain=true") == ["Default"]
    assert "Default" not in await names(admin, "/projects?is_domain=0")
    assert "Default" not in await names(admin, "/projects")


async def test_what_is_above_and_below_a_project(admin, forest):
    me = (await admin("GET", "/users?name=admin")).body["users"][0]["id"]
    role = (await admin("GET", "/roles?name=member")).body["roles"][0]["id"]
    for one in "ab":
        await admin("PUT", f"/projects/{forest[one]}/users/{me}/roles/{role}")

    async def asked(one, query):
        return (await admin("GET", f"/projects/{forest[one]}?{query}")).body["project"]

    parents = (await asked("c", "parents_as_list"))["parents"]
    assert [one["project"]["name"] for one in parents] == ["b", "a"]
    assert "limits" not in parents[0]["project"]
    assert (await asked("c", "parents_as_list&include_limits"))["parents"][0]["project"]["limits"] == []
    ids = {forest["b"]: {forest["a"]: {"default": None}}}
    assert (await asked("c", "parents_as_ids"))["parents"] == ids
    assert [one["project"]["name"] for one in (await asked("a", "subtree_as_list"))["subtree"]] == ["b"]
    assert (await asked("a", "subtree_as_ids"))["subtree"] == {forest["b"]: {forest["c"]: None}, forest["d"]: None}
    assert "parents" not in await asked("c", "parents_as_list=0")
    for direction in ("parents", "subtree"):
        answer = await admin("GET", f"/projects/{forest['a']}?{direction}_as_list&{direction}_as_ids")
        assert answer.status == 400


async def test_the_tags_of_an_immutable_project_stay(admin):
    project = await admin.make("project", name="p", tags=["t"], options={"immutable": True})
    path = f"/projects/{project['id']}/tags"
    for verb, method, place, body in (
        ("create", "PUT", f"{path}/q", None),
        ("update", "PUT", path, {"tags": ["q"]}),
        ("delete", "DELETE", f"{path}/t", None),
        ("delete", "DELETE", f"{path}/none", None),
        ("update", "DELETE", path, None),
    ):
        answer = await admin(method, place, body)
        assert answer.status == 403
        assert answer.message.startswith(f"Cannot {verb} project tags for {project['id']}, project is immutable.")
    assert (await admin("GET", path)).body["tags"] == ["t"]


async def test_tags_have_no_space_around_them(admin):
    project = await admin.make("project", name="p")
    path = f"/projects/{project['id']}/tags"
    assert (await admin("PUT", path, {"tags": [" w ", "b", "w"]})).body["tags"] == ["w", "b"]
    assert (await admin("PUT", f"{path}/q%20")).status == 201
    assert (await admin("GET", path)).body["tags"] == ["b", "q", "w"]


async def test_what_two_roles_imply_by_way_of_one_is_one_line(admin):
    user = await admin.make("user", name="u")
    domain = await admin.make("domain", name="d")
    roles = {role["name"]: role["id"] for role in (await admin("GET", "/roles")).body["roles"]}
    for name in ("admin", "manager"):  # the one implies the other
        await admin("PUT", f"/domains/{domain['id']}/users/{user['id']}/roles/{roles[name]}")
    lines = (await admin("GET", f"/role_assignments?effective&user.id={user['id']}")).body["role_assignments"]
    assert len({str(line) for line in lines}) == len(lines)
    assert {line["role"]["id"] for line in lines} == {roles[one] for one in ("admin", "manager", "member", "reader")}


async def test_what_is_true_or_false_is_equal_or_not_and_has_no_parts(admin):
    await admin.make("domain", name="on")
    await admin.make("domain", name="off", enabled=False)
    for how in ("equals", "iequals"):
        assert await names(admin, f"/domains?enabled__{how}=false") == ["off"]
    for how in ("contains", "icontains", "startswith", "iendswith"):
        assert (await admin("GET", f"/domains?enabled__{how}=t")).status == 400
    assert await names(admin, "/domains?name__iequals=ON") == []
    assert len(await names(admin, "/domains?enabled__nope=t")) == 3
