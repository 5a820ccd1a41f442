"""Policies, where they were put, and which of them holds for an endpoint."""

import pytest

GONE = "0" * 32
O = "OS-ENDPOINT-POLICY"  # noqa: E741  short, since every path has it


@pytest.fixture
async def place(admin):
    """An endpoint in a region within a region, one beside it, and three policies."""
    await admin.make("region", id="north")
    await admin.make("region", id="town", parent_region_id="north")
    service = (await admin.make("service", type="s"))["id"]
    end = await admin.make("endpoint", service_id=service, interface="public", url="http://a/", region_id="town")
    bare = await admin.make("endpoint", service_id=service, interface="public", url="http://b/")
    found = {"service": service, "end": end["id"], "bare": bare["id"]}
    for name in ("p", "q", "r"):
        found[name] = (await make_policy(admin, type=name))["id"]
    return found


async def make_policy(admin, **more):
    answer = await admin("POST", "/policies", {"policy": {"blob": "{}", "type": "t", **more}})
    assert answer.status == 201, answer.body
    return answer.body["policy"]


async def put(admin, policy, path):
    assert (await admin("PUT", f"/policies/{policy}/{O}/{path}")).status == 204


async def holds(admin, end):
    answer = await admin("GET", f"/endpoints/{end}/{O}/policy")
    return answer.body["policy"]["type"] if answer.status == 200 else None


async def test_policies_are_resources(admin):
    new = await make_policy(admin, colour="red")
    path = f"/policies/{new['id']}"
    assert new["colour"] == "red"
    assert new["links"]["self"].endswith(f"/v3{path}")
    assert (await admin("GET", path)).body == {"policy": new}
    assert new in (await admin("GET", "/policies")).body["policies"]
    assert (await admin("GET", "/policies?type=other")).body["policies"] == []
    changed = await admin("PATCH", path, {"policy": {"blob": "x", "size": 1}})
    assert changed.body["policy"] == new | {"blob": "x", "size": 1}
    assert (await admin("DELETE", path)).status == 204
    gone = await admin("GET", path)
    assert (gone.status, gone.message) == (404, f"Could not find policy: {new['id']}.")


@pytest.mark.parametrize(
    "wrong", [{}, {"blob": "x"}, {"type": "x"}, {"blob": {}, "type": "x"}, {"blob": "x", "type": "x" * 256}]
)
async def test_what_is_no_policy_is_refused(admin, wrong):
    assert (await admin("POST", "/policies", {"policy": wrong})).status == 400
    assert (await admin("GET", "/policies")).body["policies"] == []


@pytest.mark.parametrize("wrong", [GONE, None, 5])
async def test_the_id_of_a_policy_stays(admin, wrong):
    new = await make_policy(admin)
    assert (await admin("PATCH", f"/policies/{new['id']}", {"policy": {"id": wrong}})).status == 400


async def test_only_one_policy_is_changed_at_a_time(admin):
    for method in ("DELETE", "PATCH"):
        assert (await admin(method, "/policies")).status == 405


async def test_the_nearest_policy_holds(admin, place):
    service, end = place["service"], place["end"]
    assert await holds(admin, end) is None
    await put(admin, place["p"], f"services/{service}")
    assert (await holds(admin, end), await holds(admin, place["bare"])) == ("p", "p")
    await put(admin, place["q"], f"services/{service}/regions/north")
    assert (await holds(admin, end), await holds(admin, place["bare"])) == ("q", "p")
    await put(admin, place["p"], f"services/{service}/regions/town")
    assert await holds(admin, end) == "p"
    await put(admin, place["r"], f"endpoints/{end}")
    assert (await holds(admin, end), await holds(admin, place["bare"])) == ("r", "p")


