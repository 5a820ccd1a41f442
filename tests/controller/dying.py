"""A controller that ends itself by SIGKILL at a step of one change, between the append to the log and the answer.

    python -m tests.controller.dying ORDER serve --config FILE

It is the ordinary one, whose methods are wrapped from outside. ORDER is a file: while it is there its first line names
a step, its second what the change has in it, a name or an id. `Step` says which steps there are.
"""

import asyncio
import os
import signal
import sys
import time
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from controller import __main__ as command
from controller.commit import Sequencer
from controller.replicate import Replicator
from regional_keystone.adapters import sqlite
from regional_keystone.adapters.cassandra import Cassandra
from regional_keystone.adapters.cassandra_driver import Driver
from regional_keystone.adapters.cassandra_log import Log
from regional_keystone.follow import Follower
from regional_keystone.front import Front
from regional_keystone.log import Entry, encode_entry

_SENT_S = 0.004  # by then a request has left, and three data centres have hardly agreed
_WRITTEN_S = 0.05  # by then an answer has left
_FOR_EVER_S = 600.0


class Step(StrEnum):
    """Where it ends, in the order in which a change comes there."""

    BEFORE = "before the append"
    UNCOMMITTED = "in the append's transaction"  # in one file only
    SENT = "the append sent and not answered"  # this one and the next in a cluster only
    UNREAD = "the append's answer not read"
    APPENDED = "appended, not noted"
    NOTED = "noted, not applied"
    FIRST = "one row applied"
    HALF = "half of the rows applied"
    UNMARKED = "all rows applied, not marked as such"
    APPLIED = "applied, not answered"
    ANSWERED = "answered, neither applied nor told to sites"


_HELD = {Step.FIRST, Step.HALF, Step.UNMARKED}  # their answer waits, though it need not wait for the tables


class Order:
    """What the process is to die of, and how near it is."""

    def __init__(self, path):
        self._path = path
        self.doing = {}  # what is being done, append or apply: the step, if the change is in it
        self.answering = False
        self.rows = 0  # that may still be applied

    def step(self, entries):
        """The step that is ordered, if the change is among these entries."""
        try:
            step, mark = self._path.read_text().splitlines()
        except FileNotFoundError:
            return None
        return Step(step) if any(mark.encode() in encode_entry(entry) for entry in entries) else None

    @contextmanager
    def inside(self, what, entries):
        self.doing[what] = self.step(entries)
        try:
            yield self.doing[what]
        finally:
            self.doing[what] = None

    def at(self, what, *steps):
        """Die here if that is one of these steps of what is being done."""
        if self.doing.get(what) in steps:
            die()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def around(owner, name):
    """Replaces a function by one that gets it as its first argument."""

    def wrap(made):
        real = getattr(owner, name)

        def wrapped(*arguments, **named):
            return made(real, *arguments, **named)

        setattr(owner, name, wrapped)
        return made

    return wrap


def both(order):
    """The steps that every store has."""
    for store in (sqlite.Sqlite, Cassandra):

        @around(store, "append")
        async def append(real, self, feed, after, entries):
            with order.inside("append", entries):
                order.at("append", Step.BEFORE)
                done = await real(self, feed, after, entries)
                if done:
                    order.at("append", Step.APPENDED)
                return done

        @around(store, "apply")
        async def apply(real, self, entries):
            with order.inside("apply", entries) as step:
                if step is Step.ANSWERED:
                    await asyncio.sleep(_FOR_EVER_S)
                return await real(self, entries)

    @around(Follower, "note")
    def note(real, self, entries):
        real(self, entries)
        if order.step(entries) is Step.NOTED:
            die()

    @around(Replicator, "publish")
    def publish(real, self, entries):
        if order.step(entries) is not Step.ANSWERED:
            real(self, entries)

    @around(Sequencer, "commit")
    async def commit(real, self, transaction):
        position = await real(self, transaction)
        step = order.step([Entry(0, transaction.id, 0, transaction.changes)])
        if step in _HELD:
            await self._follower.settled(position, _FOR_EVER_S)
            die()  # another controller was faster with its rows, or with its mark
        if step is Step.APPLIED:
            await self._follower.settled(position, _FOR_EVER_S)
            die()
        order.answering = step is Step.ANSWERED
        return position

    @around(Front, "finish_response")
    async def finish_response(real, self, *arguments):
        done = await real(self, *arguments)
        if order.answering:
            asyncio.get_running_loop().call_later(_WRITTEN_S, die)
        return done


def file(order):
    """The steps within one file's transactions."""

    @around(sqlite, "_mark")
    def mark(real, db, feed, head=None, applied=None):
        real(db, feed, head, applied)
        order.at("append", *[Step.UNCOMMITTED] * (head is not None))
        order.at("apply", *[Step.UNMARKED] * (applied is not None))

    @around(sqlite.Sqlite, "_apply")
    def apply(real, self, entries):
        order.rows = len(entries[-1].changes) // 2
        real(self, entries)

    @around(sqlite.Sqlite, "_project")
    def project(real, self, db, change):
        real(self, db, change)
        order.at("apply", Step.FIRST)
        order.rows -= 1
        if order.rows <= 0:
            order.at("apply", Step.HALF)


def cluster(order):
    """The steps between statements to a cluster."""

    @around(Driver, "_send_now")
    def send_now(real, self, statement, purpose, *arguments):
        asked = real(self, statement, purpose, *arguments)
        if purpose == "decision" and order.doing.get("append") is Step.SENT:
            time.sleep(_SENT_S)  # other threads do the sending
            die()
        return asked

    @around(Driver, "_succeeded")
    def succeeded(real, self, rows, asked):
        if asked.purpose == "decision":
            order.at("append", Step.UNREAD)
        real(self, rows, asked)

    @around(Cassandra, "_write")
    async def write(real, self, writes):
        writes = list(writes)
        some = {Step.FIRST: 1, Step.HALF: len(writes) // 2}.get(order.doing.get("apply"))
        await real(self, writes[:some])
        order.at("apply", Step.FIRST, Step.HALF)

    @around(Log, "set_applied")
    async def set_applied(real, self, feed, position):
        order.at("apply", Step.UNMARKED)
        await real(self, feed, position)


def main():
    order = Order(Path(sys.argv.pop(1)))
    both(order)
    file(order)
    cluster(order)
    command.main()


if __name__ == "__main__":
    main()
