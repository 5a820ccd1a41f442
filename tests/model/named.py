"""Histories that have a name: what once broke key rotation somewhere, or would, told step by step.

Each is driven by the product's own objects as in the random runs, with the judge watching every step. A `sweep` is one
history again and again, with its fault a little later each time.
"""

from contextlib import contextmanager
from unittest import mock

import pytest

from regional_keystone.errors import IdentityError
from regional_keystone.holder import TOKEN
from regional_keystone.model import Ring
from regional_keystone.model import Site as SiteRecord
from tests.model.judge import key_ids
from tests.model.nodes import ALLOW_EXPIRED_S, DEADLINE_S, EXPIRY_S, ISOLATION_S, SKEW_S
from tests.model.run import world
from tests.model.world import World

SWEEP = range(0, 240, 20)


class History:
    """A quiet federation whose keys turn when it is said, and words to tell what happens to it."""

    def __init__(self, made):
        self.world = made
        self.c1, self.c2 = made.controllers.values()
        self.s1, self.s2, self.s3 = made.sites.values()
        made.lock.trusty, made.lock.silent = 1.0, 0.0
        self.level()

    def turn(self, controller, within_s=60.0):
        """The error of a turn that was refused; None for one that was made."""
        asked = self.asks(controller)
        assert self.world.until(asked.done, within_s), "the turn does not end"
        return self.outcome(asked)

    def asks(self, controller, since=None):
        """A turn that has been asked for and not been waited for."""
        return self.world.loop.spawn(controller.process, controller.rotator.turn(since))

    def turns_soon(self, controller):
        """A turn that is asked for again, as the schedule does it, succeeds."""
        for _ in range(8):
            if self.turn(controller) is None:
                return
            self.world.pass_(1.0)
        raise AssertionError("no turn succeeds")

    def outcome(self, asked):
        error = asked.exception()
        assert error is None or isinstance(error, IdentityError), error
        return error

    def act(self, controller, coroutine):
        task = self.world.loop.spawn(controller.process, coroutine)
        assert self.world.until(task.done, 30.0)
        return task.result()

    def seal(self, site):
        """The id of the key of a token that this site issues now; None when it refuses to."""
        sealed = site.seal()
        if sealed is None:
            return None
        self.world.judge.sealed(site, *sealed)
        return sealed[1]

    def steps(self, count):
        for _ in range(count):
            self.world.step()

    def cut(self, site):
        site.cut = True
        if site.stream is not None:
            site.stream.break_()

    @contextmanager
    def quickly(self):
        """Nothing takes its time, so that two things that follow one another do so at once."""
        with mock.patch.object(self.world.loop, "latency_s", return_value=0.005):
            yield

    def mend(self, site):
        self.world._mend(site)

    def start(self, machine):
        machine.begin()
        assert self.world.until(lambda: machine.ready, 30.0)

    def state(self, site):
        return self.world.rows.at_head(SiteRecord)[(site.name,)].state

    @property
    def ring(self):
        return self.world.rows.at_head(Ring)[(TOKEN,)]

    def level(self, *sites):
        """Everybody holds the newest ring, and every controller knows that they do."""
        those = sites or tuple(self.world.sites.values())

        def is_level():
            return all(one.ring is not None and one.ring.epoch == self.ring.epoch for one in those)

        assert self.world.until(is_level, 30.0)
        self.world.pass_(2.5)  # controllers look at what others were told once a second

    def active(self, site):
        assert self.world.until(lambda: self.state(site) == "active", 30.0), self.state(site)


def history(told, kind=World):
    """A function that is handed a `History`, as a test."""

    def test():
        with world(1, kind, turns_itself=False) as made:
            told(History(made))

    test.__name__, test.__doc__ = told.__name__, told.__doc__
    return test


def sweep(told, points=SWEEP, kind=World):
    """A function that is handed a `History` and a number of steps, as a test."""

    @pytest.mark.parametrize("steps", [pytest.param(points, id=f"{points.start} to {points[-1]}")])
    def test(steps):
        for after in steps:
            with world(after, kind, turns_itself=False) as made:
                told(History(made), after)

    test.__name__, test.__doc__ = told.__name__, told.__doc__
    return test


LONGEST_S = ISOLATION_S + EXPIRY_S + ALLOW_EXPIRED_S + SKEW_S
__all__ = ["DEADLINE_S", "EXPIRY_S", "ISOLATION_S", "LONGEST_S", "History", "history", "key_ids", "sweep"]
