"""Real processes whose wall clock is set while they run: how old knowledge is does not depend on it, what expires does."""

import os
import signal
import time

import pytest

from controller import ask
from controller.federation import CONTROLLER
from tests.faketime import WallClock
from tests.processes import ended, free_port, until, up
from tests.scenarios.test_workers import Connection

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("federation")]
SYSTEM_S, HOUR_S = 2.0, 3600
SYSTEM = {"system": {"all": True}}


def test_a_wall_clock_that_is_set_decides_when_a_token_expires_and_nothing_else(tmp_path, monkeypatch):
    clock = WallClock(tmp_path)
    for name, value in clock.environment.items():
        monkeypatch.setenv(name, value)
    with ended(tmp_path / "federation") as home:
        words = ("--set", f"freshness.system={SYSTEM_S}", "--set", "identity.password_hash_rounds=4")
        done = up(home, "--sites", "RegionOne", "--port", str(free_port()), *words)
        assert done.returncode == 0, done.stderr
        site = home.members()[1]
        controller = ask.control(home.control, command="report")[CONTROLLER]
        connection, secret = Connection(site), home.password()

        def told():
            page = ask.page(site.admin, "/status", 5.0)
            return page["age_s"]

        until(
            lambda: ask.page(site.admin, "/status", 5.0)["sealing"]["left_s"] > 0, "its first word with the controller"
        )
        plain, system = connection.login(secret), connection.login(secret, scope=SYSTEM)
        fresh = [connection.validate(one, one) for one in (plain, system)]
        assert fresh == [200, 200]
        for ahead_s in (40, -40, 0):  # a token may be dated so far ahead
            clock.set(ahead_s)
            assert [connection.validate(one, one) for one in (plain, system)] == [200, 200], ahead_s
            assert told() < SYSTEM_S + 1
        os.kill(controller, signal.SIGSTOP)
        try:
            began = time.monotonic()
            until(lambda: connection.validate(system, system) == 503, "its age")
            for ahead_s in (-40, -20, 40, 0):
                clock.set(ahead_s)
                assert connection.validate(system, system) == 503, ahead_s
                assert connection.validate(plain, plain) == 200, ahead_s
                assert SYSTEM_S < told() < time.monotonic() - began + SYSTEM_S + 1
            clock.set(HOUR_S + 5)
            assert connection.validate(plain, plain) == 401, "expired is by the wall clock"
            clock.set(0)
        finally:
            os.kill(controller, signal.SIGCONT)
        until(lambda: connection.validate(system, system) == 200, "news")
        connection.close()
