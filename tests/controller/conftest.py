"""The keyspace for tests that move whole stores or run a controller on one; each leaves it as it likes."""

import pytest


@pytest.fixture
async def empty(keyspace):
    """The keyspace, empty and fit for programs, and empty again afterwards, whichever process has written to it."""
    await keyspace.fit()
    yield keyspace
    await keyspace.empty_all()


@pytest.fixture
def section_text(empty):
    """[cassandra] of a program's INI file."""
    return empty.text()
