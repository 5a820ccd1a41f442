"""Random histories of logins and revocations, each answer judged; `make model AREA=revocation` has far more steps.

And named ones, of what they are rare to meet.
"""

from collections import Counter

import pytest

from regional_keystone.log import LOG
from tests.model.judge import Violation
from tests.model.revocation_nodes import ALLOW_EXPIRED_S, EXPIRY_S, ISOLATION_S
from tests.model.revocation_world import KINDS, RevocationWorld
from tests.model.run import run, told, world
from tests.model.stores import Store

STEPS = 12_000
SEEDS = (2, 5)
BRANCHES = (
    "answer fast 200",
    "answer long 200",
    "answer long 404",
    "answer long 503",
    "refused by user_id",
    "refused by audit_id",
    "refused by no role",
    "refused by age",
    "own entries",
    "reordered",
    "duplicated",
    "promises kept",
    "log own_feed_taken",
)


def test_no_answer_contradicts_the_plain_rule_and_nothing_promised_is_lost():
    kinds = Counter()
    for seed in SEEDS:
        done = run(seed, STEPS, area="revocation")
        assert done.failure is None, told(seed, STEPS, done, "revocation")
        assert done.tokens > 40
        kinds += done.kinds
    assert sum(kinds[kind] > 0 for kind in KINDS) > len(KINDS) * 0.8  # `make model` asks for all of them
    unseen = [kind for kind in BRANCHES if not kinds[kind]]
    assert not unseen, "each kind of outcome occurs, or the run shows less than it seems to"


def test_a_seed_makes_the_same_run_again():
    one, same = (run(5, 1500, area="revocation") for _ in range(2))
    assert (one.steps, one.simulated_s, one.kinds) == (same.steps, same.simulated_s, same.kinds)


class History:
    """A quiet federation, and words to tell what happens to it."""

    def __init__(self, made):
        self.world = made
        self.c1, self.c2 = made.controllers.values()
        self.s1, self.s2 = made.sites.values()

    def act(self, machine, coroutine):
        task = self.world.loop.spawn(machine.process, coroutine)
        assert self.world.until(task.done, 30.0)
        return task.result()

    def ask(self, machine, method, path, **more):
        """The status of what an administrator asks."""
        return self.act(machine, machine.ask(method, path, self.world.callers["project"].text, **more))[0]

    def login(self, machine, user_id, project="p0", password=None):
        password = password or self.world.passwords[user_id]
        scope = ("project", project)
        return self.act(machine, self.world._logged_in(machine, user_id, password, {"project": {"id": project}}, scope))

    def rescope(self, machine, token):
        """An unscoped token that is made of this one."""
        auth = {"identity": {"methods": ["token"], "token": {"id": token.text}}, "scope": "unscoped"}
        above = (*token.above, token.audit_id)
        made = self.world._issued(machine, auth, token.user_id, ("unscoped", ""), above=above)
        return self.act(machine, made)

    def says(self, machine, token, query=""):
        """The status of a validation."""
        return self.ask(machine, "GET", f"/v3/auth/tokens{query}", **{"x-subject-token": token.text})

    def cut(self, site):
        site.cut = True
        if site.stream is not None:
            site.stream.break_()

    def restart(self, site):
        site.kill()
        site.begin()
        assert self.world.until(lambda: site.ready, 30.0)

    def level(self):
        for site in self.world.sites.values():
            self.world._mend(site)
        assert self.world.until(lambda: not self.world._wrong(), 60.0)
        self.world.pass_(1.0)


def test_in_a_chain_what_was_made_of_the_revoked_one_is_void_and_nothing_else(one):
    first = one.login(one.s1, "u1")
    middle, beside = one.rescope(one.s1, first), one.rescope(one.s2, first)
    last = one.rescope(one.s2, middle)
    assert one.ask(one.s1, "DELETE", "/v3/auth/tokens", **{"x-subject-token": middle.text}) == 204
    one.level()
    for place in (one.s1, one.s2):
        assert [one.says(place, token) for token in (first, middle, beside, last)] == [200, 404, 200, 404]


