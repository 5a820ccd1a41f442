"""Two regions and a controller, as processes: once with what regions remember, once without."""

import pytest

from tests.security.regions import started

NOT_REMEMBERING = "not remembering"
MODES = {"remembering": (), NOT_REMEMBERING: ("fastpath.entries=0",)}
LACKING = frozenset({"test_revocation"})  # these ask in both modes even in short


@pytest.hookimpl(tryfirst=True)  # before those that are long are left out
def pytest_collection_modifyitems(items):
    for item in items:
        if "regions" in item.fixturenames:
            item.add_marker(pytest.mark.federation)
        if f"[{NOT_REMEMBERING}" in item.name and item.path.stem not in LACKING:
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session", params=MODES)
def regions(request, tmp_path_factory):
    """All of one federation; each test makes households of its own in it."""
    with started(tmp_path_factory.mktemp("security"), *MODES[request.param]) as found:
        yield found
