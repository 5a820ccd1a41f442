"""OpenStack's own tests of the Identity API, unmodified: at the controller, and at a site that passes changes on.

`make compat` is `python -m tests.compat.tempest`: two lines of results, and who answered by the members' own counters.
The suite asks the same by test_tempest.py.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

from tests.compat import installed
from tests.processes import ended, free_port, rkctl

TESTS, LONGEST_S = 138, 600  # most of it is password hashes, which other work on the machine makes slow
SETTINGS = (
    "security_compliance.lockout_failure_attempts=2",
    "security_compliance.lockout_duration=5",
    "security_compliance.unique_last_password_count=2",
)
CONF = """
[DEFAULT]
log_file = tempest.log
[oslo_concurrency]
lock_path = ./lock
[auth]
use_dynamic_credentials = true
create_isolated_networks = false
admin_username = admin
admin_password = {password}
admin_project_name = admin
admin_domain_name = Default
default_credentials_domain_name = Default
[identity]
uri_v3 = {url}
auth_version = v3
region = {region}
v3_endpoint_type = public
user_lockout_failure_attempts = 2
user_lockout_duration = 5
user_unique_last_password_count = 2
[identity-feature-enabled]
api_extensions = all
security_compliance = true
[enforce_scope]
keystone = true
[service_available]
cinder = false
neutron = false
glance = false
swift = false
nova = false
horizon = false
"""


class Outcome(NamedTuple):
    """What became of one run: its exit code, how many of each, what failed, all it said, who answered how many requests."""

    code: int
    passed: int
    skipped: int
    failed: list
    said: str
    answered: dict

    def __str__(self):
        more = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {len(self.failed)} failed{more}"

    def faults(self, place):
        """Why this is not all that was asked for at this member, a sentence each; the ends of what failed with them."""
        found = [f"{name} failed" for name in self.failed]
        if (self.code, self.passed, self.skipped, found) != (0, TESTS, 0, []):
            found.append(f"{TESTS} tests are to pass: {self}, exit code {self.code}\n{self.said[-4000:]}")
        found += [
            f"{name} answered {count} requests"
            for name, count in self.answered.items()
            if (count < TESTS if name == place.name else count)
        ]
        return found


@contextlib.contextmanager
def started(folder, *more):
    """A controller and two sites as anybody starts them in this folder, gone afterwards; with more settings if asked."""
    sets = [word for one in (*SETTINGS, *more) for word in ("--set", one)]
    with ended(folder / "federation") as home:
        port = str(free_port())
        done = rkctl("up", "--detach", "--port", port, "--sites", "RegionOne,RegionTwo", *sets, cwd=folder)
        assert done.returncode == 0, done.stderr
        yield home


def run(python, home, place, folder, tell=lambda done: None):
    """All tests at one member of a federation, with a workspace in this folder; tells how many have ended."""
    environment = installed.environment()
    program = python.with_name("tempest")
    space = folder / "identity"
    made = ["init", "--workspace-path", folder / "workspace.yaml", "--name", "identity", space]
    subprocess.run([program, *made], check=True, capture_output=True, env=environment)
    conf = CONF.format(password=home.password(), url=place.url, region=place.region)
    (space / "etc" / "tempest.conf").write_text(conf)
    before = _requests(home)
    code, said = _said(
        [program, "run", "--regex", r"^tempest\.api\.identity", "--concurrency", "2"], space, environment, tell
    )
    answered = {name: count - before[name] for name, count in _requests(home).items()}
    counted = dict(re.findall(r" - (Passed|Skipped|Failed): (\d+)", said))
    failed = re.findall(r"^(?:\{\d+\} )?(.+?) \[[^\]]*\] \.\.\. FAILED", said, re.MULTILINE)
    failed += ["a test that is not named"] * (int(counted.get("Failed", 0)) - len(failed))
    return Outcome(code, int(counted.get("Passed", 0)), int(counted.get("Skipped", 0)), failed, said, answered)


def _requests(home):
    """What each member has answered on its public port."""
    return {member.name: member.page("/status", 10.0)["requests"] for member in home.members()}


def _said(command, folder, environment, tell):
    """Its exit code and all that it says; ended with all its children if it takes too long, or we are ended."""
    lines, done = [], 0
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    late = threading.Timer(LONGEST_S, os.killpg, (process.pid, signal.SIGKILL))
    late.start()
    try:
        for line in process.stdout:
            lines.append(line)
            if re.search(r"\] \.\.\. \w+", line):
                done += 1
                tell(done)
        return process.wait(), "".join(lines)
    finally:
        late.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()


class _Progress:
    """A line of how far it is: rewritten for people, now and then for a log."""

    def __init__(self, what):
        self._what, self._begun, self._people = what, time.monotonic(), sys.stdout.isatty()

    def __call__(self, done):
        text = f"{self._what}: {done} of {TESTS} tests have ended, {time.monotonic() - self._begun:.0f} s"
        if self._people:
            print(f"\r{text}", end="\n" if done == TESTS else "", flush=True)
        elif done % 46 == 0:
            print(text, flush=True)


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # all that was started ends with us
    print("looking for tempest 47.0.0; where it is missing it is installed, once, in a minute or two", flush=True)
    python = installed.tempest_python()
    faults = []
    with tempfile.TemporaryDirectory(prefix="compat-") as name, started(Path(name)) as home:
        for place in home.members()[:2]:
            print(f"tempest.api.identity at {place.name}, {place.url}", flush=True)
            folder = Path(name) / place.name
            folder.mkdir()
            found = run(python, home, place, folder, _Progress(place.name))
            answered = ", ".join(f"{member} {count}" for member, count in found.answered.items())
            print(f"{found} at {place.name}\n  requests answered meanwhile: {answered}", flush=True)
            faults += [f"{place.name}: {one}" for one in found.faults(place)]
    print(*faults, sep="\n", end="\n" if faults else "", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
