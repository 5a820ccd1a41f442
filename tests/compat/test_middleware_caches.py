"""What stock services keep in their memcached goes when its token ends, in every strategy, wherever that was said."""

import os
import signal
from collections import deque
from itertools import cycle

import pytest

from controller import ask
from controller.federation import CONTROLLER
from tests.compat.middleware_caches import CAUSES, ELSEWHERE, STRATEGIES, Home, ended, entry, federation
from tests.processes import rkctl, until

pytestmark = [pytest.mark.compat, pytest.mark.federation]
FOREIGN = {
    "tokens/" + "ab" * 32: b"{}",
    "tokens/b'AAAAAAAAAAAAAAAAAAAAAA=='": b"x",
    "nova:instance": b"1",
    "rk:" + "0" * 40: b"2",
}


@pytest.fixture(scope="module")
def caches(memcached, tmp_path_factory):
    with federation(tmp_path_factory.mktemp("caches"), memcached) as found:
        yield found


@pytest.fixture
def _one_dead(memcached):
    memcached[2].kill()


@pytest.mark.usefixtures("_one_dead")
def test_every_end_of_a_token_reaches_the_entries_of_stock_services_and_no_others(caches):
    for one in caches.servers[:2]:
        one.write(FOREIGN)
    pairs = [(at, strategy) for strategy in STRATEGIES for at in ELSEWHERE]
    alone = {"RegionTwo": caches.addresses[:1]}  # a region with one server
    services = {pair: caches.service(*pair, alone.get(pair[0])) for pair in pairs}
    for service in services.values():
        assert service.status(caches.neighbour) == 200
    slow = {}
    for cause, pair in zip(CAUSES, cycle(pairs)):
        service, told = services[pair], ELSEWHERE[pair[0]]
        tokens, end = CAUSES[cause](Home(caches.regions, told), 2)
        caches.regions.expect(200, "GET", "/v3/regions", at=pair[0])  # it has seen them
        assert [service.status(token) for token in tokens] == [200, 200], cause
        assert {entry(token, pair[1]) for token in tokens} <= caches.keys(), cause
        end()
        took = max(ended(service, tokens))
        if took > 2.0:
            slow[cause] = took
    assert not slow
    kept = {entry(caches.neighbour, strategy) for strategy in STRATEGIES} | FOREIGN.keys()
    assert kept <= caches.keys()


def answered(status, service, token, member):
    """Sooner or later; what it was last is told, if not, and what the site says of itself."""
    seen = deque(maxlen=5)

    def it_is():
        seen.append(service.status(token))
        return seen[-1] == status

    try:
        until(it_is, (status, "and saw at last", seen))
    except AssertionError as late:
        raise AssertionError(f"{late}; {ask.page(member.admin, '/status')}") from late


def test_what_is_too_old_for_a_class_goes_and_what_its_callers_were_answered_and_nothing_else(caches):
    """A region that is cut off, in each strategy: tokens of the class, and any that a service with such a token asked of."""
    regions, at = caches.regions, "RegionOne"
    member = regions.members[at]
    # a token that no other service has asked about: what it has put into the second server would be read there
    token, system = (regions.login(one) for one in (regions.household().auth(), caches.operator.auth("system")))
    regions.expect(200, "GET", "/v3/regions", at=at)
    usual = {one: caches.service(at, one, caches.addresses[:1]) for one in STRATEGIES}
    governing = {one: caches.service(at, one, caches.addresses[1:2], governs=True) for one in STRATEGIES}
    first, second = caches.servers[:2]
    everywhere, theirs = ({entry(text, one) for one in STRATEGIES} for text in (token, system))

    def kept():
        asked = [(one, text) for one in usual.values() for text in (token, system)]
        asked += [(one, token) for one in governing.values()]
        assert {service.status(text) for service, text in asked} == {200}
        return everywhere | theirs <= set(first.keys()) and everywhere <= set(second.keys())

    until(kept, "their entries")
    controller = ask.control(regions.home.control, command="report")[CONTROLLER]
    os.kill(controller, signal.SIGSTOP)
    try:
        for one in STRATEGIES:
            answered(503, usual[one], system, member)
            answered(503, governing[one], token, member)
            answered(200, usual[one], token, member)  # as before
        assert not theirs & caches.keys()
        assert not everywhere & set(second.keys())
    finally:
        os.kill(controller, signal.SIGCONT)
    until(lambda: {one.status(token) for one in governing.values()} == {200}, "it is fresh again")


def test_a_condemned_key_takes_what_it_sealed_out_of_every_service(caches):
    """The last of all: nobody's token is left."""
    regions = caches.regions
    services = {pair: caches.service(*pair) for pair in ((at, one) for at in ELSEWHERE for one in STRATEGIES)}
    tokens = {pair: Home(regions, pair[0]).login() for pair in services}
    until(lambda: {services[pair].status(token) for pair, token in tokens.items()} == {200}, "they are let in")
    done = rkctl("keys", "compromised", "--all", "--yes", "--why", "stolen", "--state", str(regions.home.directory))
    assert done.returncode == 0, done.stderr
    for pair, service in services.items():
        until(lambda service=service, pair=pair: service.status(tokens[pair]) == 401, pair)
    gone = {entry(token, pair[1]) for pair, token in tokens.items()}
    until(lambda: not gone & caches.keys(), "nothing of them is left")
