"""A row that a hand changes in a running federation's Cassandra is right again at every site, with nobody's help."""

import asyncio
import json
import time

import pytest

from controller.probe import Client
from controller.settings import Settings
from regional_keystone import backends, settings
from tests.processes import admin_token, rkctl

pytestmark = [pytest.mark.federation, pytest.mark.long]
PROMISED_S = 60.0
PATIENCE_S = 4 * PROMISED_S  # others use this machine as well


def users(member, token):
    with Client(member, token) as client:
        return {one["id"]: one["name"] for one in client.expect(200, "GET", "/v3/users")["users"]}


async def by_hand(section, *told):
    driver = await backends.cassandra_driver(section)
    try:
        for cql, values in told:
            await driver.run(cql, values, consistency="QUORUM")
    finally:
        await driver.close()


def test_what_a_hand_did_is_right_again_at_every_site(engine_federation):
    home = engine_federation.home
    chief, *others = home.members()
    token = admin_token(home, chief)
    with Client(chief, token) as client:
        made = [client.expect(201, "POST", "/v3/users", {"user": {"name": f"drift{one}"}})["user"] for one in range(2)]
    ids = [one["id"] for one in made]
    callers = {one.name: admin_token(home, one) for one in others}
    before = users(chief, token)
    section = settings.load(Settings, home.config(chief.name)).cassandra
    told = [
        ("DELETE FROM users WHERE bucket = ? AND id = ?", (ids[0][:3], ids[0])),
        ("UPDATE users SET row = ? WHERE bucket = ? AND id = ?", (b"\x80", ids[1][:3], ids[1])),
    ]
    asyncio.run(by_hand(section, *told))
    began = time.monotonic()

    def found():
        return [one for member in home.members() if member.is_controller for one in drift(member)["last"]]

    def drift(member):
        return member.page("/status")["drift"]

    while {one["key"] for one in found()} != set(ids):
        assert time.monotonic() - began < PATIENCE_S, [drift(one) for one in home.members() if one.is_controller]
        time.sleep(0.5)
    print(f"right again after {time.monotonic() - began:.1f} s")
    assert all(one["mended"] for one in found())
    for one in others:
        assert users(one, callers[one.name]) == before
    done = rkctl("db", "repair", "--json", "--state", str(home.directory))
    assert (done.returncode, json.loads(done.stdout)["found"]) == (0, [])