def test_what_is_made_of_a_revoked_token_where_that_is_not_known_is_void_as_well(one):
    """However long after: its chain ends up to its own expiry."""
    token = one.login(one.s1, "u1")
    one.cut(one.s2)
    assert one.ask(one.s1, "DELETE", "/v3/auth/tokens", **{"x-subject-token": token.text}) == 204
    one.world.pass_(2.5)
    made = one.rescope(one.s2, token)
    assert one.says(one.s2, made) == 200
    one.level()
    assert [one.says(place, made) for place in (one.s1, one.s2)] == [404, 404]


def test_a_revocation_outlives_what_a_cut_off_site_issues_as_long_as_it_may(one):
    """To the last moment at which an expired token is shown, though nothing but a snapshot tells the site of it."""
    one.cut(one.s1)
    old = one.world.passwords["u1"]
    assert one.ask(one.c1, "PATCH", "/v3/users/u1", body={"user": {"password": "another one"}}) == 200
    one.world.pass_(ISOLATION_S - 3.0)
    token = one.login(one.s1, "u1", password=old)
    one.world.pass_(EXPIRY_S + ALLOW_EXPIRED_S - 6.0)
    one.act(one.c1, one.c1.keep_house())
    one.world.do(Store(one.world.rows, one.world.loop, one.c1.faults).prune(LOG, one.world.rows.applied))
    one.level()
    one.world.do(one.world._renew_callers())
    assert one.says(one.s1, token, "?allow_expired=1") == 404
    assert one.s1.clock.now() < token.expires_at + ALLOW_EXPIRED_S * 1_000_000, "nor is it only too old"


@pytest.fixture
def one():
    with world(1, RevocationWorld) as made:
        yield History(made)


@pytest.mark.parametrize("since", ["nothing", "a restart", "a snapshot"])
def test_what_a_site_issued_while_it_could_not_hear_of_the_end_of_all_tokens_ends_with_it(one, since):
    """By the old password, after it was changed: also when the site has died in between, or the log reaches back no more."""
    one.cut(one.s1)
    one.world.pass_(1.0)
    old = one.world.passwords["u1"]
    assert one.ask(one.c1, "PATCH", "/v3/users/u1", body={"user": {"password": "another one"}}) == 200
    one.world.pass_(3.0)
    token = one.login(one.s1, "u1", password=old)
    assert one.says(one.s1, token) == 200
    one.world.pass_(1.5)
    if since == "a restart":
        one.restart(one.s1)
    if since == "a snapshot":
        one.world.do(Store(one.world.rows, one.world.loop, one.c1.faults).prune(LOG, one.world.rows.applied))
    one.level()
    one.world.do(one.world._renew_callers())
    assert [one.says(place, token) for place in (one.s1, one.s2, one.c1)] == [404, 404, 404]


def test_what_breaks_a_rule_is_seen(one):
    """The judge itself: an answer that is good for what is void, and the other way round."""
    token = one.login(one.s1, "u1")
    judge = one.world.judge
    good = one.world.newest.worth(token)
    assert "member" in good
    made = one.world._moment
    asked = made(one.s1)
    with pytest.raises(Violation, match="INV-4"):
        judge.answered(one.s1, token, asked, made(one.s1, status=404))
    with pytest.raises(Violation, match="INV-3"):
        judge.answered(one.s1, token, asked, made(one.s1, status=503))
    with pytest.raises(Violation, match="INV-1: s1 shows"):
        judge.answered(one.s1, token, asked, made(one.s1, status=200, roles=frozenset(["admin"])))
    assert one.ask(one.s1, "DELETE", "/v3/auth/tokens", **{"x-subject-token": token.text}) == 204
    one.level()
    asked = made(one.s1)
    with pytest.raises(Violation, match="INV-1: s1 accepts"):
        judge.answered(one.s1, token, asked, made(one.s1, status=200, roles=good))
