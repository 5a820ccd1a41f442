"""Names and ids with signs that mean something to a store or a directory; switches and ids that mean something else."""

import ast
import asyncio
import itertools
import json
import re
from pathlib import Path
from urllib.parse import quote, urlencode

import msgspec
import pytest

from regional_keystone.log import Transaction, put
from regional_keystone.model import Group, User
from regional_keystone.record import decode
from tests import replay
from tests.api.conftest import Client
from tests.security.regions import NAMES
from tests.security.rows import HOLDS, row

ROOT = Path(__file__).parents[2]
API = json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"]
SIGNS = (
    "*)(uid=*",
    "(|(cn=*))",
    "' OR '1'='1",
    "';--",
    "a'; DROP TABLE users;--",
    '" OR ""="',
    "\\",
    "%",
    "_",
    "*",
    "a%",
    "A%",
    "a_",
    "?",
    ":name",
    "$$x$$",
    ") ALLOW FILTERING --",
    "{}",
    "\x00",
    "a\x00b",
    "a\nb",
    "\u202eevil",
    "ẞ",
    "İ",
    "\U0001f511",
)
COMPARE = {
    "": lambda value, text: value == text,
    "__contains": lambda value, text: text in value,
    "__icontains": lambda value, text: text.lower() in value.lower(),
    "__startswith": str.startswith,
    "__iendswith": lambda value, text: value.lower().endswith(text.lower()),
}
FILTERS = {  # query keys that a list's page does not name
    "/v3/users": "idp_id protocol_id unique_id password_expires_at",
    "/v3/projects": "tags tags-any",
    "/v3/role_assignments": "role.id user.id group.id scope.project.id scope.domain.id",
    "/v3/OS-TRUST/trusts": "trustor_user_id trustee_user_id",
    "/v3/OS-REVOKE/events": "since",
}
PAGED = "limit marker"
PLAIN = re.compile(
    r"[A-Z_]+|self\.(?:_?[a-z]+|all_dated)|table|whole|inside|first|key|marks|form|one|name|replication\(replicas\)"
)
CALLS = re.compile(r"(_?quoted|_equal|_defined|_greater)\(.*\)|'[,;] '\.join\(.*\)")
WORDS = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|CREATE|DROP|ALTER|BATCH|WHERE|PRAGMA|GRANT|AND)\b")


# --- switches


@row("SEC-66", "a user is enabled by true alone, and by no text or number", HOLDS)
@pytest.mark.parametrize("said", ["FALSE", "false", "0", 0, "", "TRUE", 1, None, [], {}], ids=repr)
def test_sec_66_only_true_is_true(regions, said):
    """What is neither true nor false is refused, so that nobody has to guess; in a query it is a word for one."""
    home = regions.household()
    there = {
        "user": ("/v3/users", home.user, {"domain_id": home.domain["id"]}),
        "project": ("/v3/projects", home.project, {"domain_id": home.domain["id"]}),
        "domain": ("/v3/domains", home.domain, {}),
    }
    regions.expect(200, "PATCH", f"/v3/users/{home.user['id']}", {"user": {"enabled": False}})
    for member, (path, made, fields) in there.items():
        for at in NAMES:
            new = {"name": f"strange-{home.user['name']}", "enabled": said, **fields}
            assert regions.ask("POST", path, {member: new}, at=at).status == 400
            assert regions.ask("PATCH", f"{path}/{made['id']}", {member: {"enabled": said}}, at=at).status == 400
            shown = regions.expect(200, "GET", f"{path}/{made['id']}", at=at)[member]
            assert shown["enabled"] is (member != "user")
            assert regions.expect(200, "GET", f"{path}?name={new['name']}", at=at)[f"{member}s"] == []
            assert regions.log_in(home.auth(), at).status == 401
    for at, word in itertools.product(NAMES, ("FALSE", "false", "0", "off", "no", "n")):
        found = regions.expect(200, "GET", f"/v3/users?domain_id={home.domain['id']}&enabled={word}", at=at)["users"]
        assert [one["id"] for one in found] == [home.user["id"]]
    user = User(id="u" * 32, domain_id="default", name="stored", enabled=said)
    with pytest.raises(msgspec.ValidationError):
        decode(User, msgspec.msgpack.encode(user))
    with pytest.raises(msgspec.ValidationError):
        put(user)


# --- grants of what is not there


def places(home, holder, role):
    """Paths of grants of a role to somebody, on everything that there is."""
    project, domain = f"projects/{home.project['id']}", f"domains/{home.domain['id']}"
    found = [f"/v3/{where}/{holder}/roles/{role['id']}" for where in (project, domain, "system")]
    return found + [
        f"/v3/OS-INHERIT/{where}/{holder}/roles/{role['id']}/inherited_to_projects" for where in (project, domain)
    ]


