"""How old what is known may be: for which tokens, how it is told, and what cannot make it look younger."""

import asyncio
import dataclasses
import re

import pytest

from controller.heartbeat import beat
from regional_keystone.errors import NotFound, Unauthenticated, Unavailable
from regional_keystone.freshness import Age, Limits
from regional_keystone.log import put
from regional_keystone.middleware_cache import Strategy, told
from regional_keystone.settings import Freshness
from regional_keystone.token import DomainScope, ProjectScope, SystemScope, Unscoped
from tests.site.realm import PASSWORD, SCOPE_P, SETTINGS, SYSTEM, P, U, ask, grant, realm
from tests.site.test_validate import sealed
from tests.stand_ins import ManualClock

LIMITS = Freshness(system=10.0, domain=20.0, project=30.0, unscoped=40.0)
WISHES = {
    "system": SYSTEM,
    "domain": {"domain": {"id": "default"}},
    "project": SCOPE_P,
    "unscoped": "unscoped",
}
SCOPES = {
    "system": SystemScope(),
    "domain": DomainScope("default"),
    "project": ProjectScope(P),
    "unscoped": Unscoped(),
}
SECOND = 1_000_000


@pytest.fixture
async def place(tmp_path):
    """U is an administrator everywhere, and every class has a limit of its own."""
    settings = dataclasses.replace(SETTINGS, freshness=LIMITS)
    async with realm(tmp_path, settings=settings) as made:
        targets = {"project": P, "domain": "default", "system": "system"}
        made.change(*(put(grant(U, where, "admin", target=kind)) for kind, where in targets.items()))
        yield made


async def tokens(place):
    return {name: (await place.login(wish)).text for name, wish in WISHES.items()}


async def validated(place, caller, subject, method="GET", query=""):
    """As a service is answered: by the fast path where that answers, else by the long road."""
    if not query:
        body = place.fastpath.ask(caller, subject, True, place.clock.now(), head=method == "HEAD")
        if body is not None:
            return 200
    status, headers, said = await ask(place.api(), method, f"/v3/auth/tokens{query}", token=caller, subject=subject)
    if status == 503:
        assert headers["Retry-After"] == "1"
        assert method == "HEAD" or re.search("tokens for [1-4]0 s; try again", said["error"]["message"])
    return status


@pytest.mark.parametrize("warm", [True, False])
async def test_the_stricter_of_the_callers_and_the_subjects_class_decides(place, warm):
    made = await tokens(place)
    limits = dataclasses.asdict(LIMITS)
    pairs = [(caller, subject) for caller in ("system", "project") for subject in made]
    if warm:
        for caller, subject in pairs:
            assert await validated(place, made[caller], made[subject]) == 200
    for age in (9.0, 15.0, 25.0, 35.0, 45.0, 1e9, float("inf")):
        place.known.age = age
        for caller, subject in pairs:
            if not warm:
                place.fastpath.forget_all()
            fresh = age <= min(limits[caller], limits[subject])
            for method in ("GET", "HEAD"):
                got = await validated(place, made[caller], made[subject], method)
                assert got == (200 if fresh else 503), (age, caller, subject, method)


@pytest.mark.parametrize("name", WISHES)
async def test_every_route_asks_for_the_callers_class_and_no_answer_says_that_it_is_nobody(place, name):
    text = (await place.login(WISHES[name])).text
    rescoping = {"auth": {"identity": {"methods": ["token"], "token": {"id": text}}, "scope": SCOPE_P}}
    place.known.age = getattr(LIMITS, name) + 1
    asked = [
        ("GET", "/v3/users", None),
        ("GET", "/v3/auth/projects", None),
        ("GET", "/v3/auth/catalog", None),
        ("PATCH", f"/v3/users/{U}", {"user": {"description": "x"}}),
        ("DELETE", f"/v3/users/{U}/tokens", None),
        ("POST", "/v3/auth/tokens", rescoping),
    ]
    for method, path, body in asked:
        status, headers, _ = await ask(place.api(), method, path, token=text, subject=text, body=body)
        assert (status, headers["Retry-After"]) == (503, "1"), (method, path)


@pytest.mark.parametrize("remembered", [True, False])
async def test_whoever_ends_a_token_needs_knowledge_for_himself_alone_and_none_to_end_his_own(place, remembered):
    made, others = await tokens(place), await tokens(place)
    if not remembered:
        place.fastpath.forget_all()
    place.known.age = LIMITS.project - 1  # too old for system and domain
    for name, status in (("system", 204), ("unscoped", 503), ("project", 204)):
        path = "/v3/auth/tokens"
        subject, caller = made["domain" if name == "project" else name], made["project" if name == "project" else name]
        if name == "unscoped":
            subject, caller = others["unscoped"], others["system"]
        got, headers, _ = await ask(place.api(), "DELETE", path, token=caller, subject=subject)
        assert (got, headers.get("Retry-After")) == (status, None if status == 204 else "1"), name
    place.known.age = 0.0
    ended = {name: await validated(place, others["project"], made[name]) for name in made}
    assert ended == {"system": 404, "domain": 404, "project": 200, "unscoped": 200}
    assert await validated(place, others["project"], others["unscoped"]) == 200


