"""What was not made by us, in venvs of their own: made once and kept."""

import fcntl
import os
import pathlib
import subprocess
import sys

KEYSTONE, TEMPEST = "keystone==30.0.0", "tempest==47.0.0"


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


def keystone_python():
    """The python of a venv that holds Keystone 30.0.0."""
    return venv_with("keystone-30.0.0", KEYSTONE)


def tempest_python():
    """The python of a venv that holds OpenStack's own tests of the Identity API."""
    return venv_with("tempest-47.0.0", TEMPEST)


def environment():
    """This environment without the settings of anybody's cloud."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "TEMPEST_"))}
