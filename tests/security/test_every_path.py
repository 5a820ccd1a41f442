"""Every way in which a region can call a token good, and what only pretends to be one though its seal is right."""

import struct
import time

import msgspec
import pytest

from regional_keystone.key_directory import read_directory
from tests.security.regions import NAMES
from tests.security.rows import HOLDS, row

TOKENS = "/v3/auth/tokens"
QUERIES = ("", "?nocatalog", "?allow_expired=1", "?nocatalog&allow_expired=1", "?validate=1")
AS_ITSELF = (
    "/v3/auth/projects",
    "/v3/auth/domains",
    "/v3/auth/system",
    "/v3/auth/catalog",
    "/v3/users/{user}",
    "/v3/users/{user}/projects",
    "/v3/users/{user}/application_credentials",
    "/v3/projects/{project}",
)


def answers(regions, home, token):
    """What each path says of a token, by what was asked."""
    found = {}
    names = {"user": home.user["id"], "project": home.project["id"]}
    for at in NAMES:
        for query in QUERIES:
            for by in (None, token):  # by a service, and by itself
                for method in ("GET", "HEAD"):
                    answer = regions.ask(method, TOKENS + query, token=by, at=at, X_Subject_Token=token)
                    found[method, query, "itself" if by else "a service", at] = answer.status
        for path in AS_ITSELF:
            found["GET", path, "", at] = regions.ask("GET", path.format(**names), token=token, at=at).status
        for scope in (None, home.auth()["scope"]):
            auth = {"identity": {"methods": ["token"], "token": {"id": token}}} | ({"scope": scope} if scope else {})
            found["POST", TOKENS, str(scope), at] = regions.log_in(auth, at).status
    return found


@row("SEC-21", "a way to have a token called good at which nobody looks whether it was revoked")
@pytest.mark.parametrize("warm", [True, False], ids=["asked before", "not asked before"])
def test_sec_21_no_path_forgets_to_look(regions, warm):
    home = regions.household()
    token = regions.login(home.auth(None))
    token = regions.rescope(token, home.auth()["scope"], "RegionOne")
    if warm:
        before = answers(regions, home, token)
        assert set(before.values()) <= {200, 201}, before
    assert regions.ask("DELETE", TOKENS, at="RegionTwo", X_Subject_Token=token).status == 204
    regions.becomes(404, token)
    for asked, status in answers(regions, home, token).items():  # a login by it says 404, as with Keystone
        assert status == (404 if asked[0] == "POST" or asked[2] == "a service" else 401), asked


@row("SEC-17", "who leaves a group, or loses it, keeps what it gave; others lose what they have", HOLDS)
def test_sec_17_a_group_that_goes_takes_its_members_tokens_and_nobody_elses(regions):
    homes = [regions.household() for _ in range(4)]
    leaves, loses, kept, never = homes
    groups = [regions.make("group", name=f"{home.user['name']} group", domain_id=home.domain["id"]) for home in homes]
    members = ((groups[0], leaves), (groups[1], loses), (groups[2], kept))
    for group, home in members:
        regions.expect(204, "PUT", f"/v3/groups/{group['id']}/users/{home.user['id']}")
    for group, home in zip(groups, homes, strict=True):  # of one that gave nothing nobody loses anything
        role = regions.roles["reader"]["id"]
        regions.expect(204, "PUT", f"/v3/projects/{home.project['id']}/groups/{group['id']}/roles/{role}")
    own, others = (
        [regions.login(home.auth()) for home in (leaves, loses)],
        [regions.login(home.auth()) for home in (kept, never)],
    )
    regions.becomes(200, *own, *others)
    regions.expect(204, "DELETE", f"/v3/groups/{groups[0]['id']}/users/{leaves.user['id']}")
    regions.expect(204, "DELETE", f"/v3/groups/{groups[1]['id']}")
    regions.expect(204, "DELETE", f"/v3/groups/{groups[3]['id']}")
    regions.becomes(404, *own)
    regions.becomes(200, *others)


@row("SEC-19", "anybody reads whose tokens were revoked", HOLDS)
def test_sec_19_revocations_are_for_services_and_administrators(regions):
    home = regions.household(role="manager")
    token = regions.login(home.auth())
    for at in NAMES:
        assert regions.ask("GET", "/v3/OS-REVOKE/events", token=token, at=at).status == 403
        assert regions.ask("GET", "/v3/OS-REVOKE/events", token="", at=at).status == 401
        assert regions.ask("GET", "/v3/OS-REVOKE/events", at=at).status == 200
        for one in (token, None):
            assert regions.ask("GET", f"{TOKENS}/OS-PKI/revoked", token=one, at=at).status in {403, 404, 410}


def _raw(home, *, version, issued_at):
    """A payload of the project kind as a list, that a region could have made but for what a test changes."""
    user, project = (bytes.fromhex(one["id"]) for one in (home.user, home.project))
    return [version, [True, user], 2, [True, project], float(issued_at + 600), [b"0123456789abcdef"]]


def _forged(home):
    """Contents that no region would seal, though they pack without a fault."""
    good = _raw(home, version=2, issued_at=int(time.time()))
    pack = msgspec.msgpack.encode
    yield "good", pack(good)
    for version in (-1, 11, 255, "2", None, 2**63, [2]):
        yield f"version {version}", pack([version, *good[1:]])
    for count in range(len(good)):
        yield f"{count} fields", pack(good[:count])
    for expiry in (float("nan"), float("inf"), -1e300, 1e300, "soon", None):
        yield f"expiry {expiry}", pack([*good[:4], expiry, good[5]])
    for ids in ([], None, [b""], [b"x" * 4000], [[]], "text"):
        yield f"ids {ids!r:.20}", pack([*good[:5], ids])
    for user in ([True, b"short"], [False, b"\xff\xfe"], [True], [], None, {"a": 1}, [1, 2, 3]):
        yield f"user {user!r}", pack([good[0], user, *good[2:]])
    for methods in (-1, 2**40, None, "password"):
        yield f"methods {methods}", pack([*good[:2], methods, *good[3:]])
    yield "an integer", pack(7)
    yield "a map", pack({"user": "admin"})
    yield "an extension", pack([msgspec.msgpack.Ext(5, b"x"), *good[1:]])
    yield "nothing", b""
    yield "no msgpack", b"\xc1" * 40
    yield "cut", pack(good)[:-7]
    yield "followed by more", pack(good) + b"\x00"
    yield "a depth", b"\x91" * 3000 + b"\xc0"
    yield "a length that is not there", b"\xdd" + struct.pack(">I", 2**32 - 1)


@row("SEC-24", "whoever has a key seals what is no token: each is refused as one, and breaks nothing", "")
def test_sec_24_whatever_is_sealed_is_looked_at(regions):
    home = regions.household()
    ring = read_directory(regions.home.state("RegionOne") / "fernet-keys")
    now = int(time.time()) * 1_000_000
    sealed = {name: ring.seal(content, now) for name, content in _forged(home)}
    good = sealed.pop("good")
    regions.becomes(200, good)  # so the others are refused for what they say
    for at in NAMES:
        for name, token in sealed.items():
            for query in ("", "?allow_expired=1"):
                assert regions.validate(token, at, query=query).status == 404, name
            assert regions.ask("GET", "/v3/auth/projects", token=token, at=at).status == 401, name
    regions.becomes(200, good)
