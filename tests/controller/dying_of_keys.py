"""A site or a controller that ends itself by SIGKILL while it takes up a ring of keys that the log has turned.

    python -m tests.controller.dying_of_keys ORDER site|controller ORDER serve --config FILE

It is the ordinary one, wrapped from outside. While ORDER is there its first line names a `Step`; the second ORDER, which
only a controller has, is of `dying`: a step of its change.
"""

import sys
from enum import StrEnum
from pathlib import Path

from regional_keystone import holder
from regional_keystone.follow import Follower
from regional_keystone.holder import TOKEN
from tests.controller import dying
from tests.controller.dying import around, die


class Step(StrEnum):
    """Where it ends, in the order in which a ring comes there."""

    BEFORE = "in the log, not written"
    WRITTEN = "in the directory, not in use"
    INSTALLED = "in use, not acknowledged"


def dies_of(order):
    """Wrap what takes up a ring."""

    def at(step):
        if order.exists() and order.read_text() == step:
            die()

    @around(holder, "write_directory")
    def write_directory(real, directory, ring):
        ours = directory.name == "fernet-keys"
        if ours:
            at(Step.BEFORE)
        real(directory, ring)
        if ours:
            at(Step.WRITTEN)

    @around(Follower, "_install")
    async def install(real, self, record):
        progress, self.progress = self.progress, lambda: None
        try:
            await real(self, record)
        finally:
            self.progress = progress
        if record.id == TOKEN:
            at(Step.INSTALLED)
        self.progress()


def main():
    dies_of(Path(sys.argv.pop(1)))
    if sys.argv.pop(1) == "controller":
        dying.main()
    else:
        from regional_keystone.__main__ import main as serve

        serve()


if __name__ == "__main__":
    main()
