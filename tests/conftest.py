"""What every test gets: no network beyond this machine, real engines, property tests that ask nothing of its speed."""

import socket

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "suite",
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("suite")
pytest_plugins = ["tests.engines.plugin"]
HERE = ("127.", "10.77.")


@pytest.fixture(scope="session")
def keyspace(cassandra_cluster, tmp_path_factory):
    """One for all tests, since it takes long to make; each empties it of what it has written."""
    from tests.contracts.cassandra_stores import Keyspace

    return Keyspace(cassandra_cluster, tmp_path_factory.mktemp("keyspace"))


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
