"""Whoever is killed while the keys turn holds the old ring or the new one when it starts again, and the next turn works.

What is promised: no token is refused before, meanwhile or after; a ring that was on disk and not acknowledged is
acknowledged after the start; there was one turn.
"""

import time
from contextlib import suppress
from functools import partial

import pytest

from controller import ask
from controller.probe import password
from regional_keystone.backends import open_store
from regional_keystone.key_directory import examine
from tests.controller import dying_of_keys
from tests.controller.dying import Step
from tests.controller.test_killed_at_each_step import PATIENCE_S, Federation, soon

KEYS = dying_of_keys.Step
DEATHS = [
    *(("site", step) for step in KEYS),
    ("controller", KEYS.WRITTEN),
    ("controller", Step.APPENDED),
]


class Turning(Federation):
    """A controller and a site that both die of keys."""

    def __init__(self, folder):
        super().__init__(folder, [], lambda: open_store(folder / "first" / "log.db", only_reads=True))
        self.orders = {who: folder / f"{who}.keys" for who in ("site", "controller")}
        program = ["tests.controller.dying_of_keys"]
        self.first._words = lambda config: [
            *program, self.orders["controller"], "controller", self.order, "serve", "--config", config
        ]  # fmt: skip
        self.site._words = lambda config: [*program, self.orders["site"], "site", "--config", config, "serve"]

    def rotate(self):
        return ask.admin(self.first.state / "admin.sock", "/keys/rotate", {})

    def epoch(self, process):
        """Of the ring in use there; 0 for none yet."""
        return ask.page(process.admin_port, "/status", timeout_s=10.0)["ring_epoch"]

    def turned(self):
        """The epoch of the log, when all hold it."""
        epoch = ask.admin(self.first.state / "admin.sock", "/keys/status")["epoch"]
        for process in self.all:
            soon(partial(self.epoch, process), [epoch], process, PATIENCE_S)
        return epoch

    def issue(self, process):
        """A token of this process; who has just started may have to learn first."""
        auth = password("admin", "secret", "default")

        def issued():
            answer = process.ask("POST", "/v3/auth/tokens", body={"auth": auth})
            return answer[1]["X-Subject-Token"] if answer and answer[0] == 201 else None

        end = time.monotonic() + PATIENCE_S
        while (token := issued()) is None:
            assert time.monotonic() < end, process.said()
            time.sleep(0.05)
        return token

    def validates(self, process, token):
        """The token is good there; until the process knows, it says 503 and nothing else."""
        soon(lambda: process.ask("GET", "/v3/auth/catalog", token)[0], [200, 403], process, PATIENCE_S, {503})


@pytest.fixture(scope="module")
def turning(tmp_path_factory):
    made = Turning(tmp_path_factory.mktemp("turning"))
    try:
        made.start()
        yield made
    finally:
        for process in made.all:
            process.kill()


@pytest.mark.parametrize(("who", "step"), DEATHS)
def test_whoever_is_killed_while_the_keys_turn_goes_on_with_a_whole_ring(turning, who, step):
    dying = turning.first if who == "controller" else turning.site
    order = turning.orders[who] if isinstance(step, KEYS) else turning.order
    tokens = [turning.issue(process) for process in turning.all]
    before = turning.turned()
    order.write_text(step if isinstance(step, KEYS) else f"{step}\nturn/token/")
    with suppress(ask.Unanswered):  # by a controller that has ended
        assert turning.rotate()["turned"]
    assert dying.ended() == -9
    order.unlink()
    found = examine(dying.state / "fernet-keys")
    assert not found.damage
    assert found.epoch in {before, before + 1}
    if step in {KEYS.WRITTEN, KEYS.INSTALLED}:
        assert found.epoch == before + 1

    dying.start()
    for token in tokens:
        for process in turning.all:
            turning.validates(process, token)
    assert turning.turned() == before + 1
    tokens += [turning.issue(process) for process in turning.all]
    assert turning.rotate()["quarantined"] == []  # and so it has acknowledged
    for token in tokens:
        for process in turning.all:
            turning.validates(process, token)


def test_a_site_whose_keys_are_damaged_refuses_nothing_neither_running_nor_started_without_a_controller(turning):
    """On the ring of its replica, sealed for it; the next turn then finds it well."""
    turning.turned()
    keys, token = turning.site.state / "fernet-keys", turning.issue(turning.site)
    for name in ("0", "1", "2"):
        (keys / name).write_bytes(b"half")
    end = time.monotonic() + 10
    while examine(keys).damage:
        assert time.monotonic() < end, "it was not mended within seconds"
        assert turning.site.ask("GET", "/v3/auth/catalog", token)[0] in {200, 403}
        time.sleep(0.1)
    assert ask.page(turning.site.admin_port, "/status")["rings"]["token"]["damage"] == []

    turning.first.kill()
    turning.site.kill()
    for file in keys.iterdir():
        if file.name.isdigit():
            file.write_bytes(file.read_bytes()[:-1])
    assert examine(keys).ring is None
    turning.site.start()
    assert turning.site.ask("GET", "/v3/auth/catalog", token)[0] in {200, 403}
    assert not examine(keys).damage
    turning.first.start()
    turning.turned()
    assert turning.rotate()["quarantined"] == []