@row("SEC-67", "taking a role away never gives one, and a group's id is no user's", HOLDS)
def test_sec_67_taking_away_gives_nothing(regions, tmp_path):
    home = regions.household()
    fields = {"name": f"bare-{home.user['name']}", "domain_id": home.domain["id"]}
    user, group = regions.make("user", **fields, password=home.secret), regions.make("group", **fields)
    regions.expect(204, "PUT", f"/v3/groups/{group['id']}/users/{user['id']}")
    for at in NAMES:
        for role in (home.role, regions.roles["admin"]):
            for holder in (f"users/{user['id']}", f"groups/{group['id']}"):
                for path in places(home, holder, role):
                    assert regions.ask("DELETE", path, at=at).status == 404, path
                    assert regions.ask("HEAD", path, at=at).status == 404, path
            for holder in (f"users/{group['id']}", f"groups/{user['id']}"):
                for path in places(home, holder, role):
                    assert regions.ask("PUT", path, at=at).status == 404, path
        [absent] = places(home, f"users/{home.user['id']}", regions.roles["admin"])[:1]
        assert regions.ask("DELETE", absent, at=at).status == 404
    for at in NAMES:
        for query in (f"user.id={user['id']}", f"group.id={group['id']}", f"user.id={user['id']}&effective"):
            assert regions.expect(200, "GET", f"/v3/role_assignments?{query}", at=at)["role_assignments"] == []
        for scope in ("project", "domain", "system"):
            assert regions.log_in(home._replace(user=user).auth(scope), at).status == 401
        body = regions.log_in(home.auth(), at).body
        assert [one["name"] for one in body["token"]["roles"] if one["name"] == "admin"] == []
    asyncio.run(with_one_id(tmp_path))


async def with_one_id(directory):
    """Ids are made here, so that only an import can give a group the id of a user: then neither has the other's."""
    async with replay.world(directory) as world:
        scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
        admin = await Client(world).login("admin", replay.PASSWORD, scope)
        user, member = [await admin.make("user", name=name, password="secret-1") for name in ("user", "member")]
        role = await admin.make("role", name="r")
        granted, other = [await admin.make("project", name=name) for name in ("granted", "other")]
        group = Group(id=user["id"], domain_id="default", name="g")
        commit = world.controller.sequencer.commit
        await commit(Transaction("import", world.overlay.position, frozenset(), (put(group),)))
        assert (await admin("PUT", f"/groups/{group.id}/users/{member['id']}")).status == 204
        assert (await admin("PUT", f"/projects/{granted['id']}/groups/{group.id}/roles/{role['id']}")).status == 204
        assert (await admin("PUT", f"/projects/{other['id']}/users/{user['id']}/roles/{role['id']}")).status == 204
        for name, project, status in (
            ("user", granted, 401),
            ("user", other, 201),
            ("member", granted, 201),
            ("member", other, 401),
        ):
            who = {"name": name, "domain": {"id": "default"}, "password": "secret-1"}
            auth = {"identity": {"methods": ["password"], "password": {"user": who}}}
            body = {"auth": auth | {"scope": {"project": {"id": project["id"]}}}}
            assert (await Client(world)("POST", "/auth/tokens", body)).status == status, (name, project["name"])
        for query, at in ((f"user.id={user['id']}", other), (f"group.id={group.id}", granted)):
            found = (await admin("GET", f"/role_assignments?{query}")).body["role_assignments"]
            assert [one["scope"]["project"]["id"] for one in found] == [at["id"]]


# --- signs


def named_with_signs(regions, home):
    """Of each kind, the names that could be given; one region makes each of them."""
    made = {"users": {home.user["name"]}, "groups": set(), "projects": {home.project["name"]}}
    for (kind, names), (sign, at) in itertools.product(made.items(), zip(SIGNS, itertools.cycle(NAMES))):
        body = {kind[:-1]: {"name": sign, "domain_id": home.domain["id"]}}
        answer = regions.ask("POST", f"/v3/{kind}", body, at=at)
        assert answer.status in {201, 400}, (kind, sign, answer.body)
        if answer.status == 201:
            assert answer.body[kind[:-1]]["name"] == sign
            names.add(sign)
    assert all(len(names) >= len(SIGNS) - 3 for names in made.values())
    return made


