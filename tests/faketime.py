"""The machine's wall clock as one test's processes see it, set by hand while they run; what counts seconds is left alone."""

import os
import subprocess
from pathlib import Path

import pytest

_LIBRARY = "libfaketimeMT.so.1"


def _library():
    return next((found for place in ("/usr/lib", "/usr/local/lib") for found in Path(place).rglob(_LIBRARY)), None)


class WallClock:
    """`environment` is for processes that are to see it."""

    def __init__(self, directory):
        library = _library()
        if library is None and os.getuid() == 0:
            subprocess.run(["apt-get", "-qq", "--yes", "install", "libfaketime"], capture_output=True, check=False)
            library = _library()
        if library is None:
            pytest.skip("libfaketime is not here: apt-get install libfaketime")
        self._file = directory / "offset"
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_NO_CACHE": "1",
        }
        self.set(0)

    def set(self, ahead_s):
        """Put it so many seconds ahead of what it would be, or behind."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead_s:+d}")
        new.replace(self._file)
