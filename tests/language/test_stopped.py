"""A replacement of a key directory that is stopped at any system call leaves the old ring or the new one."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.engines.plugin import NOT_HERE
from tests.language.stopped import CASES

ROOT = Path(__file__).parents[2]


@pytest.fixture
def home():
    """In memory where there is such a file system: what is asked here is the order of calls, not the disk."""
    memory = Path("/dev/shm")
    made = tempfile.mkdtemp(prefix="rk-stopped-", dir=memory if os.access(memory, os.W_OK) else None)
    yield Path(made) / "home"
    shutil.rmtree(made)


@pytest.mark.parametrize("case", CASES)
def test_killed_at_any_system_call_a_start_finds_the_old_or_the_new_ring_and_doing_it_again_finishes(case, home):
    run = [sys.executable, "-m", "tests.language.stopped", case, home]
    answer = json.loads(subprocess.run(run, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=120).stdout)
    if "forbidden" in answer:
        pytest.skip(NOT_HERE + "ptrace, by which a process is stopped at a system call")
    assert answer["faults"] == []
    assert answer["calls"] > 30
