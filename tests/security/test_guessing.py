"""Guessing: what the answer to a wrong guess tells, and how many guesses there are."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import bcrypt
import pytest

from controller.probe import until
from regional_keystone.model import Attempts
from tests.api.conftest import Client
from tests.security.conftest import MODES
from tests.security.inside import PASSWORD, at_a_place, rows
from tests.security.regions import NAMES, started
from tests.security.rows import HOLDS, UNKNOWN, row

pytestmark = [pytest.mark.federation, pytest.mark.together("security-guessing")]
LIMIT, DAY = 5, 86_400
FIRST, NEXT = PASSWORD, "second-password-2"
STRICT = (
    f"security_compliance.lockout_failure_attempts={LIMIT}",
    "security_compliance.lockout_duration=3600",
)


@pytest.fixture(scope="module", params=MODES)
def strict(request, tmp_path_factory):
    """A federation in which guesses are counted."""
    with started(tmp_path_factory.mktemp("strict"), *MODES[request.param], *STRICT) as found:
        yield found


@pytest.fixture
def work(monkeypatch):
    """What every hash that is computed here costs, in the order in which they are computed."""
    spent = []

    def noted(real):
        def compute(password, salt):
            spent.append(salt[:7].decode())
            return real(password, salt)

        return compute

    for name in ("hashpw", "checkpw"):
        monkeypatch.setattr(bcrypt, name, noted(getattr(bcrypt, name)))
    return spent


def by_id(user, password, methods=("password",)):
    return {"identity": {"methods": [*methods], "password": {"user": {"id": user["id"], "password": password}}}}


def by_name(name, domain, password="wrong"):
    user = {"name": name, "domain": domain, "password": password}
    return {"identity": {"methods": ["password"], "password": {"user": user}}}


def by_secret(identifier, secret="wrong"):
    said = {"id": identifier, "secret": secret}
    return {"identity": {"methods": ["application_credential"], "application_credential": said}}


def shown(answer):
    """All of an answer but what differs between any two."""
    headers = {name: value for name, value in answer.headers.items() if name not in {"date", "x-openstack-request-id"}}
    return answer.status, headers, answer.body


def failures(regions, user, least=1):
    """The failed logins of a user by the place that counted them, once all regions know the same of them."""

    def known():
        sites = [one for one in regions.home.members() if not one.is_controller]
        if any(one.page("/status")["own_feed"]["pending"] for one in sites):
            return None
        seen = [{one.place: one.failed for one in rows(regions.home, at, Attempts, user_id=user["id"])} for at in NAMES]
        return seen[0] if seen[0] == seen[1] == seen[2] and sum(seen[0].values()) >= least else None

    return until("all regions to know the same failures", known)


# --- what an answer tells


def wrong_logins(regions):
    """Every kind of user whose password is not known, and of those who are not there."""
    home, away = regions.household(), regions.household()
    disabled = regions.make("user", name="disabled", domain_id=home.domain["id"], password=FIRST, enabled=False)
    locked = regions.make("user", name="locked", domain_id=home.domain["id"], password=FIRST)
    bare = regions.make("user", name="bare", domain_id=home.domain["id"])
    credential = f"/v3/users/{home.user['id']}/application_credentials"
    key = regions.make("application_credential", credential, token=regions.login(home.auth()), name="key")
    regions.expect(200, "PATCH", f"/v3/domains/{away.domain['id']}", {"domain": {"enabled": False}})
    for number in range(LIMIT):
        assert regions.log_in(by_id(locked, f"wrong-{number}"), "RegionOne").status == 401
    failures(regions, locked, LIMIT)
    return {
        "wrong password": by_id(home.user, "wrong"),
        "by name": by_name(home.user["name"], {"id": home.domain["id"]}),
        "unknown id": by_id({"id": "0" * 32}, "wrong"),
        "unknown name": by_name("nobody", {"id": home.domain["id"]}),
        "unknown domain": by_name(home.user["name"], {"name": "nowhere"}),
        "disabled": by_id(disabled, "wrong"),
        "disabled, right password": by_id(disabled, FIRST),
        "locked out": by_id(locked, "wrong"),
        "locked out, right password": by_id(locked, FIRST),
        "no password": by_id(bare, "wrong"),
        "disabled domain": by_id(away.user, away.secret),
        "credential, wrong secret": by_secret(key["id"]),
        "credential, unknown": by_secret("0" * 32),
    }


@row(
    "SEC-71", "a wrong guess is answered alike for known, unknown, disabled and locked users", "weaker: the time tells"
)
def test_sec_71_a_wrong_guess_tells_nothing(strict, tmp_path, work):
    """Status, headers and body are compared; instead of time, which a busy machine makes up, the hashes computed."""
    logins = wrong_logins(strict)
    for at in NAMES:
        answers = {kind: shown(strict.log_in(auth, at)) for kind, auth in logins.items()}
        assert {answer[0] for answer in answers.values()} == {401}
        assert {kind for kind, answer in answers.items() if answer != answers["wrong password"]} == set()
        changes = {
            shown(strict.ask("POST", f"/v3/users/{one}/password", body, token="", at=at))[2]["error"]["message"]
            for one in (logins["wrong password"]["identity"]["password"]["user"]["id"], "0" * 32)
            for body in [{"user": {"original_password": "wrong", "password": NEXT}}]
        }
        assert len(changes) == 1
    rules = {"lockout_failure_attempts": 2, "password_expires_days": 1, "disable_user_account_days_inactive": 2}
    asyncio.run(at_a_place(tmp_path, rules, lambda place: costs_the_same(place, work)))


async def costs_the_same(place, work):
    """Each refusal computes one hash, of one cost, whoever is meant."""
    users = {"expired": {}, "disabled": {"enabled": False}, "locked": {}, "bare": {"password": None}}
    made = {name: await place.admin.make("user", **{"name": name, "password": FIRST} | users[name]) for name in users}
    domain = await place.admin.make("domain", name="off")
    made["away"] = await place.admin.make("user", name="away", password=FIRST, domain_id=domain["id"])
    await place.admin("PATCH", f"/domains/{domain['id']}", {"domain": {"enabled": False}})
    for _ in range(2):
        await place.login("wrong", id=made["locked"]["id"])
    place.later(DAY)
    asked = {name: {"id": one["id"]} for name, one in made.items()}
    asked |= {"unknown": {"id": "0" * 32}, "nameless": {"name": "nobody", "domain": {"id": "default"}}}
    answers = {}
    for name, who in asked.items():
        work.clear()
        answer = await place.login("wrong", **who)
        answers[name] = (answer.status, answer.body, answer.headers, tuple(work))
    assert {name: one for name, one in answers.items() if one != answers["expired"]} == {}
    assert answers["expired"][3] == ("$2b$04$",)
    place.later(DAY)
    work.clear()
    inactive = await place.login(FIRST)
    assert (inactive.status, inactive.body, tuple(work)) == (401, answers["expired"][1], ("$2b$04$",))


# --- how many guesses there are


@row("SEC-75", "two hundred guesses at once over all regions: few are tried, then the right one opens nothing", UNKNOWN)
def test_sec_75_guesses_at_once_are_counted_over_all_regions(strict):
    """Each place allows the limit until it has heard of the others: that is the stated slack."""
    home = strict.household()
    guesses = [(by_id(home.user, f"guess-{number}"), NAMES[number % 3]) for number in range(200)]
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda one: strict.log_in(*one).status, guesses))
        assert set(answers) <= {401, 503}
        assert answers.count(401) > LIMIT
        right = list(pool.map(lambda number: strict.log_in(home.auth(), NAMES[number % 3]).status, range(9)))
    assert set(right) == {401}
    tried = failures(strict, home.user, LIMIT)
    assert set(tried) <= {"@controller", "RegionOne", "RegionTwo"}
    assert max(tried.values()) <= LIMIT
    assert {strict.log_in(home.auth(), at).status for at in NAMES} == {401}
    assert failures(strict, home.user, LIMIT) == tried, "who is locked out is counted no further"
    other = strict.household(domain=home.domain)
    assert {strict.log_in(other.auth(), at).status for at in NAMES} == {201}
    strict.expect(200, "PATCH", f"/v3/users/{home.user['id']}", {"user": {"enabled": True}})
    assert {strict.log_in(home.auth(), at).status for at in NAMES} == {201}


@row("SEC-89", "a method that is named a thousand times is one method, and one guess", HOLDS)
def test_sec_89_a_method_named_often_is_tried_once(strict, tmp_path, work):
    """Work is counted, as failures that all regions know of and as hashes, and not timed."""
    often = ["password"] * 1000
    for at in NAMES:
        home = strict.household()
        assert strict.log_in(by_id(home.user, "wrong", often), at).status == 401
        assert sum(failures(strict, home.user).values()) == 1
        for unknown in (["nonsense"] * 1000, [f"nonsense-{number}" for number in range(500)]):
            auth = by_id(home.user, home.secret, ["password", *unknown])
            auth["identity"] |= {name: {} for name in unknown}
            assert strict.log_in(auth, at).status == 401
        answer = strict.log_in(by_id(home.user, home.secret, often), at)
        assert answer.status == 201
        assert answer.body["token"]["methods"] == ["password"]
        token = answer.headers["x-subject-token"]
        again = strict.log_in({"identity": {"methods": ["token"] * 1000, "token": {"id": token}}}, at)
        assert sorted(again.body["token"]["methods"]) == ["password", "token"]
    asyncio.run(at_a_place(tmp_path, {}, lambda place: one_hash_each(place, often, work)))


async def one_hash_each(place, methods, work):
    """A login computes one hash, the wrong one and the right one."""
    for password, status in (("wrong", 401), (FIRST, 201)):
        work.clear()
        auth = by_id({"id": place.id}, password, methods)
        answer = await Client(place.world)("POST", "/auth/tokens", {"auth": auth})
        assert (answer.status, work) == (status, ["$2b$04$"])
