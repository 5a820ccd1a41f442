"""A short run, so that what breaks a promise is seen before it is merged; `make faults` is the long one."""

import pytest

from tests.faults.cluster import Cluster
from tests.faults.history import Did, Fault
from tests.faults.run import Run, summary

pytestmark = pytest.mark.federation
SEED = 20


def broken(cluster, directory, seconds, only=()):
    lines = []
    run = Run(cluster, directory / "history.jsonl", SEED, lines.append)
    violations = run.go(seconds, only)
    told = summary(run.history.events, violations)
    assert violations == [], f"{told}\nagain: python -m tests.faults --seed {SEED} --seconds {seconds}"
    return run.history.events


def test_an_embedded_federation_keeps_its_promises_whatever_dies_freezes_or_is_cut_off(tmp_path):
    cluster = Cluster(tmp_path / "federation")
    try:
        cluster.start()
        events = broken(cluster, tmp_path, 25)
    finally:
        cluster.stop()
    assert sum(isinstance(one, Did) for one in events) > 1000
    assert any(isinstance(one, Fault) for one in events)
