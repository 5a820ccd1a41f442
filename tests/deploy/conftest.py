"""Programs that check what is deployed; where one cannot be had, its tests are reported as not run."""

import os
import shutil

import pytest

from controller.engines.install import may_install

_SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@pytest.fixture(scope="session")
def engine_program():
    """The path of a program by its name. Without it, tests fail where it could have been installed."""

    def find(name):
        path = shutil.which(name, path=_SEARCHED)
        if path is None:
            (pytest.fail if may_install() else pytest.skip)(f"{name} is not installed: apt-get install {name}")
        return path

    return find
