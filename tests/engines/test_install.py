"""Getting the engines: by one command, whole or not at all, by two at once, and with what went wrong in its words."""

import json
import subprocess
from pathlib import Path

import pytest

from controller.engines import install
from controller.engines.process import EngineError
from tests.processes import RKCTL

LIMIT_S = 240


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of our own, with nothing in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(install, "_SYSTEM_CACHE", tmp_path / "nowhere")
    return tmp_path / "regional-keystone"


@pytest.mark.engines("cassandra")
def test_check_tells_what_is_here(engine_programs):
    done = subprocess.run([RKCTL, "engines", "check", "--json"], capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)
    assert list(told["engines"]) == list(install.ENGINES)
    assert done.returncode == int(any(not one["ready"] for one in told["engines"].values()))
    assert told["cure"] == (install.COMMAND if done.returncode else None)


PROGRAM = """
import sys
from pathlib import Path
from controller.engines import install
install._SYSTEM_CACHE = Path("/nonexistent")
install.install(lambda tone, text: print(tone, text))
"""


@pytest.mark.engines("cassandra")
def test_two_that_install_at_once_get_one_whole_set_of_jars(cache, engine_programs):
    assert install.missing()["cassandra"] == [f"the jars of Cassandra {install.CASSANDRA}"]
    program = [RKCTL.with_name("python"), "-c", PROGRAM]
    both = [subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    said = [one.communicate(timeout=LIMIT_S)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert sum("by Maven" in one for one in said) == 1
    assert "cassandra" not in install.missing()
    (jars,) = cache.iterdir()
    assert any(one.name == f"cassandra-all-{install.CASSANDRA}.jar" for one in jars.iterdir())


@pytest.mark.engines("cassandra")
def test_jars_that_cannot_be_had_leave_nothing_and_say_why(cache, engine_programs, tmp_path, monkeypatch):
    broken = tmp_path / "mvn"
    broken.write_text("#!/bin/sh\necho '[INFO] fine so far'\necho '[ERROR] the repository is not there'\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(install, "_SEARCHED", f"{tmp_path}:{install._SEARCHED}")
    with pytest.raises(EngineError, match="by Maven failed: the repository is not there"):
        install.install(lambda *_: None)
    assert list(cache.iterdir()) == []


@pytest.mark.engines("cassandra")
def test_what_was_left_by_one_that_was_killed_goes(cache, tmp_path, monkeypatch, engine_programs):
    (cache / ".partial-old").mkdir(parents=True)
    test_jars_that_cannot_be_had_leave_nothing_and_say_why(cache, engine_programs, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("release", "suits"),
    [('JAVA_VERSION="17.0.15"\n', True), ('JAVA_VERSION="17"\n', True), ('JAVA_VERSION="21.0.1"\n', False)],
)
def test_only_a_java_that_cassandra_runs_on_is_taken(tmp_path, release, suits):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").touch()
    (tmp_path / "release").write_text(f'IMPLEMENTOR="x"\n{release}')
    assert install._suits(tmp_path) is suits


def test_packages_that_cannot_be_installed_are_named(monkeypatch):
    monkeypatch.setattr(install, "_packages_command", lambda: ["false"])
    with pytest.raises(EngineError, match=r"memcached by apt-get failed"):
        install._install_packages(["memcached"], lambda *_: None)


def test_the_cure_is_a_command_that_there_is():
    assert install.COMMAND.endswith("rkctl engines install")
    assert Path(RKCTL).name in install.COMMAND
