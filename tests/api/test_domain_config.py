"""Configuration of domains: what is set, what is refused, that secrets stay secret, and what everybody may know."""

import json

import msgspec
import pytest

from regional_keystone.api.domain_config import DEFAULTS, with_secrets
from regional_keystone.model import DomainOption, Outcome

SECRET = "a-secret-that-is-nowhere-in-clear"
WHOLE = {"ldap": {"url": "ldap://x", "page_size": 5, "password": SECRET}, "identity": {"driver": "ldap"}}
SHOWN = {"ldap": {"url": "ldap://x", "page_size": 5}, "identity": {"driver": "ldap"}}
ODD = "Invalid domain specific configuration: "


@pytest.fixture
async def path(admin):
    return f"/domains/{(await admin.make('domain', name='d'))['id']}/config"


@pytest.fixture
async def member(admin):
    project = await admin.make("project", name="p", domain_id="default")
    user = await admin.make("user", name="member", domain_id="default", password="pw-1234")
    (role,) = (await admin("GET", "/roles?name=member")).body["roles"]
    assert (await admin("PUT", f"/projects/{project['id']}/users/{user['id']}/roles/{role['id']}")).status == 204
    return await admin.login("member", "pw-1234", {"project": {"id": project["id"]}})


async def send(client, method, path, config):
    return await client(method, path, {"config": config})


async def rows(world):
    return [row async for row in world.overlay.scan(DomainOption)]


async def test_what_is_set_is_shown_whole_by_group_and_by_option(admin, path):
    made = await send(admin, "PUT", path, WHOLE)
    assert (made.status, made.body) == (201, {"config": SHOWN})
    assert (await send(admin, "PUT", path, WHOLE)).status == 200
    assert (await admin("GET", path)).body == {"config": SHOWN}
    assert (await admin("GET", f"{path}/ldap")).body == {"config": {"ldap": SHOWN["ldap"]}}
    assert (await admin("GET", f"{path}/ldap/page_size")).body == {"config": {"page_size": 5}}
    head = await admin("HEAD", f"{path}/ldap/url")
    assert (head.status, head.body) == (200, None)


async def test_what_is_not_set_is_not_there(admin, path):
    async def said(method, path, body=None):
        answer = await admin(method, path, body)
        return answer.status, answer.message.partition(" in domain configuration")[0]

    change = {"config": {"ldap": {"url": "x"}}}
    assert await said("GET", path) == (404, "Could not find any options")
    assert await said("GET", f"{path}/ldap") == (404, "Could not find group ldap")
    assert await said("GET", f"{path}/ldap/url") == (404, "Could not find option url in group ldap")
    assert await said("PATCH", f"{path}/ldap", change) == (404, "Could not find group ldap")
    assert await said("DELETE", f"{path}/ldap/url") == (404, "Could not find group ldap")
    await send(admin, "PUT", path, WHOLE)
    assert await said("DELETE", f"{path}/ldap/suffix") == (404, "Could not find option suffix in group ldap")
    option = {"config": {"suffix": "x"}}
    assert await said("PATCH", f"{path}/ldap/suffix", option) == (404, "Could not find option suffix in group ldap")
    assert (await admin("DELETE", path)).status == (await admin("DELETE", path)).status == 204


async def test_a_change_replaces_what_it_names(admin, path):
    await send(admin, "PUT", path, WHOLE)
    whole = await send(admin, "PATCH", path, {"ldap": {"url": "ldap://y", "use_tls": True}})
    assert whole.body["config"] == {**SHOWN, "ldap": {"url": "ldap://y", "page_size": 5, "use_tls": True}}
    group = await send(admin, "PATCH", f"{path}/identity", {"identity": {"list_limit": 3}})
    assert group.body["config"]["identity"] == {"driver": "ldap", "list_limit": 3}
    option = await send(admin, "PATCH", f"{path}/ldap/url", {"url": "ldap://z"})
    assert option.body["config"]["ldap"]["url"] == "ldap://z"
    assert (await admin("GET", path)).body == option.body
    put = await send(admin, "PUT", path, {"identity": {"driver": "sql"}})
    assert put.body["config"] == (await admin("GET", path)).body["config"] == {"identity": {"driver": "sql"}}


async def test_what_is_removed_is_gone_and_nothing_else(admin, path):
    await send(admin, "PUT", path, WHOLE)
    assert (await admin("DELETE", f"{path}/ldap/url")).status == 204
    assert (await admin("GET", path)).body["config"] == {**SHOWN, "ldap": {"page_size": 5}}
    assert (await admin("DELETE", f"{path}/ldap")).status == 204
    assert (await admin("GET", path)).body["config"] == {"identity": {"driver": "ldap"}}
    assert (await admin("DELETE", path)).status == 204
    assert (await admin("GET", path)).status == 404


@pytest.mark.parametrize("value", [None, "", 0, False, [], ["a", 5], {"a": 1}, 1.5, "text"])
async def test_an_option_may_be_anything_and_can_be_removed(admin, path, value):
    await send(admin, "PUT", path, {"ldap": {"url": value}})
    assert (await admin("GET", f"{path}/ldap/url")).body == {"config": {"url": value}}
    assert (await admin("DELETE", f"{path}/ldap/url")).status == 204
    assert (await admin("GET", path)).status == 404


