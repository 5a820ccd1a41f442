"""The real engines for every test: fixtures, who runs where, and what is said about engines that are not here.

Fixtures (one cluster, ensemble and set of servers a session; what a test stopped or killed is healed after it):

- `cassandra_cluster`: `controller.engines.cassandra.Cassandra`: three data centres dc1, dc2, dc3 of one node, passwords
  and permissions on, TLS beside plain text at the same port (`engine_ca` is its CA). Nodes give up on each other early.
  As root its nodes are the places 1, 2, 3 of `wan`.
- `zookeeper`: `controller.engines.zookeeper.ZooKeeper` of three servers.
- `memcached`: three `controller.engines.memcached.Memcached`; `memcached_tls`: one that speaks TLS only.
- `haproxy`: starts a `controller.engines.haproxy.HAProxy` with a configuration.
- `wan`: the wide area network between them (`controller.engines.wan.Wan`): delay, loss and cuts; as root only.
- `engine_federation` (tests/conftest.py): controllers and sites on engines of their own.
- `engine_keeper`: for engines of a test's own; `engine_programs`: where the programs are.

A test that uses one of them, that has an engine's name among its parameters, or that is marked
`@pytest.mark.engines("cassandra", ...)` needs engines. What needs the cluster or its network is one group, what needs
the federation on engines another; those that share a federation of a session stay together as well, and what is marked
`together`; all others by file. One worker runs a group; those with engines come first, then the longest. The groups
with a Cassandra have one worker, one after the other: two clusters at once starve each other on two cores. A test that
is marked `long` has a shorter sibling, and runs with `--long` alone.
"""

import os
from collections import Counter

import pytest

from controller.engines import install
from controller.engines import wan as wide_area
from controller.engines.cassandra import Cassandra, Options
from controller.engines.haproxy import HAProxy
from controller.engines.memcached import Memcached
from controller.engines.process import EngineError, Keeper, silent
from controller.engines.zookeeper import ZooKeeper
from tests.engines import certificates

NEEDS = {
    "cassandra_cluster": ("cassandra",),
    "zookeeper": ("zookeeper",),
    "memcached": ("memcached",),
    "memcached_tls": ("memcached",),
    "haproxy": ("haproxy",),
    "wan": ("wan",),
    "engine_federation": ("cassandra", "zookeeper", "memcached", "haproxy"),
}
GROUPS = {
    "engine_federation": "engine-federation",
    "regions": "security",
}  # fixture of a session -> the group of all that use it
CLUSTERED, CLUSTER = {"cassandra", "wan"}, "cluster"
HEAVY = {CLUSTER, "engine-federation"}  # groups that one worker runs, one after the other
TAKES = {
    "federation": 6,
    "regions": 3,
}  # mark or fixture -> how many others a test takes as long as, if it says nothing
NOT_HERE = "engine not here: "
_STARTED = pytest.StashKey[list]()
_NEEDS = pytest.StashKey[set]()
_GROUP = pytest.StashKey[str]()


def needs(item):
    """The engines that a test needs, by fixture, parameter or mark."""
    found = {engine for name in getattr(item, "fixturenames", ()) for engine in NEEDS.get(name, ())}
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    found |= {one for one in parameters if isinstance(one, str) and one in install.ENGINES}
    return found | {engine for mark in item.iter_markers("engines") for engine in mark.args}


def takes(item):
    """How many ordinary tests this one takes as long as, roughly."""
    if told := item.get_closest_marker("takes"):
        return told.args[0]
    names = {mark.name for mark in item.iter_markers()}.union(getattr(item, "fixturenames", ()))
    return max((number for name, number in TAKES.items() if name in names), default=1)


def missing():
    """What this machine lacks, by engine; packages that may be installed are not missing."""
    lacks = {} if install.may_install() else install.missing()
    reason = wide_area.why_not()
    return {**lacks, "wan": [reason]} if reason else lacks


