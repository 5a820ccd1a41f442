"""Who runs the tests that need engines, what ends with a test run, and what is said where an engine is not here."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from controller.engines import addresses
from tests.engines.plugin import not_tested
from tests.processes import PATIENCE_S, until

ROOT = Path(__file__).parents[2]
SUITE = """
import os, pathlib, time, pytest
HERE = pathlib.Path(__file__).parent

def tell(what):
    (HERE / what).write_text(os.environ.get("PYTEST_XDIST_WORKER", ""))

def test_by_fixture(memcached):
    HERE.joinpath("address").write_text(memcached[0].address)
    tell("fixture")

@pytest.mark.parametrize("kind", ["memcached", "local"])
def test_by_parameter(kind):
    tell(kind)

@pytest.mark.engines("memcached")
def test_by_mark():
    tell("mark")

def test_that_hangs(memcached):
    HERE.joinpath("hanging").write_text(memcached[0].address)
    time.sleep(1000)
"""
OTHERS = "import time, pytest\n@pytest.mark.parametrize('n', range(30))\ndef test_other(n):\n    time.sleep(0.01)\n"


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "test_some.py").write_text(SUITE)
    (tmp_path / "test_others.py").write_text(OTHERS)
    return tmp_path


def command(suite, *words):
    own = ["-p", "tests.engines.plugin", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", suite]
    return [sys.executable, "-m", "pytest", *own, *words, suite]


def run(suite, *words, prefix=(), **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "CI"))}
    return subprocess.run(
        [*prefix, *command(suite, *words)],
        cwd=ROOT,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )


@pytest.mark.long  # the shorter sibling: a run that is interrupted
@pytest.mark.engines("memcached")
def test_what_needs_engines_is_run_by_one_worker_and_first(suite):
    done = run(suite, "-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder", "-v", "-k", "not hangs")
    assert done.returncode == 0, done.stdout
    workers = {(suite / name).read_text() for name in ("fixture", "memcached", "mark")}
    assert len(workers) == 1
    assert workers < {"gw0", "gw1"}
    others = {line.split()[0] for line in done.stdout.splitlines() if "test_other" in line and "PASSED" in line}
    assert others == {"[gw0]", "[gw1]"} - {f"[{one}]" for one in workers}
    assert addresses.is_free((suite / "address").read_text(), 11211)


@pytest.mark.engines("memcached")
@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, marks=pytest.mark.long),
        signal.SIGKILL,
    ],
    ids=lambda one: getattr(one, "name", None),
)
def test_an_interrupted_run_leaves_no_engine(suite, number):
    with subprocess.Popen(
        command(suite, "-k", "hangs"), cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True
    ) as started:
        try:
            until(lambda: hanging(suite), "the test to run")
            address = hanging(suite)
            assert not addresses.is_free(address, 11211)
            started.send_signal(number)
            until(lambda: addresses.is_free(address, 11211), "memcached to end")
        finally:
            started.kill()


@pytest.mark.long  # the shorter sibling: a run that is interrupted
@pytest.mark.engines("memcached")
def test_a_killed_worker_leaves_no_engine(suite):
    words = ("-n", "2", "--dist", "loadgroup", "--max-worker-restart", "0", "-k", "hangs or other")
    with subprocess.Popen(command(suite, *words), cwd=ROOT, stdout=subprocess.DEVNULL) as started:
        try:
            until(lambda: hanging(suite), "the test to run")
            address = hanging(suite)
            for worker in children(started.pid):
                os.kill(worker, signal.SIGKILL)
            until(lambda: addresses.is_free(address, 11211), "memcached to end")
        finally:
            started.kill()


def hanging(suite):
    """The address of the memcached of a test that hangs; empty until it does."""
    file = suite / "hanging"
    return file.read_text() if file.exists() else ""


def children(pid):
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def as_another_user():
    """Not as root, who may install; with the rights on files that we have."""
    return () if os.geteuid() else (shutil.which("unshare"), "--user", "--map-user=1000")


def test_an_engine_that_is_not_here_is_named_last_with_its_cure(suite):
    done = run(suite, prefix=as_another_user(), PATH="/nowhere")
    assert done.returncode == 0, done.stdout
    assert "4 skipped" in done.stdout
    assert done.stdout.splitlines()[-2:] == [
        "NOT TESTED for want of memcached: 4 that need memcached",
        "`sudo .venv/bin/rkctl engines install` installs what is missing",
    ]


def test_what_is_no_engine_of_ours_is_named_as_well():
    assert not_tested({"helm": 90, "haproxy, helm": 1}, {"haproxy": ["HAProxy 2.6"]}) == [
        "NOT TESTED for want of HAProxy 2.6, helm: 1 that need haproxy, helm",
        "NOT TESTED for want of helm: 90 that need helm",
        "`sudo .venv/bin/rkctl engines install` installs what is missing",
    ]
    assert len(not_tested({"helm": 90}, {})) == 1


@pytest.mark.long  # what is missing is named: its shorter sibling
def test_in_ci_an_engine_that_cannot_be_installed_fails_the_run(suite):
    done = run(suite, "-k", "by_fixture", prefix=as_another_user(), PATH="/nowhere", CI="true")
    assert done.returncode == 1
    assert "sudo cannot be started" in done.stdout
    assert "NOT TESTED" not in done.stdout