@pytest.mark.parametrize("name", WISHES)
async def test_a_token_that_would_not_be_answered_for_is_not_issued_and_no_password_is_called_wrong(place, name):
    place.known.age = getattr(LIMITS, name)
    assert await place.login(WISHES[name])
    with pytest.raises(Unauthenticated):
        await place.login(WISHES[name], password="another")
    place.known.age += 1
    for secret in (PASSWORD, "another"):  # which of them is right may have changed
        with pytest.raises(Unavailable) as refused:
            await place.login(WISHES[name], password=secret)
        assert f"decides about {name} tokens" in refused.value.message


async def test_the_class_of_a_default_scope_counts_as_well(place):
    place.known.age = LIMITS.unscoped + 1
    with pytest.raises(Unavailable):
        await place.login()


async def test_without_a_scope_no_password_is_called_wrong_where_it_may_be_new(place):
    place.known.age = LIMITS.project + 1  # of what a default project would be; the rest would be served
    for secret in (PASSWORD, "another"):
        with pytest.raises(Unavailable):
            await place.login(password=secret)


async def test_nobody_is_called_inactive_where_a_login_elsewhere_may_not_be_known(place):
    text, other = (await place.login(SCOPE_P)).text, (await place.login(SYSTEM)).text
    asked = []
    place.known.may_lack = lambda at: asked.append(at) or place.known.lacks
    place.validator.active_until = lambda user: 10 * SECOND
    place.known.lacks, place.known.age = True, LIMITS.project
    for _ in range(2):
        verdict = await place.validator.check(text)
        with pytest.raises(Unavailable):
            await place.validator.check(other)
        assert place.fastpath.verdict(verdict.digest, place.clock.now()) is None, "it is asked anew each time"
    assert told(text, verdict, (Strategy(),)).ends_at == 10 * SECOND, "nor is it left in a service's cache"
    assert set(asked) == {10 * SECOND}, "what matters is what is known of the time until then"
    place.known.lacks = False
    with pytest.raises(NotFound):
        await place.validator.check(text)
    place.known.age = LIMITS.project + 1
    with pytest.raises(Unavailable):
        await place.validator.check(text)


async def test_without_a_limit_a_token_is_served_until_it_expires_or_the_window_after_it_ends(tmp_path):
    settings = dataclasses.replace(SETTINGS, freshness=Freshness(system=0, domain=0, project=0, unscoped=0))
    async with realm(tmp_path, settings=settings) as place:
        place.change(put(grant(U, P, "admin")))
        text, place.known.age = (await place.login(SCOPE_P)).text, float("inf")
        window_s = settings.token.allow_expired_window
        assert await place.validator.check(text)
        await place.clock.advance(settings.token.expiration + window_s - 1)
        with pytest.raises(NotFound):
            await place.validator.check(text)
        assert await place.validator.check(text, allow_expired=True)
        await place.clock.advance(1)
        with pytest.raises(NotFound):
            await place.validator.check(text, allow_expired=True)


async def test_with_a_limit_a_shown_expired_token_is_refused_by_it(place):
    text = (await place.login(SCOPE_P)).text
    await place.clock.advance(place.settings.token.expiration + 5)
    place.known.age = LIMITS.project
    assert await place.validator.check(text, allow_expired=True)
    place.known.age += 1
    with pytest.raises(Unavailable):
        await place.validator.check(text, allow_expired=True)


@pytest.mark.parametrize("scope", SCOPES.values(), ids=SCOPES)
async def test_who_is_not_known_here_may_be_known_elsewhere(place, scope):
    """A user, or a role, that has come since: the token is neither unknown nor worthless."""
    text = sealed(place, user_id="cc" * 16, scope=scope)
    with pytest.raises(NotFound):
        await place.validator.check(text)
    place.known.lacks = True
    with pytest.raises(Unavailable):
        await place.validator.check(text)
    place.known.lacks, place.known.age = False, 41.0
    with pytest.raises(Unavailable):
        await place.validator.check(text)
    place.revoke(user_id="cc" * 16)
    with pytest.raises(NotFound):
        await place.validator.check(text)


async def test_what_is_known_to_have_ended_a_token_holds_at_any_age(place):
    text = (await place.login(SYSTEM)).text
    expired = sealed(place, scope=SystemScope(), expires_at=place.clock.now() - SECOND)
    place.revoke(user_id=U)
    place.known.age = 1e9
    for one in (text, expired):
        with pytest.raises(NotFound):
            await place.validator.check(one)


