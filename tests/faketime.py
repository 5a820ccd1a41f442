"""The machine's wall clock as one test's processes see it, set by hand while they run; what counts seconds is left alone."""

import pytest

from tests import packages


class WallClock:
    """`environment` is for processes that are to see it."""

    def __init__(self, directory):
        library = packages.faketime()
        if library is None:
            pytest.skip("libfaketime is not here: apt-get install libfaketime")
        self._file = directory / "offset"
        self.environment = {
            "LD_PRELOAD": library,
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
