"""What tests need of Debian beside the engines: installed as root where it is missing. `python -m tests.packages` does all."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_APT = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "--yes", "-o", "DPkg::Lock::Timeout=300"]


def nft():
    """The program that drops packets, None where it is neither here nor may be installed."""
    return _there("nftables", lambda: shutil.which("nft", path=_SEARCHED))


def faketime():
    """The library that shows a program another time, None where it is neither here nor may be installed."""
    return _there("libfaketime", _library)


def _library():
    places = ("/usr/lib", "/usr/local/lib")
    return next((str(one) for place in places for one in Path(place).rglob("libfaketimeMT.so.1")), None)


def _there(package, look):
    found = look()
    if found is not None or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return found
    with (Path(tempfile.gettempdir()) / "regional-keystone-packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # others of this run may be at it
        if look() is None:
            for step in (["update"], ["install", "--no-install-recommends", package]):
                subprocess.run([*_APT, *step], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=300)
    return look()


if __name__ == "__main__":
    for name, found in (("nft", nft()), ("libfaketime", faketime())):
        print(f"{name}: {found or 'is not here, and may not be installed'}")