def test_the_classes_beyond_their_limit_are_told():
    age = [0.0]
    limits = Limits(Freshness(system=10, domain=0, project=30, unscoped=0), lambda: age[0])
    said = []
    for age[0] in (10.0, 10.1, 31.0, float("inf")):
        said.append(limits.passed())
    assert said == [[], ["system"], ["system", "project"], ["system", "project"]]
    assert limits.of(DomainScope("d")) is None
    assert limits.of(ProjectScope("p")) == 30


# ------------------------------------------------------------------------------------------ what makes it look fresh


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def age(clock):
    return Age(clock)


async def test_an_echo_counts_from_its_probe_once_its_head_is_reached(age, clock):
    sent = clock.ticks()
    await clock.advance(3)
    assert age.echoed(sent, 7, 6)
    assert age.age_s() == float("inf")
    age.reached(7)
    assert age.age_s() == 3
    await clock.advance(500)  # asleep
    assert age.age_s() == 503
    assert age.echoed(sent + 1, 7, 7)  # what waited in a buffer meanwhile
    assert age.age_s() == 502
    assert not age.echoed(clock.ticks() + 1, 7, 7)
    assert age.age_s() == 502


async def test_the_stores_heartbeat_counts_by_the_controllers_clock_and_the_skew(age, clock):
    at = clock.now()
    await clock.advance(4)
    age.beat(age.dated(at, 2.0), 5, 4)
    assert age.age_s() == float("inf"), "its head is not reached"
    age.reached(5)
    assert 6 <= age.age_s() < 6.01
    assert age.sure_since is None, "keys retire by what no wall clock has a part in"
    assert age.fresh_at(sure=True) is None


@pytest.mark.parametrize("leap_s", [-86400, -40, -3, 3, 40, 86400])
async def test_no_setting_of_a_clock_makes_a_heartbeat_look_younger(age, clock, leap_s):
    """Neither our own clock, set while a controller is away, nor what a heartbeat says of a later moment."""
    at = clock.now()
    age.beat(age.dated(at, 2.0), 0, 0)
    await clock.advance(100)
    clock.jump(leap_s)
    found = age.dated(at, 2.0)
    assert found is not None
    age.beat(found, 0, 0)
    assert 102 <= age.age_s() < 102.1
    await clock.advance(10)
    assert age.dated(clock.now() - leap_s * SECOND + 2_100_000, 2.0) is None
    assert 112 <= age.age_s() < 112.1


async def test_an_echo_tells_the_controllers_clock_whatever_ours_says(clock):
    clock.jump(-7200)
    age = Age(clock)
    theirs = clock.now() + 7200 * SECOND
    assert age.dated(theirs, 2.0) is None, "by our own clock it is of the future"
    sent = clock.ticks()
    await clock.advance(0.5)
    age.echoed(sent, 0, 0, theirs)
    assert age.dated(theirs, 2.0) == pytest.approx(sent - 2, abs=0.01)


async def test_a_clock_that_runs_wrong_for_days_without_an_echo_makes_it_look_older_only(age, clock):
    await clock.advance(3 * 86400)
    assert clock.ticks() - age.dated(clock.now(), 2.0) == pytest.approx(2 + 3 * 86400 * 1e-4, abs=0.1)


async def test_heartbeats_ahead_of_what_is_here_do_not_starve_one_another(age, clock):
    """Under steady writes the head is always further: what was reached of the earlier ones counts."""
    for number in range(1, 5000):
        await clock.advance(1)
        age.beat(age.dated(clock.now(), 0.0), number, number - 1)
    assert age.age_s() < 1.6


class Store:
    """Where a controller's heartbeat goes, or cannot go."""

    def __init__(self):
        self.said, self.away = [], False

    async def beat(self, at, head):
        if self.away:
            raise Unavailable
        self.said.append((at, head))


class Told:
    """A controller's knowledge, as old as it is told to be."""

    position, known, clock = 3, 0.2, ManualClock()

    def age_s(self):
        return self.known

    def fresh_at(self):
        return self.clock.now() - int(self.known * SECOND)


async def test_a_controller_says_what_it_is_sure_of_and_nothing_once_it_is_cut_off():
    store, told = Store(), Told()
    task = asyncio.create_task(beat(store, told, told.clock))
    await told.clock.advance(0)
    assert store.said == [(told.clock.now() - 200_000, 3)]
    store.away = True
    await told.clock.advance(5)
    store.away, told.position = False, 4
    await told.clock.advance(1)
    assert [head for _, head in store.said] == [3, 4]
    told.known = 2.1  # the log cannot be read
    told.clock.jump(3600)
    await told.clock.advance(60)
    assert len(store.said) == 2
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
