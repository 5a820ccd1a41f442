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
\t@trap 'echo asked >> $(SEEN); exit' TERM; echo $$$$ >> $(SEEN); while :; do sleep 0.1; done
"""
RKCTL = """\
#!/bin/sh
echo "$@" >> "$SEEN"
"""


def test_a_run_that_is_ended_asks_its_step_first_and_ends_the_federations_of_tests(tmp_path):
    tree, seen = tmp_path / "tree", tmp_path / "seen"
    (tree / ".ci").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", tree / ".ci" / "run")
    (tree / "Makefile").write_text(MAKEFILE)
    (tree / "rkctl").write_text(RKCTL)
    (tree / "rkctl").chmod(0o755)
    subprocess.run(["git", "init", "--quiet", tree], check=True)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = os.environ | {"TMPDIR": str(scratch), "SEEN": str(seen)}
    run = subprocess.Popen([tree / ".ci" / "run"], env=environment, stdout=subprocess.DEVNULL)
    until(lambda: seen.exists() and seen.read_text().endswith("\n"), "the step")
    run.send_signal(signal.SIGTERM)
    assert run.wait(PATIENCE_S) == 128 + signal.SIGTERM
    step, asked, down = seen.read_text().splitlines()
    assert asked == "asked"
    assert down.startswith("down --state ")
    assert down.endswith("/a test/federation")
    assert not Path(f"/proc/{step}").exists()
    assert list(scratch.iterdir()) == []
