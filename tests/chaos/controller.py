"""One of several controllers on a log that they share as a file: everything else is as `rkctl serve` has it."""

import sys
from pathlib import Path

from controller import serving
from controller.settings import Settings
from regional_keystone import settings
from regional_keystone.__main__ import refusals, run
from regional_keystone.adapters.sqlite import Sqlite

if __name__ == "__main__":
    config, log, ready, parent = sys.argv[1:]
    with refusals():
        found = settings.load(Settings, Path(config), [])
        run(lambda tell: serving.serve(found, tell, lambda: Sqlite.open(Path(log))), int(ready), int(parent))
