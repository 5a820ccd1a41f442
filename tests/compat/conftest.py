"""What was not made by us, and a federation for clients to talk to."""

import pytest

from tests.compat import installed, tempest


@pytest.fixture(scope="session")
def upstream_python():
    """The python of a venv that holds Keystone 30.0.0."""
    return installed.keystone_python()


@pytest.fixture(scope="session")
def tempest_python():
    """The python of a venv that holds OpenStack's own tests of the Identity API."""
    return installed.tempest_python()


@pytest.fixture(scope="session")
def environment():
    """This environment without the settings of anybody's cloud."""
    return installed.environment()


@pytest.fixture(scope="session")
def federation(tmp_path_factory):
    """A controller and two sites, in processes of their own, for everything that stock clients do.

    Passwords are hashed at little cost: `make compat` does it at the usual one.
    """
    with tempest.started(tmp_path_factory.mktemp("stock"), "identity.password_hash_rounds=4") as home:
        yield home
