"""The keyspace for tests that move whole stores or run a controller on one; each leaves it as it likes."""

import pytest

from regional_keystone.adapters import cassandra_schema as schema
from regional_keystone.record import TABLES


@pytest.fixture
async def empty(keyspace):
    """The keyspace, fit for programs, and empty again afterwards, whichever process has written to it."""
    async with keyspace.driver() as driver:
        say = f"INSERT INTO {schema.SCHEMA_VERSION} (part, version) VALUES (?, ?)"
        for part in ("version", "oldest"):
            await driver.run(say, (part, schema.VERSION), consistency="ALL")
    yield keyspace
    keyspace.changed.update(schema.definitions(TABLES))
    await keyspace.empty()


@pytest.fixture
def section_text(empty):
    """[cassandra] of a program's INI file."""
    section = empty.section()
    options = {
        "contact_points": section.contact_points[0],
        "port": section.port,
        "local_data_centre": section.local_data_centre,
        "username": section.username,
        "password_file": section.password_file,
        "keyspace": section.keyspace,
        "allow_unsafe": "true",
    }
    return "\n".join(["[cassandra]", *(f"{name} = {value}" for name, value in options.items()), ""])