@pytest.mark.parametrize(
    ("method", "below", "config", "said"),
    [
        ("PUT", "", {}, "No options specified."),
        ("PATCH", "/ldap", None, "No options specified."),
        ("PUT", "", {"nope": {"x": 1}}, "Group nope is not supported for domain specific configurations."),
        (
            "PUT",
            "",
            {"ldap": {"url": "x"}, "nope": {"x": 1}},
            "Group nope is not supported for domain specific configurations.",
        ),
        (
            "PATCH",
            "",
            {"ldap": {"nope": 1}},
            "Option nope in group ldap is not supported for domain specific configurations.",
        ),
        *[
            (
                "PUT",
                "",
                {"ldap": value},
                "The value of group ldap specified in the config should be a dictionary of options.",
            )
            for value in ({}, "x", None, ["x"])
        ],
        (
            "PATCH",
            "/ldap",
            {"identity": {"driver": "sql"}},
            "request to update group ldap, but config provided contains group identity instead.",
        ),
        (
            "PATCH",
            "/ldap",
            {"ldap": {"url": "x"}, "identity": {"driver": "sql"}},
            "Trying to update group ldap, so that, and only that, group must be specified in the config.",
        ),
        (
            "PATCH",
            "/ldap/url",
            {"suffix": "x"},
            "Trying to update option url in group ldap, but config provided contains option suffix instead.",
        ),
        (
            "PATCH",
            "/ldap/url",
            {"url": "x", "suffix": "x"},
            "Trying to update option url in group ldap, so that, and only that, option must be specified  in the config.",
        ),
        (
            "PATCH",
            "/ldap/url",
            {"ldap": {"url": "x"}},
            "Option ldap in group ldap is not supported for domain specific configurations.",
        ),
        ("GET", "/nope", None, "Group nope is not supported for domain specific configurations."),
        ("DELETE", "/nope/url", None, "Group nope is not supported for domain specific configurations."),
        (
            "DELETE",
            "/ldap/nope",
            None,
            "Option nope in group ldap is not supported for domain specific configurations.",
        ),
        (
            "PATCH",
            "/security_compliance",
            {"security_compliance": {"password_regex": "x"}},
            "Group security_compliance is not supported for domain specific configurations.",
        ),
    ],
)
async def test_what_cannot_be_set_is_refused_and_changes_nothing(admin, path, method, below, config, said):
    await send(admin, "PUT", path, WHOLE)
    answer = await send(admin, method, path + below, config)
    assert (answer.status, answer.message) == (403, ODD + said)
    assert (await admin("GET", path)).body["config"] == SHOWN


@pytest.mark.parametrize("config", ["x", ["x"], 5, True])
async def test_a_configuration_is_an_object_and_a_refusal_does_not_repeat_it(admin, path, config):
    for method, below in (("PUT", ""), ("PATCH", ""), ("PATCH", "/ldap")):
        answer = await send(admin, method, path + below, [SECRET] if config == ["x"] else config)
        assert (answer.status, SECRET in str(answer.body)) == (400, False)


async def test_only_domains_have_one(admin):
    project = await admin.make("project", name="p", domain_id="default")
    for key in ("nobody", project["id"]):
        for method in ("PUT", "PATCH", "DELETE"):
            answer = await send(admin, method, f"/domains/{key}/config", WHOLE)
            assert (answer.status, answer.message) == (404, f"Could not find domain: {key}.")
        assert (await admin("GET", f"/domains/{key}/config")).status == 404


async def test_it_goes_with_its_domain(admin, path, world):
    await send(admin, "PUT", path, WHOLE)
    domain = path.removesuffix("/config")
    assert (await admin("PATCH", domain, {"domain": {"enabled": False}})).status == 200
    assert (await admin("GET", path)).status == 200
    assert (await admin("DELETE", domain)).status == 204
    assert await rows(world) == []
    assert (await admin("GET", path)).status == 404


# --- secrets ---------------------------------------------------------------------------------------------------------


async def test_a_secret_is_never_shown_nor_stored_in_clear(admin, path, world, capsys):
    answers = [await send(admin, "PUT", path, WHOLE), await send(admin, "PATCH", path, WHOLE)]
    answers += [await admin("GET", path + below) for below in ("", "/ldap", "/ldap/password")]
    answers.append(await send(admin, "PATCH", f"{path}/ldap/password", {"password": SECRET}))
    assert [one.status for one in answers] == [201, 200, 200, 200, 404, 200]
    assert [
        one for one in answers if SECRET in str(one.body) or "password" in json.dumps(one.body.get("config", ""))
    ] == []
    (row,) = [row for row in await rows(world) if row.option == "password"]
    assert row.key_hash is not None
    assert SECRET.encode() not in row.blob
    assert SECRET not in repr(row)
    entries = [msgspec.msgpack.encode(one) for one in await world.overlay.tail("log", 0)]
    assert any(b"domain_options" in one for one in entries)
    assert [one for one in entries if SECRET.encode() in one] == []
    assert [row async for row in world.overlay.scan(Outcome) if SECRET.encode() in row.answer] == []
    assert SECRET not in "".join(capsys.readouterr())


