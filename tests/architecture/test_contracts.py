"""Each import contract catches what it is there for: broken on purpose in a copy, one at a time."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = [
    one["name"] for one in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
]
PLANTED = {  # contract -> a module, and what it must not import
    "A site never needs the controller": ("regional_keystone/errors.py", "controller"),
    "Site: calls only go down": ("regional_keystone/record.py", "regional_keystone.log"),
    "Controller: calls only go down": ("controller/commit.py", "controller.rotate"),
    "API domains use the shapes; the engine knows no domain": (
        "regional_keystone/api/projects.py",
        "regional_keystone.api.catalog",
    ),
    "Adapters know the seam, not the data": ("regional_keystone/adapters/sqlite.py", "regional_keystone.model"),
    "Adapters are independent": ("regional_keystone/adapters/sqlite.py", "regional_keystone.adapters.local"),
    "Only backends names adapters": ("regional_keystone/front.py", "regional_keystone.adapters.local"),
    "Drivers stay in their adapter": ("regional_keystone/wiring.py", "sqlite3"),
}


@pytest.fixture
def copy(tmp_path):
    for package in ("regional_keystone", "controller"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def broken(copy):
    """The contracts that do not hold there."""
    program = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(program, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    said = dict(re.findall(r"^(.+?) (KEPT|BROKEN)\b", done.stdout, re.MULTILINE))
    assert said.keys() == set(NAMES), done.stdout + done.stderr
    found = [name for name, verdict in said.items() if verdict == "BROKEN"]
    assert (done.returncode != 0) == bool(found)
    return found


def test_every_contract_is_broken_below():
    assert list(PLANTED) == NAMES


@pytest.mark.parametrize("contract", PLANTED)
def test_a_forbidden_import_breaks_its_contract_and_no_other(copy, contract):
    module, forbidden = PLANTED[contract]
    path = copy / module
    path.write_text(f"{path.read_text()}\nimport {forbidden}\n")
    assert broken(copy) == [contract]


@pytest.mark.parametrize(
    ("package", "contract"),
    [("regional_keystone", "Site: calls only go down"), ("controller", "Controller: calls only go down")],
)
def test_a_module_in_no_layer_is_refused(copy, package, contract):
    (copy / package / "stray.py").write_text('"""Nobody knows where this belongs."""\n')
    assert broken(copy) == [contract]
