"""Programs that check what is deployed; where one cannot be had, its tests are reported as not run."""

import pytest

from controller.engines.install import may_install
from tests.deploy import helm
from tests.engines.plugin import NOT_HERE


def not_here(name, why):
    """Where it could have been installed, that is a failure; elsewhere the last lines of the run name it."""
    if may_install():
        pytest.fail(f"{name}: {why}")
    pytest.skip(NOT_HERE + name)


@pytest.fixture(scope="session")
def haproxy_program(engine_programs):
    return engine_programs.haproxy or not_here("haproxy", "could not be installed")


def _helm(version):
    try:
        return helm.program(version)
    except helm.NotHere as error:
        return not_here("helm", error)


@pytest.fixture(scope="session")
def helm_program():
    """The version that most have."""
    return _helm(min(helm.PACKAGES))


@pytest.fixture(scope="session")
def newest_helm():
    return _helm(max(helm.PACKAGES))