def pytest_configure(config):
    config.addinivalue_line("markers", "takes(number): takes as long as so many others, so that it begins early")
    config.addinivalue_line("markers", "together(group): shares something that is made once with others of this group")
    config.addinivalue_line("markers", "long: has a shorter sibling in the suite; `make long` runs it")
    config.addinivalue_line("markers", "engines(*names): needs these engines, in a way that no fixture shows")
    config.stash[_STARTED] = []


def _company(item, wanted):
    shared = [GROUPS[name] for name in getattr(item, "fixturenames", ()) if name in GROUPS]
    if shared or wanted & CLUSTERED:
        return shared[0] if shared else CLUSTER
    told = item.get_closest_marker("together")
    return told.args[0] if told else item.nodeid.split("::")[0].removesuffix(".py")


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also what is marked `long`, as `make long` does")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config, items):
    if not config.getoption("--long"):
        left = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if not item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left)
    lacks, wanted = missing(), {item: needs(item) for item in items}
    groups, sizes = {}, Counter()
    for item in items:
        item.stash[_NEEDS] = wanted[item]
        groups[item] = group = _company(item, wanted[item])
        sizes[group] += takes(item)
        item.stash[_GROUP] = group
        item.add_marker(pytest.mark.xdist_group("cassandra" if group in HEAVY else group))
        if absent := sorted(wanted[item] & lacks.keys()):
            item.add_marker(pytest.mark.skip(reason=NOT_HERE + ", ".join(absent)))
    first = {groups[item] for item in items if wanted[item]}
    # the longest first, else the last worker is waited for
    items.sort(key=lambda item: (groups[item] not in first, -sizes[groups[item]], groups[item]))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    """The last lines name the engines that were not here. Runs around the terminal's own."""
    result = yield
    terminal = session.config.pluginmanager.getplugin("terminalreporter")
    if terminal and not hasattr(session.config, "workerinput"):
        said = [one.longrepr[2] for one in terminal.stats.get("skipped", []) if isinstance(one.longrepr, tuple)]
        untested = Counter(one.partition(NOT_HERE)[2] for one in said if NOT_HERE in one)
        for line in not_tested(untested, missing()):
            terminal.write_line(line, red=True, bold=True)
    return result


def not_tested(untested, lacks):
    """Lines about tests that were left out, by the engines that they need."""
    lines = []
    for engines, count in sorted(untested.items()):
        parts = dict.fromkeys(part for one in engines.split(", ") for part in lacks.get(one, [one]))
        lines.append(f"NOT TESTED for want of {', '.join(parts)}: {count} that need {engines}")
    if any(one in install.ENGINES for engines in untested for one in engines.split(", ")):
        lines.append(f"`{install.COMMAND}` installs what is missing")
    return lines


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    """What the test did to an engine is undone once its fixtures are; engines end with the last test of their group.

    Idle ones cost: a Cassandra node a tenth of a core.
    """
    try:
        return (yield)
    finally:
        if item.stash.get(_NEEDS, ()):
            if nextitem is not None and item.stash[_GROUP] != nextitem.stash[_GROUP]:
                _end_engines(item)
            _heal(item)


def _heal(item):
    for one in list(item.config.stash[_STARTED]):
        try:
            one.heal()
        except EngineError:
            item.config.stash[_STARTED].remove(one)  # the next tests fail by themselves, and at once
            raise


def _end_engines(item):
    """As at the end of the session; who needs them again starts them again."""
    for name in ("_engine_federation", "engine_keeper"):
        for fixture in item.session._fixturemanager._arg2fixturedefs.get(name, ()):
            fixture.finish(item._request)


@pytest.fixture(scope="session")
def engine_tell(pytestconfig):
    """Tells at the terminal what is waited for; a worker's output is nobody's."""
    terminal = pytestconfig.pluginmanager.getplugin("terminalreporter")
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    if terminal is None or hasattr(pytestconfig, "workerinput"):
        return silent

    def tell(tone, text):
        with capture.global_and_fixture_disabled():
            terminal.write_line(f"  {text}")

    return tell


@pytest.fixture(scope="session")
def engine_programs(engine_tell):
    """Where the programs are; installs what is missing where that is allowed, and else fails."""
    if install.may_install():
        install.install(engine_tell)
    return install.look()


