"""What tests need of Debian beside the engines: installed where that is allowed. `python -m tests.packages` does all."""

import contextlib
from pathlib import Path

from controller.engines import install
from controller.engines.process import EngineError, silent


def nft():
    """The program that drops packets, None where it is neither here nor may be installed."""
    return _there("nftables", lambda: install.program("nft"))


def faketime():
    """The library that shows a program another time, None where it is neither here nor may be installed."""
    return _there("libfaketime", _library)


def _library():
    places = ("/usr/lib", "/usr/local/lib")
    return next((one for place in places for one in Path(place).rglob("libfaketimeMT.so.1")), None)


def _there(package, look):
    with contextlib.suppress(EngineError):  # who asks is told that it is not here
        install.install_package(package, lambda: look() is None, silent)
    found = look()
    return None if found is None else str(found)


if __name__ == "__main__":
    for name, found in (("nft", nft()), ("libfaketime", faketime())):
        print(f"{name}: {found or 'is not here, and may not be installed'}")
