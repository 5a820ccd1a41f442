"""What stock services keep in their memcached goes when its token ends, in every strategy, wherever that was said."""

from itertools import cycle

import pytest

from tests.compat.middleware_caches import CAUSES, ELSEWHERE, STRATEGIES, Home, ended, entry, federation

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