@row(
    "SEC-68",
    "names, filters and ids with signs of SQL, CQL and LDAP mean themselves",
    "weaker: `%` and `_` in parts of names are any text",
)
def test_sec_68_signs_mean_themselves(regions):
    home = regions.household()
    made = named_with_signs(regions, home)
    turn = itertools.cycle(NAMES)
    for (kind, names), sign, (how, fits) in itertools.product(made.items(), (*SIGNS, "nobody"), COMPARE.items()):
        query = urlencode({"domain_id": home.domain["id"], f"name{how}": sign})
        answer = regions.ask("GET", f"/v3/{kind}?{query}", at=next(turn))
        assert answer.status == 200, (kind, query, answer.body)
        assert sorted(one["name"] for one in answer.body[kind]) == sorted(n for n in names if fits(n, sign)), query
    for sign in made["users"] - {home.user["name"]}:
        for at in NAMES:
            who = {"name": sign, "domain": {"id": home.domain["id"]}, "password": home.secret}
            auth = {"identity": {"methods": ["password"], "password": {"user": who}}}
            assert regions.log_in(auth, at).status == 401


@pytest.mark.parametrize("regions", ["remembering"], indirect=True)  # lists are not remembered anyway
def test_filters_with_signs_find_nothing_else(regions):
    """Part of SEC-68: every filter of every list, in turn at every region."""
    turn, asked = itertools.cycle(NAMES), 0
    for path, page in API.items():
        if "get" not in page or "{" in path:
            continue
        told = [one["name"] for one in page["get"].get("parameters", ()) if one["in"] == "query"]
        for name, sign in itertools.product({*told, *FILTERS.get(path, "").split(), *PAGED.split()}, SIGNS):
            answer = regions.ask("GET", f"{path}?{urlencode({name: sign})}", at=next(turn))
            assert answer.status in {200, 300, 400, 403, 404, 410}, (path, name, sign, answer.body)
            if answer.status == 200 and name not in PAGED:
                found = next((rows for rows in answer.body.values() if isinstance(rows, list)), [])
                assert [one for one in found if one.get(name) != sign] == [], (path, name, sign)
                asked += 1
    assert asked > 300


@pytest.mark.parametrize("regions", ["remembering"], indirect=True)
def test_ids_with_signs_are_just_not_found(regions):
    """Part of SEC-68: every argument of every path, to read and to change, in turn at every region."""
    home, turn = regions.household(), itertools.cycle(NAMES)
    collections = ("users", "groups", "projects", "domains", "roles", "services", "endpoints", "regions", "policies")

    def everything():
        lists = {one: regions.expect(200, "GET", f"/v3/{one}")[one] for one in collections}
        return {name: {row["id"] for row in rows} for name, rows in lists.items()}

    before = everything()
    for path, page in API.items():
        arguments = re.findall(r"{(\w+)}", path)
        for method, sign in itertools.product(page, SIGNS if arguments else ()):
            changes = method not in {"get", "head"}
            if changes and sign not in SIGNS[:4]:
                continue
            values = dict.fromkeys(arguments, quote(sign, safe=""))
            if len(arguments) > 1 and "user_id" in arguments and not changes:
                values["user_id"] = home.user["id"]
            answer = regions.ask(
                method.upper(), path.format(**values), {"nonsense": {}} if changes else None, at=next(turn)
            )
            assert answer.status < 500, (method, path, sign, answer.body)
            if answer.status < 300:
                assert empty(answer.body), (method, path, sign, answer.body)
    assert everything() == before
    assert {regions.log_in(home.auth(), at).status for at in NAMES} == {201}


def empty(body):
    """Whether a body shows no row at all."""
    return not any(body[name] for name in body if name not in {"links", "truncated"}) if body else True


def test_values_never_become_part_of_a_statement():
    """The lint of SEC-68: what is written into a statement are names of ours; values are bound."""
    suspicious, statements = [], 0
    for path in sorted((ROOT / "regional_keystone").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.JoinedStr(values=parts):
                    text = "".join(part.value for part in parts if isinstance(part, ast.Constant))
                    written = [ast.unparse(part.value) for part in parts if isinstance(part, ast.FormattedValue)]
                case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Mod() | ast.Add(), right=right):
                    written = [f"by operator: {ast.unparse(right)}"]
                case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format")):
                    written = ["by format"]
                case _:
                    continue
            if WORDS.search(text):
                statements += 1
                bad = [one for one in written if not (PLAIN.fullmatch(one) or CALLS.fullmatch(one))]
                suspicious += [f"{path.name}: {one}" for one in bad]
    assert statements > 40
    told = ["cassandra_safety.py: replication(wanted)", "cassandra_safety.py: section.keyspace"]
    assert suspicious == told, "sentences for the operator, not statements"
