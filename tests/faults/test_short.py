"""A short run, so that what breaks a promise is seen before it is merged; `make faults` is the long one."""

import signal
import subprocess
import sys

import pytest

from tests.faults.checker import TIMELY
from tests.faults.cluster import Cluster
from tests.faults.history import Did, Fault
from tests.faults.run import Run, summary
from tests.processes import PATIENCE_S, ended, processes, until

pytestmark = pytest.mark.federation
SEED = 20
# those of engines that need no node to start again, which takes half a minute
SOON_OVER = ["freeze-node", "kill-controller", "spoil-cache", "freeze-cache", "kill-cache", "kill-zookeeper-leader"]
CUTS = ["cut-region", "answers-lost", "kill-unanswered", "far-away-and-cut"]


def broken(cluster, directory, seconds, only=(), longest_s=30.0):
    lines = []
    run = Run(cluster, directory / "history.jsonl", SEED, lines.append)
    found, late = run.go(seconds, only, longest_s)
    violations = [one for one in found if one.rule not in TIMELY]  # other tests run beside this one
    told = summary(run.history.events, violations, late)
    assert violations == [], f"{told}\nagain: python -m tests.faults --seed {SEED} --seconds {seconds}"
    return run.history.events


@pytest.mark.takes(100)
def test_an_embedded_federation_keeps_its_promises_whatever_dies_freezes_or_is_cut_off(tmp_path):
    cluster = Cluster(tmp_path / "federation")
    try:
        cluster.start()
        events = broken(cluster, tmp_path, 20)
    finally:
        cluster.stop()
    was_tried(events, 1000)


def test_a_federation_on_engines_keeps_its_promises_whatever_dies_freezes_or_is_cut_off(engine_federation, tmp_path):
    kinds = [*SOON_OVER, *(CUTS if engine_federation.can_cut else [])]
    events = broken(engine_federation, tmp_path, 35, kinds, longest_s=3.0)
    was_tried(events, 300)


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGTERM, "history.jsonl"), (signal.SIGINT, "federation/control.sock")],
    ids=["under load", "at the start, in the background"],
)
def test_a_run_that_is_ended_leaves_no_process(tmp_path, number, moment):
    """A shell has SIGINT ignored by what it starts in the background."""
    program = [sys.executable, "-m", "tests.faults", "--embedded", "--seconds", "600", "--state", str(tmp_path)]
    with ended(tmp_path / "federation") as home:
        process = subprocess.Popen(
            ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh", *program], stdout=subprocess.DEVNULL
        )
        until(lambda: process.poll() is not None or (tmp_path / moment).exists(), moment)
        assert processes(home)
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 128 + number
        assert processes(home) == {}


def was_tried(events, least):
    assert sum(isinstance(one, Did) for one in events) > least
    assert any(isinstance(one, Fault) for one in events)
