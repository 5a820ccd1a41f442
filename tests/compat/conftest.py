"""What was not made by us: in venvs of their own, made once and kept; and a federation for clients to talk to."""

import fcntl
import os
import pathlib
import subprocess
import sys

import pytest

from controller.federation import Home, is_free

KEYSTONE = "keystone==30.0.0"


def cache_directory():
    """Where what takes minutes to install is kept: RK_COMPAT_CACHE, or a directory of the user's cache."""
    default = pathlib.Path.home() / ".cache" / "regional-keystone"
    return pathlib.Path(os.environ.get("RK_COMPAT_CACHE") or default)


def venv_with(name, *requirements):
    """The path of the python of a venv that has these requirements; made under a lock, and only once."""
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    venv, done = cache / name, cache / name / ".complete"
    python = venv / "bin" / "python"
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists() or done.read_text() != "\n".join(requirements):
            subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
            done.write_text("\n".join(requirements))
    return python


@pytest.fixture(scope="session")
def upstream_python():
    """The python of a venv that holds Keystone 30.0.0."""
    return venv_with("keystone-30.0.0", KEYSTONE)


@pytest.fixture(scope="session")
def federation(tmp_path_factory):
    """A controller and two sites, in processes of their own, for everything that stock clients do."""
    home = Home.at(tmp_path_factory.mktemp("stock") / "federation")
    # other tests look for their ports below; the kernel's own begin above
    port = next(one for one in range(30100, 32500, 25) if all(is_free(one + offset) for offset in range(10)))
    rkctl = pathlib.Path(sys.executable).with_name("rkctl")
    where = ["--state", str(home.directory)]
    chosen = (
        "identity.password_hash_rounds=4",
        "security_compliance.lockout_failure_attempts=2",
        "security_compliance.lockout_duration=5",
        "security_compliance.unique_last_password_count=2",
    )
    sets = [word for one in chosen for word in ("--set", one)]
    subprocess.run(
        [rkctl, "up", "--detach", *where, "--port", str(port), "--sites", "RegionOne,RegionTwo", *sets], check=True
    )
    try:
        yield home
    finally:
        subprocess.run([rkctl, "down", *where], check=True)


@pytest.fixture(scope="session")
def tempest_python():
    """The python of a venv that holds OpenStack's own tests of the Identity API."""
    return venv_with("tempest-47.0.0", "tempest==47.0.0")


@pytest.fixture(scope="session")
def environment():
    """This environment without the settings of anybody's cloud."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "TEMPEST_"))}
