"""The units of systemd, and what they count on: that the programs tell when they serve and when they end."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from regional_keystone.__main__ import MISCONFIGURED, REFUSED, tell_service_manager
from regional_keystone.web import Limits
from tests.processes import RKCTL, free_port

UNITS = Path(__file__).parents[2] / "configs/systemd"
PROGRAMS = "/opt/regional-keystone/bin"
FILES = sorted(UNITS.glob("*.service"))
analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not on this machine")


@pytest.fixture
def units(tmp_path):
    """The units with the programs of this environment, the template for a site."""
    for file in FILES:
        name = file.name.replace("@", "@Oslo")
        (tmp_path / name).write_text(file.read_text().replace(PROGRAMS, str(RKCTL.parent)))
    return sorted(tmp_path.glob("*.service"))


def options(file):
    return dict(re.findall(r"(?m)^(\w+)=(.*)$", file.read_text()))


@analyze
def test_systemd_understands_every_line(units):
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "regional-keystone" in line] == []


@analyze
def test_a_line_that_it_does_not_understand_would_be_found(units):
    units[0].write_text(units[0].read_text().replace("ProtectSystem=strict", "ProtectSystems=strict"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", units[0]], capture_output=True, text=True, check=False
    )
    assert "ProtectSystems" in done.stderr


@analyze
def test_little_is_exposed(units):
    for unit in units:
        done = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit], capture_output=True, check=False
        )
        assert done.returncode == 0, done.stdout.decode()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_unit_says_what_the_program_does(file):
    told = options(file)
    program, *words = told["ExecStart"].split()
    assert Path(program).parent == Path(PROGRAMS)
    assert RKCTL.with_name(Path(program).name).exists()
    assert "serve" in words
    assert told["Type"] == "notify"
    assert told["RestartPreventExitStatus"] == f"{MISCONFIGURED} {REFUSED}"
    assert int(told["TimeoutStopSec"]) > Limits().drain_s
    assert int(told["LimitNOFILE"]) > 2 * Limits().connections
    assert (told["StateDirectoryMode"], told["UMask"], told["LimitCORE"]) == ("0700", "0077", "0")
    assert (told["NoNewPrivileges"], told["ProtectSystem"], told["CapabilityBoundingSet"]) == ("yes", "strict", "")
    assert "SystemCallFilter" in told


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_a_controller_tells_that_it_serves_and_that_it_ends(tmp_path, abstract):
    port = free_port()
    address = f"@rk-{os.getpid()}-{port}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + address[1:] if abstract else address)
        manager.settimeout(30)
        sets = [f"site.state_dir={tmp_path / 'state'}", f"listen.port={port}", f"listen.admin_port={port + 1}"]
        sets += [f"stream.port={port + 2}"]
        command = [RKCTL, "serve", *(word for one in sets for word in ("--set", one))]
        environment = {**os.environ, "NOTIFY_SOCKET": address}
        with subprocess.Popen(
            command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        ) as process:
            try:
                assert manager.recv(100) == b"READY=1"
                process.send_signal(signal.SIGTERM)
                assert manager.recv(100) == b"STOPPING=1"
                assert process.wait(20) == 0
            finally:
                process.kill()


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/at/all", "@nobody-listens-here", "/" + "a" * 200])
def test_a_manager_that_is_not_there_hears_nothing(address):
    tell_service_manager(address, "READY=1")


def test_a_manager_that_does_not_read_stops_nobody(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        for _ in range(5000):
            tell_service_manager(str(tmp_path / "notify"), "READY=1")


def test_a_child_is_not_told_of_the_manager():
    """What a child said would be taken for ours."""
    code = (
        "import os, json, sys\n"
        "from regional_keystone.__main__ import run\n"
        "async def serve(ready): ready(); print(json.dumps('NOTIFY_SOCKET' in os.environ))\n"
        "run(serve, None, None)\n"
    )
    environment = {**os.environ, "NOTIFY_SOCKET": "@nobody"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False