async def test_a_secret_alone_is_there_and_shows_nothing(admin, path):
    assert (await send(admin, "PUT", path, {"ldap": {"password": SECRET}})).body == {"config": {}}
    assert (await admin("GET", path)).status == (await admin("GET", f"{path}/ldap")).status == 404
    changed = await send(admin, "PATCH", f"{path}/ldap", {"ldap": {"password": "other"}})
    assert (changed.status, changed.body) == (200, {"config": {}})
    assert (await send(admin, "PUT", path, WHOLE)).status == 200
    assert (await admin("DELETE", f"{path}/ldap/password")).status == 204
    assert (await admin("DELETE", f"{path}/ldap/password")).status == 404


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("ldap://me:%(password)s@x", f"ldap://me:{SECRET}@x"),
        ("%(nope)s", "%(nope)s"),
        ("%(password)", "%(password)"),
        ("%(password)d", "%(password)d"),
        ("100%", "100%"),
        ("%s", "%s"),
        (5, 5),
    ],
)
async def test_an_option_names_a_secret_which_only_the_inside_sees(admin, path, world, url, whole):
    await send(admin, "PUT", path, {"ldap": {"url": url, "password": SECRET}})
    assert (await admin("GET", f"{path}/ldap/url")).body == {"config": {"url": url}}
    keys = world.controller.part.credentials
    found = await with_secrets(world.overlay, keys, path.split("/")[2])
    assert found == {"ldap": {"url": whole, "password": SECRET}}


# --- defaults, and what everybody may know ---------------------------------------------------------------------------


async def test_the_defaults_are_upstream_s_and_have_no_secret(admin):
    every = "/domains/config"
    assert (await admin("GET", f"{every}/default")).body == {"config": DEFAULTS}
    assert (await admin("GET", f"{every}/identity/default")).body == {"config": {"identity": DEFAULTS["identity"]}}
    assert (await admin("GET", f"{every}/ldap/url/default")).body == {"config": {"url": "ldap://localhost"}}
    for below, said in (
        ("ldap/password", "Reading the default for option password in group ldap is not supported."),
        ("nope", "Group nope is not supported for domain specific configurations."),
        ("ldap/nope", "Option nope in group ldap is not supported for domain specific configurations."),
    ):
        answer = await admin("GET", f"{every}/{below}/default")
        assert (answer.status, answer.message) == (403, ODD + said)


async def test_everybody_may_know_the_rules_of_passwords_of_the_default_domain(admin, member, stranger, path):
    rules = "/domains/default/config/security_compliance"
    for client in (admin, member):
        both = {"password_regex": None, "password_regex_description": None}
        assert (await client("GET", rules)).body == {"config": {"security_compliance": both}}
        assert (await client("GET", f"{rules}/password_regex")).body == {"config": {"password_regex": None}}
        assert (await client("GET", f"{rules}/lockout_duration")).status == 403
        elsewhere = await client("GET", f"{path}/security_compliance")
        said = "Reading security compliance information for any domain other than the default domain is not allowed or "
        assert (elsewhere.status, elsewhere.message) == (403, f"{ODD}{said}supported..")
    assert (await stranger("GET", rules)).status == 401


@pytest.mark.parametrize(
    ("method", "below", "action"),
    [
        ("GET", "", "get_domain_config"),
        ("GET", "/ldap/url", "get_domain_config"),
        ("PUT", "", "create_domain_config"),
        ("PATCH", "", "update_domain_config"),
        ("PATCH", "/ldap", "update_domain_config"),
        ("DELETE", "/ldap", "delete_domain_config"),
        ("DELETE", "", "delete_domain_config"),
    ],
)
async def test_who_may(admin, path, member, stranger, method, below, action):
    await send(admin, "PUT", path, WHOLE)
    said = f"You are not authorized to perform the requested action: identity:{action}."
    for where in (path, "/domains/nobody/config"):
        refused = await send(member, method, where + below, {})
        assert (refused.status, refused.message) == (403, said)
    assert (await send(stranger, method, path + below, {})).status == 401
    assert (await admin("GET", path)).body["config"] == SHOWN


async def test_the_system_may_look(admin, path, member):
    await send(admin, "PUT", path, WHOLE)
    system = await admin.login("admin", "golden-admin-pw", {"system": {"all": True}})
    assert (await system("GET", path)).status == (await system("GET", "/domains/config/default")).status == 200
    assert (await member("GET", "/domains/config/default")).status == 403


async def test_a_group_is_changed_or_removed_but_not_made(admin, path):
    for method, below in (("PUT", "/ldap"), ("PUT", "/ldap/url"), ("POST", "")):
        assert (await send(admin, method, path + below, WHOLE)).status == 405
    assert (await admin("PUT", "/domains/config/default", {"config": WHOLE})).status == 405
