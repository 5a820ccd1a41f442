"""What is secret comes from the system's randomness, never from a request: whoever knows its id would know the rest.

`call.fresh` makes ids out of the request's id, so that a handler that runs again says the same again.
"""

import ast
from pathlib import Path

import pytest

from regional_keystone import model
from regional_keystone.record import TABLES

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for package in ("regional_keystone", "controller") for path in (ROOT / package).rglob("*.py"))
IDS = {"id", "domain_id", "key"}  # where an id out of a request may go: a field, or a variable
RANDOM = {"secrets.token_hex", "secrets.token_urlsafe", "os.urandom", "bcrypt.gensalt", "Fernet.generate_key"}

MAKERS = {  # each secret field -> the functions that make it, or all that is kept of it
    "users.password_hash": {"regional_keystone/passwords.py:_hash"},
    "users.password_history": {"regional_keystone/passwords.py:_hash"},
    "application_credentials.secret_hash": {
        "regional_keystone/api/application_credentials.py:_secret",
        "regional_keystone/passwords.py:_hash",
    },
    "credentials.blob": {"regional_keystone/api/credentials.py:_new_ec2"},
    "consumers.secret": {"regional_keystone/api/oauth1.py:_new_secret"},
    "access_tokens.secret": set(),  # nothing makes access tokens yet
    "sites.join_digest": {"controller/sites.py:invite"},
    "outcomes.answer": {
        "regional_keystone/api/outcomes.py:outcome",
        "regional_keystone/api/outcomes.py:repeatable",
    },
    "domain_options.blob": set(),  # what an administrator says
}
RINGS = {  # what the rest is sealed with
    "controller/credential_keys.py:setup",
    "controller/credential_keys.py:rotate",
    "controller/rotate.py:setup",
    "controller/rotate.py:_turn",
}


def dotted(node):
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def called(tree):
    return {dotted(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def function(place):
    path, _, name = place.partition(":")
    found = [
        node
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name
    ]
    assert len(found) == 1, place
    return found[0]


def uses_of_fresh(tree):
    """(line, where the value goes: the field, key or variable) of every id that is made out of a request."""
    above = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and dotted(node.func).endswith("call.fresh")]
    for call in sorted(calls, key=lambda one: (one.lineno, one.col_offset)):
        yield call.lineno, goes_to(call, above)


def goes_to(node, above):
    parent = above[node]
    match parent:
        case ast.BoolOp():
            return goes_to(parent, above)
        case ast.keyword():
            return parent.arg
        case ast.Dict():
            return ast.literal_eval(parent.keys[parent.values.index(node)])
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name
        case _:
            return ast.unparse(parent)


def test_an_id_out_of_a_request_is_only_ever_an_id():
    used = [
        (str(path.relative_to(ROOT)), line, place)
        for path in SOURCES
        for line, place in uses_of_fresh(ast.parse(path.read_text()))
    ]
    assert len(used) > 10
    assert [one for one in used if one[2] not in IDS] == []


def test_every_secret_field_has_a_maker():
    secret = {
        f"{table.name}.{name}"
        for table in TABLES.values()
        if table.kind.__module__.startswith(model.__name__)
        for name, field in table.fields.items()
        if "secret" in field.marks
    }
    assert secret == MAKERS.keys()


def test_who_makes_access_tokens_is_to_be_named_here():
    makers = [str(path.relative_to(ROOT)) for path in SOURCES if "AccessToken" in called(ast.parse(path.read_text()))]
    assert bool(makers) == bool(MAKERS["access_tokens.secret"]), makers


@pytest.mark.parametrize("place", sorted(RINGS.union(*MAKERS.values())))
def test_a_secret_is_made_of_randomness_alone(place):
    maker = function(place)
    assert called(maker) & RANDOM, f"{place} asks for no randomness"
    if place.startswith("regional_keystone/api/outcomes.py"):
        return  # it seals an answer for its request, with a nonce and a secret of its own
    assert foreseen(maker) - ({"now"} if place.startswith("controller/") else set()) == set()  # when it was made


def foreseen(maker):
    """What a function uses that leads back to a request, a clock or a seed."""
    names = {node.id for node in ast.walk(maker) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in ast.walk(maker) if isinstance(node, ast.Attribute)}
    return (names & {"call", "request", "random", "uuid"}) | (attributes & {"fresh", "request", "now", "uuid5"})


def test_a_secret_out_of_a_request_would_be_found():
    source = (
        "new = Consumer(id=call.fresh('a'), secret=call.fresh('b'))\nsecret = x or call.fresh('c')\nf(call.fresh('d'))"
    )
    assert [place for _, place in uses_of_fresh(ast.parse(source))] == ["id", "secret", "secret", "f(call.fresh('d'))"]
    maker = ast.parse("def made(call): return uuid.uuid5(A, call.fresh('x')), secrets.token_hex(call.now)")
    assert foreseen(maker) == {"call", "uuid", "uuid5", "fresh", "now"}
