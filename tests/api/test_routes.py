"""Every route of Keystone 30.0.0 is served, or stands in docs/divergences.md with its reason."""

import json
import re
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from docs.generate import PAGES

ROOT = Path(__file__).parents[2]
# What upstream's map lists although no handler takes it there: it crashes, or says 405 itself.
ACCIDENTS = {
    "/v3/OS-FEDERATION/mappings": "DELETE PATCH PUT",
    "/v3/OS-OAUTH1/consumers": "DELETE PATCH",
    "/v3/OS-OAUTH1/consumers/{}": "POST",
    "/v3/policies": "DELETE PATCH",
    "/v3/policies/{}": "POST",
    "/v3/users/{}/password": "GET HEAD",
}


def plain(path):
    """The path with its arguments by place: whatever they are called."""
    return re.sub(r"<[^<>]*>|{[^{}]*}", "{}", path)


def upstream():
    lines = (ROOT / "tests" / "golden" / "upstream_routes.txt").read_text().splitlines()
    rows = [line.split(" | ") for line in lines if not line.startswith("#")]
    found = {}
    for path, methods, _ in rows:
        found.setdefault(plain(path), set()).update(methods.split(","))
    return {path: methods - set(ACCIDENTS.get(path, "").split()) for path, methods in found.items()}


def left_out():
    """Path -> methods of the page's table of what is not served."""
    page = (ROOT / "docs" / "divergences.md").read_text()
    table = page.partition("## Routes not served yet")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| ([A-Z, ]+) \| ([^|]+) \| ([^|]+) \|$", table, re.MULTILINE)
    return {plain(path): set(methods.split(", ")) for path, methods, _, _ in rows}


async def allowed(world, path):
    """What the path answers, as its OPTIONS tells; nothing where there is no such path."""
    answer = await world.ask("OPTIONS", path.replace("{}", "some"))
    return set(answer.headers["Allow"].split(", ")) if answer.status == 200 else set()


async def test_every_route_of_upstream_is_served_or_named(world):
    missing, named = {}, left_out()
    for path, methods in upstream().items():
        lacking = methods - await allowed(world, path) - {"OPTIONS"} - named.get(path, set())
        if lacking:
            missing[path] = sorted(lacking)
    assert not missing, "\n".join(f"{path}: {', '.join(methods)}" for path, methods in sorted(missing.items()))


async def test_nothing_is_named_that_is_served_or_unknown_to_upstream(world):
    known = upstream()
    for path, methods in left_out().items():
        assert methods <= known[path], path
        assert not methods & await allowed(world, path), path


async def test_nothing_is_served_that_upstream_has_not(world):
    known = upstream()
    strange = [
        f"{one.method} {one.base}{one.path}" for one in world.api.routes if plain(one.base + one.path) not in known
    ]
    for path, methods in known.items():  # as the router finds it: an argument hides no literal
        strange += [f"{method} {path}" for method in await allowed(world, path) - methods - {"OPTIONS"}]
    assert strange == []


@pytest.mark.parametrize("path", ACCIDENTS)
async def test_what_upstream_lists_by_accident_is_no_method_here(world, admin, path):
    for method in ACCIDENTS[path].split():
        answer = await world.ask(method, path.replace("{}", "some"), headers={"X-Auth-Token": admin.token})
        assert answer.status == 405, method
        assert method not in answer.headers["Allow"].split(", ")


async def test_the_openapi_document_is_valid_and_has_every_route(world):
    document = json.loads(PAGES["docs/openapi.json"]())
    OpenAPIV31SpecValidator(document).validate()
    told = {(method.upper(), plain(path)) for path, methods in document["paths"].items() for method in methods}
    served = {(one.method, plain(one.base + one.path)) for one in world.api.routes}
    assert served == {one for one in told if one[0] != "PARAMETERS"}


def test_the_openapi_document_says_what_a_request_may_be():
    document = json.loads(PAGES["docs/openapi.json"]())
    post = document["paths"]["/v3/users"]["post"]
    user = post["requestBody"]["content"]["application/json"]["schema"]["properties"]["user"]
    assert user["required"] == ["name"]
    assert user["properties"]["password"]["writeOnly"] is True
    assert "password" not in document["components"]["schemas"]["user"]["properties"]
    assert "password_hash" not in json.dumps(document)
    assert document["paths"]["/v3/auth/tokens"]["post"]["security"] == []
    assert {one["name"] for one in document["paths"]["/v3/projects"]["get"]["parameters"]} >= {"domain_id", "parent_id"}
