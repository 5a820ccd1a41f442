"""What every test gets: no network beyond this machine, real engines, property tests that ask nothing of its speed."""

import socket
import sys

import pytest
import structlog
from hypothesis import HealthCheck, settings

settings.register_profile(
    "suite",
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("suite")
pytest_plugins = ["tests.engines.plugin", "tests.telling"]
HERE = ("127.", "10.77.")


@pytest.fixture(scope="session")
def keyspace(cassandra_cluster, tmp_path_factory):
    """One for all tests, since it takes long to make; each empties it of what it has written."""
    from tests.contracts.cassandra_stores import Keyspace

    return Keyspace(cassandra_cluster, tmp_path_factory.mktemp("keyspace"))


@pytest.fixture(scope="session")
def _engine_federation(tmp_path_factory):
    from tests.faults.cluster import Cluster

    cluster = Cluster(tmp_path_factory.mktemp("engines") / "federation", engines=True)
    try:
        cluster.start("--set", "default.debug=true")
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def engine_federation(_engine_federation):
    """Two controllers and three sites on engines of their own, in which everything runs; they log all that they can.

    A `tests.faults.cluster.Cluster` of the session: a test leaves users and keys as it likes, and may end processes.
    """
    _engine_federation.revive()
    return _engine_federation


def _is_here(address):
    return not isinstance(address, tuple) or address[0] in {"localhost", "::1", ""} or address[0].startswith(HERE)


@pytest.fixture(autouse=True, scope="session")
def _loopback_only():
    """A test that reaches for the network fails where it does so."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def checked(real):
        def connect(self, address):
            if not _is_here(address):
                raise AssertionError(f"a test reached for {address}")
            return real(self, address)

        return connect

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", checked(connect))
        patch.setattr(socket.socket, "connect_ex", checked(connect_ex))
        yield


@pytest.fixture(autouse=True)
def _logged_as_before():
    """What a server in a test's process has set up for its logs ends with the test."""
    yield
    if structlog.is_configured():
        structlog.reset_defaults()


@pytest.fixture(autouse=True, scope="session")
def _loggers_of_the_moment():
    """A server that runs in a test's process binds its loggers for good, to an output that ends with the test."""
    configure = structlog.configure

    def unbound(**settings):
        if settings.get("cache_logger_on_first_use"):
            settings["cache_logger_on_first_use"] = False
            settings["logger_factory"] = lambda *_: structlog.PrintLogger(sys.stderr)
        configure(**settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(structlog, "configure", unbound)
        yield