@pytest.fixture(scope="session")
def engine_keeper(pytestconfig):
    with Keeper() as keeper:
        yield keeper
        pytestconfig.stash[_STARTED].clear()  # nothing is healed any more


class _Network:
    """What heals the network between places, and waits until those who live in it have noticed."""

    def __init__(self, network):
        self.network, self.noticed = network, []

    def heal(self):
        if self.network.cuts or self.network.delay_s or self.network.loss:
            self.network.heal()
            self.network.slow(0.0)
            for notice in self.noticed:
                notice()


@pytest.fixture(scope="session")
def _network(engine_keeper, pytestconfig):
    with wide_area.Wan(engine_keeper) as network:
        healer = _Network(network)
        pytestconfig.stash[_STARTED].insert(0, healer)  # before what lives in it
        yield healer


@pytest.fixture(scope="session")
def wan(_network):
    return _network.network


@pytest.fixture(scope="session")
def _places(request, engine_keeper):
    """The address of each data centre, and what is put before a command line to run it there."""
    if wide_area.why_not():
        return [(engine_keeper.address(place), ()) for place in (1, 2, 3)]
    network = request.getfixturevalue("wan")
    return [(network.address(place), network.enter(place)) for place in network.places]


@pytest.fixture(scope="session")
def _certified(engine_keeper, _places, tmp_path_factory):
    directory = tmp_path_factory.mktemp("engine-certificates")
    loopback = [engine_keeper.address(number) for number in range(1, 10)]
    return certificates.make(directory, dict.fromkeys([*loopback, *(address for address, _ in _places)]))


@pytest.fixture(scope="session")
def engine_ca(_certified):
    """The CA of every engine's certificate, in PEM."""
    return _certified.ca


@pytest.fixture(scope="session")
def cassandra_cluster(request, engine_keeper, engine_programs, engine_tell, pytestconfig, _places, _certified):
    options = Options(
        engine_programs.java, engine_programs.jars, impatient=True, tls_pem=_certified.chain_and_key, heap_mb=512
    )
    cluster = Cassandra(engine_keeper, options, [address for address, _ in _places])
    for node, (_, enter) in zip(cluster.nodes, _places, strict=True):
        node.enter = enter
    cluster.start(engine_tell)
    pytestconfig.stash[_STARTED].append(cluster)
    if not wide_area.why_not():
        request.getfixturevalue("_network").noticed.append(cluster.await_ready)
    return cluster


@pytest.fixture(scope="session")
def zookeeper(engine_keeper, engine_programs, engine_tell, pytestconfig):
    ensemble = ZooKeeper(engine_keeper, engine_programs.java, engine_programs.zookeeper)
    ensemble.start(engine_tell)
    pytestconfig.stash[_STARTED].append(ensemble)
    return ensemble


@pytest.fixture(scope="session")
def memcached(engine_keeper, engine_programs, pytestconfig):
    servers = [Memcached(engine_keeper, engine_programs.memcached, number) for number in (1, 2, 3)]
    for one in servers:
        one.start()
    for one in servers:
        one.await_ready()
    pytestconfig.stash[_STARTED] += servers
    return servers


@pytest.fixture(scope="session")
def memcached_tls(engine_keeper, engine_programs, pytestconfig, _certified):
    tls = (_certified.chain, _certified.key)
    server = Memcached(engine_keeper, engine_programs.memcached, 1, port=11212, tls=tls)
    server.start()
    server.await_ready()
    pytestconfig.stash[_STARTED].append(server)
    return server


@pytest.fixture
def haproxy(engine_keeper, engine_programs):
    """start(text, listens) -> HAProxy; each ends with the test."""
    started = []

    def start(text, listens):
        proxy = HAProxy(engine_keeper, engine_programs.haproxy, text, listens, f"haproxy{os.urandom(4).hex()}")
        started.append(proxy)
        proxy.start()
        proxy.await_ready()
        return proxy

    yield start
    for one in started:
        one.kill()
