"""What rules may ask of a request: its body, the filters of a list, and facts of what it is about, each decides."""

from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from regional_keystone import settings
from tests import replay

RULES = """\
"identity:create_user": "rule:admin_required or user_domain_id:%(request_body.user.domain_id)s"
"identity:list_users": "user_domain_id:%(filter_attr.domain_id)s"
"identity:list_groups": "not 'secret':%(filter_attr.name)s"
"identity:validate_token": "user_domain_id:%(target.token.user.domain.id)s"
"identity:check_token": "not user_domain_id:%(target.token.user.domain.id)s"
"identity:revoke_token": "user_domain_id:%(target.token.user.domain.id)s"
"identity:revoke_tokens_for_user": "user_domain_id:%(target.user.domain_id)s"
"identity:get_application_credential": "user_id:%(target.user_id)s"
"identity:update_limit": "user_domain_id:%(target.limit.domain_id)s"
"identity:delete_limit": "user_domain_id:%(target.limit.domain_id)s"
"""


@pytest.fixture
async def world(tmp_path):
    """A controller with these rules."""
    file = tmp_path / "policy.yaml"
    file.write_text(RULES)
    made = replay.World(tmp_path)
    made.settings = replace(made.settings, policy=settings.Policy(file=file))
    async with AsyncExitStack() as stack:
        await made.start(stack)
        yield made


@pytest.fixture
async def abroad(admin):
    return await admin.make("domain", name="abroad")


@pytest.fixture
async def people(admin, abroad):
    """Somebody of each domain, without any role: (client, user) by domain."""
    found = {}
    for domain in ("default", abroad["id"]):
        user = await admin.make("user", name="somebody", domain_id=domain, password="secret1")
        found[domain] = (await admin.login("somebody", "secret1", domain=domain), user)
    return found


async def test_a_rule_on_the_body_decides(people, abroad):
    client, _ = people["default"]
    for domain, status in (("default", 201), (abroad["id"], 403)):
        said = {"name": "new", "domain_id": domain}
        assert (await client("POST", "/users", {"user": said})).status == status
        # what only looks like the key is another one
        spoofed = {
            "name": "x",
            "domain_id": domain,
            "user.domain_id": "default",
            "request_body.user.domain_id": "default",
        }
        assert (await client("POST", "/users", {"user": spoofed})).status == status


async def test_a_rule_on_the_filters_decides_by_the_value_that_counts(people, abroad):
    client, user = people["default"]
    other = abroad["id"]
    found = await client("GET", "/users?domain_id=default")
    assert (found.status, user["id"] in {one["id"] for one in found.body["users"]}) == (200, True)
    for query in ("", "?name=somebody", f"?domain_id={other}", f"?domain_id=default&domain_id={other}"):
        assert (await client("GET", f"/users{query}")).status == 403
    for query in ("filter_attr.domain_id=default", "domain_id__contains=default", "user_domain_id=default"):
        assert (await client("GET", f"/users?{query}")).status == 403
    both = await client("GET", f"/users?domain_id={other}&domain_id=default")
    assert (both.status, both.body["users"]) == (200, [])
    assert (await client("GET", "/users?domain_id=default", {"filter_attr": {"domain_id": other}})).status == 200
    assert (await client("GET", "/users", {"filter_attr": {"domain_id": "default"}})).status == 403
    assert (await client("GET", "/groups?name=secret")).status == 403
    assert (await client("GET", "/groups?description=secret")).status == 200


async def test_a_rule_on_the_domain_of_a_tokens_user_decides_each_time(people, abroad):
    client, _ = people["default"]
    own, others = client.token, people[abroad["id"]][0].token
    for _ in range(3):  # what is remembered of the tokens changes nothing
        for token, status in ((own, 200), (others, 403)):
            assert (await client("GET", "/auth/tokens", headers={"X-Subject-Token": token})).status == status
            head = await client("HEAD", "/auth/tokens", headers={"X-Subject-Token": token})
            assert head.status == (200 if status == 403 else 403)
    said = {"target": {"token": {"user": {"domain": {"id": "default"}}}}}
    assert (await client("GET", "/auth/tokens", said, headers={"X-Subject-Token": others})).status == 403
    assert (await client("DELETE", "/auth/tokens", headers={"X-Subject-Token": others})).status == 403
    assert (await client("DELETE", "/auth/tokens", headers={"X-Subject-Token": own})).status == 204


async def test_whose_tokens_are_revoked_is_known(people, abroad):
    client, user = people["default"]
    other = people[abroad["id"]][1]["id"]
    said = {"user_id": user["id"], "target": {"user": {"domain_id": "default"}}, "target.user.domain_id": "default"}
    assert (await client("DELETE", f"/users/{other}/tokens", said)).status == 403
    assert (await client("DELETE", f"/users/{'0' * 32}/tokens", said)).status == 403
    assert (await client("DELETE", f"/users/{user['id']}/tokens")).status == 204


async def test_whose_application_credential_it_is_is_known_whatever_the_path_says(admin):
    me = (await admin("GET", "/auth/tokens", headers={"X-Subject-Token": admin.token})).body["token"]["user"]["id"]
    made = await admin("POST", f"/users/{me}/application_credentials", {"application_credential": {"name": "a"}})
    path = f"application_credentials/{made.body['application_credential']['id']}"
    assert (await admin("GET", f"/users/{me}/{path}")).status == 200
    user = await admin.make("user", name="another", domain_id="default", password="secret1")
    other = await admin.login("another", "secret1")
    assert (await other("GET", f"/users/{user['id']}/{path}", {"target": {"user_id": user["id"]}})).status == 403


async def test_what_a_limit_is_about_is_known_when_it_is_changed(admin, people, abroad):
    client, _ = people["default"]
    service = await admin.make("service", type="compute")
    what = {"service_id": service["id"], "resource_name": "cores"}
    assert (
        await admin("POST", "/registered_limits", {"registered_limits": [{**what, "default_limit": 9}]})
    ).status == 201
    wanted = [{**what, "domain_id": domain, "resource_limit": 5} for domain in ("default", abroad["id"])]
    made = (await admin("POST", "/limits", {"limits": wanted})).body["limits"]
    found = {one["domain_id"]: f"/limits/{one['id']}" for one in made}
    for domain, changed, deleted in (("default", 200, 204), (abroad["id"], 403, 403)):
        said = {"limit": {"resource_limit": 4}}
        assert (await client("PATCH", found[domain], said)).status == changed
        assert (
            await client("DELETE", found[domain], {"target": {"limit": {"domain_id": "default"}}})
        ).status == deleted
