"""Two regions and a controller, as processes: once with what regions remember, once without."""

import pytest

from tests.security.regions import started

MODES = {"remembering": (), "not remembering": ("fastpath.entries=0",)}


def pytest_collection_modifyitems(items):
    for item in items:
        if "regions" in item.fixturenames:
            item.add_marker(pytest.mark.federation)


@pytest.fixture(scope="session", params=MODES)
def regions(request, tmp_path_factory):
    """All of one federation; each test makes households of its own in it."""
    with started(tmp_path_factory.mktemp("security"), *MODES[request.param]) as found:
        yield found
