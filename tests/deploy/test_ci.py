"""What the run of everything leaves behind when it is ended early: nothing."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from tests.processes import PATIENCE_S, until

ROOT = Path(__file__).parents[2]
# the step tells when it began and, if it is asked to end, that it could; it leaves a federation behind
MAKEFILE = """\
dev:
\t@mkdir -p .venv/bin $$TMPDIR/a\\ test/federation && cp rkctl .venv/bin/rkctl
\t@touch $$TMPDIR/a\\ test/federation/supervisor.pid
\t@trap 'echo asked >> $(SEEN); exit' $(ASKED_BY); echo $$$$ >> $(SEEN); while :; do sleep 0.1; done
"""
TIMED_OUT = 124
RKCTL = """\
#!/bin/sh
echo "$@" >> "$SEEN"
"""


def begun(tmp_path, asked_by, **environment):
    """The run in a tree of its own, and what its step tells."""
    tree, seen = tmp_path / "tree", tmp_path / "seen"
    (tree / ".ci").mkdir(parents=True)
    for program in ("run", "memory"):
        shutil.copy(ROOT / ".ci" / program, tree / ".ci" / program)
    (tree / "Makefile").write_text(MAKEFILE)
    (tree / "rkctl").write_text(RKCTL)
    (tree / "rkctl").chmod(0o755)
    subprocess.run(["git", "init", "--quiet", tree], check=True)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    told = {"TMPDIR": str(scratch), "SEEN": str(seen), "ASKED_BY": asked_by, **environment}
    run = subprocess.Popen([tree / ".ci" / "run"], env=os.environ | told, stdout=subprocess.DEVNULL)
    until(lambda: seen.exists() and seen.read_text().endswith("\n"), "the step")
    return run, seen


def left(tmp_path, seen):
    """What the step told; it is gone, and so is all that was made."""
    step, asked, down = seen.read_text().splitlines()
    assert asked == "asked"
    assert down.startswith("down --state ")
    assert down.endswith("/a test/federation")
    assert not Path(f"/proc/{step}").exists()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_run_that_is_ended_asks_its_step_first_and_ends_the_federations_of_tests(tmp_path):
    run, seen = begun(tmp_path, "TERM")
    run.send_signal(signal.SIGTERM)
    assert run.wait(PATIENCE_S) == 128 + signal.SIGTERM
    left(tmp_path, seen)


def test_a_step_that_takes_too_long_is_interrupted_so_that_it_can_tell_what_it_knows(tmp_path):
    run, seen = begun(tmp_path, "INT", CI_RUN_S="2")
    assert run.wait(PATIENCE_S) == TIMED_OUT
    left(tmp_path, seen)