async def test_another_policy_takes_the_place_of_the_first(admin, place):
    path = f"services/{place['service']}"
    await put(admin, place["p"], path)
    await put(admin, place["q"], path)
    assert (await admin("GET", f"/policies/{place['p']}/{O}/{path}")).status == 404
    assert (await admin("HEAD", f"/policies/{place['q']}/{O}/{path}")).status == 204
    assert (await admin("DELETE", f"/policies/{place['p']}/{O}/{path}")).status == 204  # nothing there to remove
    assert await holds(admin, place["end"]) == "q"
    assert (await admin("DELETE", f"/policies/{place['q']}/{O}/{path}")).status == 204
    assert await holds(admin, place["end"]) is None


async def test_a_policy_lists_its_endpoints_all_the_way_down(admin, place):
    async def ends(policy):
        found = (await admin("GET", f"/policies/{policy}/{O}/endpoints")).body["endpoints"]
        return {one["id"] for one in found}

    await put(admin, place["p"], f"services/{place['service']}")
    await put(admin, place["q"], f"services/{place['service']}/regions/north")
    await put(admin, place["r"], f"endpoints/{place['bare']}")
    assert await ends(place["p"]) == {place["end"], place["bare"]}
    assert await ends(place["q"]) == {place["end"]}
    assert await ends(place["r"]) == {place["bare"]}


@pytest.mark.parametrize("what", ["policy", "endpoint", "service", "region"])
async def test_associations_go_with_what_they_join(admin, place, what):
    service, end = place["service"], place["end"]
    await put(admin, place["p"], f"services/{service}")
    await put(admin, place["q"], f"services/{service}/regions/north")
    await put(admin, place["r"], f"endpoints/{place['bare']}")
    if what == "policy":
        assert (await admin("DELETE", f"/policies/{place['q']}")).status == 204
        assert await holds(admin, end) == "p"
        return
    if what == "endpoint":
        await admin("DELETE", f"/endpoints/{place['bare']}")
        policy = place["r"]
    elif what == "service":
        await admin("DELETE", f"/services/{service}")
        policy = place["p"]
    else:
        await admin("DELETE", f"/endpoints/{end}")
        assert (await admin("DELETE", "/regions/north")).status == 204
        policy = place["q"]
    assert (await admin("GET", f"/policies/{policy}/{O}/endpoints")).body["endpoints"] == []


async def test_what_is_joined_has_to_be_there(admin, place):
    service = place["service"]
    for path, word in (
        (f"endpoints/{GONE}", "endpoint"),
        (f"services/{GONE}", "service"),
        (f"services/{service}/regions/{GONE}", "region"),
    ):
        for method in ("PUT", "GET", "DELETE"):
            answer = await admin(method, f"/policies/{place['p']}/{O}/{path}")
            assert (answer.status, answer.message) == (404, f"Could not find {word}: {GONE}.")
    for path in (f"services/{service}", "endpoints"):
        answer = await admin("GET", f"/policies/{GONE}/{O}/{path}")
        assert (answer.status, answer.message) == (404, f"Could not find policy: {GONE}.")
    none = await admin("GET", f"/endpoints/{place['end']}/{O}/policy")
    assert (none.status, none.message) == (404, f"No policy is associated with endpoint {place['end']}.")


async def test_a_member_does_nothing_of_all_that(admin, stranger, place):
    await admin.make("user", name="nobody", password="secret-1")
    nobody = await stranger.login("nobody", "secret-1")
    path = f"/policies/{place['p']}"
    for method, where in (
        ("POST", "/policies"),
        ("GET", "/policies"),
        ("GET", path),
        ("PATCH", path),
        ("DELETE", path),
        ("GET", f"{path}/{O}/endpoints"),
        ("GET", f"/endpoints/{place['end']}/{O}/policy"),
        *((one, f"{path}/{O}/services/{place['service']}") for one in ("PUT", "GET", "DELETE")),
        *((one, f"{path}/{O}/services/{place['service']}/regions/north") for one in ("PUT", "GET", "DELETE")),
        *((one, f"{path}/{O}/endpoints/{place['end']}") for one in ("PUT", "GET", "DELETE")),
    ):
        body = {"policy": {"blob": "x", "type": "x"}} if method in {"POST", "PATCH"} else None
        assert (await stranger(method, where, body)).status == 401
        assert (await nobody(method, where, body)).status == 403
