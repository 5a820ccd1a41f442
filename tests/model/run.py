"""Runs of the model: one seed, many seeds, and what is left of a run that fails when all is left out that it can do without."""

import asyncio
import sys
from collections import Counter
from contextlib import contextmanager
from typing import NamedTuple

import structlog

from tests.model.areas import AREAS
from tests.model.judge import Violation
from tests.model.loop import PROCESS
from tests.model.stores import memory
from tests.model.world import World

TRIES = 60


class Done(NamedTuple):
    """What a run came to. `failure` is None for one in which all promises were kept."""

    steps: int
    simulated_s: float
    turns: int
    tokens: int
    kinds: Counter
    deeds: int
    failure: str | None
    trace: tuple[str, ...]


@contextmanager
def world(seed, kind=World, **more):
    """A federation whose event loop is the model's; what its processes log is in its trace."""
    made = kind.__new__(kind)

    def told(logger, name, event):
        process = PROCESS.get()
        made.count(f"log {event['event']}")
        made.tell(f"    {process and process.name}: {event.pop('event')} {event or ''}")
        raise structlog.DropEvent

    before, loop = structlog.get_config(), asyncio._get_running_loop()
    _forget_bound()
    structlog.configure(
        processors=[told], wrapper_class=structlog.make_filtering_bound_logger(20), cache_logger_on_first_use=False
    )
    try:
        with memory() as root, made.around():
            made.__init__(seed, root, **more)
            yield made
    finally:
        made.close()
        asyncio._set_running_loop(loop)
        structlog.configure(**before)


def _forget_bound():
    """Loggers that a server in this process has bound for good, as `logs.configure` has it, are bound anew."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("regional_keystone", "controller")):
            for one in vars(module).values():
                if isinstance(one, structlog._config.BoundLoggerLazyProxy):
                    vars(one).pop("bind", None)


def run(seed, steps, without=(), area="keys"):
    """One run, judged."""
    failure = None
    with world(seed, AREAS[area].world, without=without) as made:
        try:
            made.run(steps, AREAS[area].every)
        except Exception as error:  # whatever the product fails with is a failure of the run
            failure = str(error) if isinstance(error, Violation) else f"{type(error).__name__}: {error}"
        return Done(
            steps=made.loop.steps,
            simulated_s=made.loop.time(),
            turns=made.judge.turns,
            tokens=made.judge.tokens,
            kinds=made.kinds + made.judge.count + made.lock.count,
            deeds=made.deeds,
            failure=failure,
            trace=tuple(made.trace),
        )


def smallest(seed, steps, area="keys"):
    """The failing run with as few deeds as were found to be needed: fails by the same rule as with all of them."""
    found = run(seed, steps, area=area)
    rule = _rule(found)
    needed, part = list(range(1, found.deeds + 1)), max(1, found.deeds // 2)
    tries = 0
    while part and tries < TRIES:
        for start in range(0, len(needed), part):
            less = needed[:start] + needed[start + part :]
            tries += 1
            tried = run(seed, steps, set(range(1, found.deeds + 1)) - set(less), area)
            if tried.failure is not None and _rule(tried) == rule and tried.deeds <= found.deeds:
                needed, found = [one for one in less if one <= tried.deeds], tried
                break
            if tries >= TRIES:
                break
        else:
            part //= 2
    return found._replace(deeds=len(needed))


def _rule(done):
    return (done.failure or "").partition(":")[0]


def told(seed, steps, done, area="keys"):
    """A failing run, for who has to find out why."""
    again = f"again: make model AREA={area} SEED={seed} STEPS={steps}"
    lines = [f"seed {seed}: {done.failure}", *done.trace, again]
    return "\n".join(lines)
