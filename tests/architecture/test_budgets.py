"""What keeps the project readable: sizes, who may know what, and that what is promised in writing exists."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
import typer

from controller import __main__ as cli
from regional_keystone import model  # noqa: F401  declares the tables
from regional_keystone.record import TABLES

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for package in ("regional_keystone", "controller") for path in (ROOT / package).rglob("*.py"))
FILE_LINES, FUNCTION_LINES, MEDIAN_LINES, ENGINE_LINES = 500, 50, 9, 400
BOOKKEEPING = {
    "sites",
    "rings",
    "taken",
    "outcomes",
    "condemned",
    "proposals",
}  # of the federation itself; no resource of the API
ENGINE = ("serve", "verbs", "fields", "shapes")


def name(path):
    return str(path.relative_to(ROOT))


def functions(path):
    """(lines without the docstring, name) of every function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0
            yield node.end_lineno - node.lineno + 1 - docstring, f"{name(path)}:{node.name}"


def strings(tree):
    """Every string that is no docstring."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    prose = {
        id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and ast.get_docstring(node)
    }
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    }


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_a_file_can_be_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= FILE_LINES


def test_no_function_is_longer_than_a_screen():
    assert [one for path in SOURCES for one in functions(path) if one[0] > FUNCTION_LINES] == []


def test_functions_are_short_by_habit():
    assert median(size for path in SOURCES for size, _ in functions(path)) <= MEDIAN_LINES


def test_the_engine_is_small():
    lines = len((ROOT / "regional_keystone/api/serve.py").read_text().splitlines())
    assert lines <= ENGINE_LINES


@pytest.mark.parametrize("module", ENGINE)
def test_the_engine_names_no_resource(module):
    tree = ast.parse((ROOT / f"regional_keystone/api/{module}.py").read_text())
    resources = {table: facts for table, facts in TABLES.items() if table not in BOOKKEEPING}
    kinds = {facts.kind.__name__ for facts in resources.values()}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert kinds & (used | imported) == set()
    assert strings(tree) & (resources.keys() | {f"/{one}" for one in resources}) == set()


def test_only_proof_makes_a_principal():
    """A handler that meets a Principal meets one that was proven: nobody else can make one."""
    makers = {
        name(path)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "Principal"
    }
    assert makers <= {"regional_keystone/validate.py", "regional_keystone/issue.py"}
    assert makers


def test_everything_is_caught_only_where_it_is_rendered_or_supervised():
    catchers = {name(path) for path in SOURCES if re.search(r"except (BaseException|Exception)\b", path.read_text())}
    rendering = {"regional_keystone/web.py", "regional_keystone/api/serve.py"}
    rendering.add("regional_keystone/peer_feeds.py")  # what a stolen site writes ends no other one's process
    assert {one for one in catchers if not reraises(ROOT / one)} <= rendering


def reraises(path):
    """Whether every broad handler of a file ends in a raise: it tidied up, or put an operator's line before it."""
    handlers = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler) and getattr(node.type, "id", "") in {"Exception", "BaseException"}
    ]
    return all(isinstance(node.body[-1], ast.Raise) for node in handlers)


def test_whether_a_lock_is_ours_is_never_asked_of_its_client():
    """kazoo believes in a lock that is long gone: `ports.Hold` has a deadline of its own instead."""
    words = re.compile(r"\bis_acquired\b|kazoo\.recipe|\.Lock\(\S*path")
    assert [name(path) for path in SOURCES if words.search(path.read_text())] == []


def test_no_mocks():
    tests = [path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    assert [name(path) for path in tests if re.search(r"unittest\.mock|MagicMock|mocker\b", path.read_text())] == []


@pytest.mark.parametrize("page", ["README.md", "docs/operate.md", "docs/deploy.md", "CONTRIBUTING.md"])
def test_every_command_in_writing_exists(page):
    text = (ROOT / page).read_text()
    targets = set(re.findall(r"(?m)^([a-z]+):.*## ", (ROOT / "Makefile").read_text()))
    assert set(re.findall(r"(?:`|^|\n)make ([a-z]+)", text)) <= targets
    known = typer.main.get_command(cli.app).commands
    for words in re.findall(r"rkctl ([a-z_]+(?: [a-z]+)?)", text):
        first, _, second = words.partition(" ")
        assert first in known, words
        if hasattr(known[first], "commands") and second:
            assert second in known[first].commands, words


@pytest.mark.parametrize("page", ["README.md", "docs/operate.md", "docs/deploy.md"])
def test_every_option_in_writing_exists(page):
    for line in re.findall(r"rkctl ([a-z]+(?: [a-z]+)?[^`\n|]*--[^`\n|#]*)", (ROOT / page).read_text()):
        command = typer.main.get_command(cli.app)
        for word in line.split():
            if not hasattr(command, "commands"):
                break
            command = command.commands[word]
        told = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", line)) <= told, line


def test_the_import_contracts_hold():
    program = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
