"""How tests reach the cluster of `tests/engines/plugin.py`: settings with a password file, sessions that end."""

from contextlib import asynccontextmanager

from regional_keystone.adapters.cassandra_driver import Driver
from regional_keystone.settings import Cassandra

EVERYWHERE = ("dc1:1", "dc2:1", "dc3:1")


def secret_file(folder, text):
    path = folder / f"password-{text}"
    if not path.exists():  # somebody may be reading it
        path.touch(mode=0o600)
        path.write_text(f"{text}\n")
    return path


def section_of(cluster, folder, data_centre="dc1", *, login=None, **more):
    """[cassandra] of a process in this data centre; as superuser, or with `login` (user, password)."""
    user, password = login or (cluster.username, cluster.password)
    return Cassandra(
        **{
            "contact_points": (cluster.node(data_centre).address,),
            "port": cluster.port,
            "local_data_centre": data_centre,
            "replication": EVERYWHERE,
            "username": user,
            "password_file": secret_file(folder, password),
            "connect_timeout_s": 8.0,  # tests of deadlines set their own; others may meet a busy machine
            "request_timeout_s": 8.0,
            **more,
        }
    )


@asynccontextmanager
async def session(section, *, keyspace=True):
    driver = await Driver.open(section, keyspace=keyspace)
    try:
        yield driver
    finally:
        await driver.close()
