"""How long tokens live, whoever passes them on, and whoever's clock is wrong."""

import contextlib
import itertools
import time

import pytest

from regional_keystone.document import time as shown
from tests.processes import until
from tests.security.forged import sealed
from tests.security.programs import by, program
from tests.security.regions import NAMES, started
from tests.security.rows import HOLDS, row
from tests.security.trusts import acting, trust, using

SOON_S = 5
SECOND = 1_000_000
YEARS_S = 10 * 365 * 86_400
AHEAD_S = {"RegionOne": 40, "RegionTwo": 3600}
# Python reads this before anything else. The program's settings are in a file that is named after its region.
FAST = f"""import sys, time

for name, ahead_s in {AHEAD_S}.items():
    if any(word.endswith(f"/{{name}}.conf") for word in sys.orig_argv):
        true_time, true_time_ns = time.time, time.time_ns
        time.time = lambda: true_time() + ahead_s
        time.time_ns = lambda: true_time_ns() + ahead_s * 10**9
        break
"""


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    """A federation in which one region's clock is a little fast, and another's an hour."""
    folder = tmp_path_factory.mktemp("clocks")
    (folder / "sitecustomize.py").write_text(FAST)
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(folder), prepend=":")
            found = stack.enter_context(started(folder, "token.expiration=7200"))
        until(lambda: _both_clocks_are_known(found.home), "one clock alone is believed")
        yield found


def _both_clocks_are_known(home):
    sites = home.members()[0].page("/status", 10.0)["sites"]
    return None not in {sites[name]["clock_behind_s"] for name in AHEAD_S}


def now():
    return time.time_ns() // 1000


def shown_of(regions, token, at):
    """What a validation shows."""
    answer = regions.validate(token, at)
    assert answer.status == 200, answer.body
    return answer.body["token"]


@row("SEC-01", "a token scoped anew five times lives no longer than the first", HOLDS)
def test_sec_01_scoping_anew_does_not_lengthen_a_life(regions):
    home = regions.household()
    scope = home.auth()["scope"]
    first = token = regions.login(home.auth())
    ends = regions.validate(token).body["token"]["expires_at"]
    for at in ("RegionOne", "RegionTwo", "Global", "RegionOne", "RegionTwo"):
        token = regions.rescope(token, scope, at)
        assert regions.validate(token, at).body["token"]["expires_at"] == ends
    assert token != first


@row("SEC-03", "a token outlives the application credential by which it was made", HOLDS)
def test_sec_03_a_token_ends_with_its_application_credential(regions):
    home = regions.household()
    ends = shown(now() + SOON_S * SECOND)
    made = program(regions, home, expires_at=ends)
    tokens = [regions.login(by(made), at) for at in NAMES]
    for token, at in itertools.product(tokens, NAMES):
        assert shown_of(regions, token, at)["expires_at"] == ends
    regions.becomes(404, *tokens)
    for at in NAMES:
        assert regions.log_in(by(made), at).status == 401
        assert regions.ask("GET", "/v3/auth/projects", token=tokens[0], at=at).status == 401


@row("SEC-04", "a token outlives the trust by which it was made, or the one from which that was made", HOLDS)
def test_sec_04_a_token_ends_with_its_trust(regions):
    home, friend, stranger = regions.household(), regions.household(), regions.household()
    ends = shown(now() + SOON_S * SECOND)
    first = trust(regions, home, friend, expires_at=ends, allow_redelegation=True)
    holder = acting(regions, first, friend)
    second = trust(regions, home, stranger, holder)
    last = regions.login(stranger.auth(None))
    tokens = [holder, *(regions.login(using(second, last), at) for at in NAMES)]
    for token, at in itertools.product(tokens, NAMES):
        assert shown_of(regions, token, at)["expires_at"] == ends
    regions.becomes(404, *tokens)
    for token, at in itertools.product(tokens, NAMES):
        assert regions.validate(token, at, query="?allow_expired=1").status == 404
        assert regions.ask("GET", "/v3/auth/projects", token=token, at=at).status == 401
    for at in NAMES:
        assert regions.log_in(using(second, last), at).status == 401


@row("SEC-05", "the times and ids of a token differ from one validation to another", HOLDS)
def test_sec_05_a_token_shows_the_same_times_and_ids_always(regions):
    home, friend = regions.household(), regions.household()
    answers = [regions.log_in(home.auth(), "RegionOne")]
    root = answers[0].headers["x-subject-token"]
    again = {"identity": {"methods": ["token"], "token": {"id": root}}, "scope": home.auth()["scope"]}
    answers.append(regions.log_in(again, "RegionTwo"))
    unscoped = regions.login(friend.auth(None))
    answers.append(regions.log_in(using(trust(regions, home, friend), unscoped)))
    first = {answer.headers["x-subject-token"]: _stamps(answer.body["token"]) for answer in answers}
    assert [len(ids) for _, ids, _ in first.values()] == [1, 2, 2]
    path = f"/v3/projects/{home.project['id']}"
    for number, at in zip(range(100), itertools.cycle(NAMES)):
        if number % 10 == 0:  # nothing that was remembered of the project holds any more
            regions.expect(200, "PATCH", path, {"project": {"description": str(number)}})
        for token, stamps in first.items():
            assert _stamps(shown_of(regions, token, at)) == stamps


def _stamps(token):
    return token["issued_at"], token["audit_ids"], token["expires_at"]


@row("SEC-22", "a token from a region whose clock is fast evades the revocation of its user", "")
def test_sec_22_a_fast_clock_evades_no_revocation(regions, fast):
    home = regions.household()
    regions.becomes(200, right := sealed(regions, home))
    ahead = sealed(regions, home, age_s=-3600, life_s=7200)
    old = sealed(regions, home, age_s=YEARS_S, life_s=YEARS_S + 600)
    assert set(regions.statuses(ahead)) == {404}
    regions.expect(204, "DELETE", f"/v3/users/{home.user['id']}/tokens")
    regions.becomes(404, right, ahead, old)
    _a_fast_region_is_believed_no_longer_than_a_right_one(fast)


def _a_fast_region_is_believed_no_longer_than_a_right_one(fast):
    users = [fast.household() for _ in range(3)]
    tokens = [fast.login(home.auth(), "RegionOne") for home in users]
    fast.becomes(200, *tokens)
    ways = (
        ("DELETE", "/tokens", None, 204),
        ("PATCH", "", {"user": {"password": "another"}}, 200),
        ("PATCH", "", {"user": {"enabled": False}}, 200),
    )
    for home, (method, path, sent, status) in zip(users, ways, strict=True):
        fast.expect(status, method, f"/v3/users/{home.user['id']}{path}", sent)
    fast.expect(200, "PATCH", f"/v3/users/{users[2].user['id']}", {"user": {"enabled": True}})
    fast.becomes(404, *tokens)
    refused = fast.log_in(users[0].auth(), "RegionTwo")
    assert (refused.status, "retry-after" in refused.headers) == (503, True), refused.body
