"""`python -m tests.mutants`: is each deliberate break of a rule seen by a test? Exit code 1 if one is not.

A mutant is a patch, headed by lines `area:`, `breaks:` (the rule, in words) and `tests:` (what is to see it, as words
for pytest). Each is applied to a copy of the tree, where those tests are run until one fails.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COPIED = ("regional_keystone", "controller", "tests", "configs", "docs", "pyproject.toml", "Makefile")
TESTS = "tests/model"
LIMIT_S = 900.0


class Mutant(NamedTuple):
    """One patch and what its head says."""

    name: str
    path: Path
    area: str
    breaks: str
    tests: tuple[str, ...]


class Judged(NamedTuple):
    """What became of it. `caught_by` is a test's name, None for a mutant that lives."""

    mutant: Mutant
    caught_by: str | None
    seconds: float
    fault: str = ""


def mutants():
    """All of them, by name."""
    return [read(path) for path in sorted(HERE.glob("*.patch"))]


def read(path):
    """A patch and its head. Raises ValueError for a head that lacks something."""
    head = {}
    for line in path.read_text().splitlines():
        name, colon, value = line.partition(":")
        if line.startswith(("---", "diff ")) or not colon:
            break
        head[name] = value.strip()
    if missing := {"area", "breaks"} - head.keys():
        raise ValueError(f"{path.name}: its head lacks {', '.join(sorted(missing))}")
    return Mutant(path.stem, path, head["area"], head["breaks"], tuple(head.get("tests", TESTS).split()))


def applies(mutant, tree=ROOT):
    """What git says against applying it; empty when it applies."""
    done = subprocess.run(
        ["git", "apply", "--check", str(mutant.path)], cwd=tree, capture_output=True, text=True, check=False
    )
    return done.stderr.strip()


def copy(to):
    """The tree as it is, without what git ignores, in a repository of its own, so that git looks no further up."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in COPIED:
        source = ROOT / name
        shutil.copytree(source, to / name, ignore=ignored) if source.is_dir() else shutil.copy(source, to / name)
    subprocess.run(["git", "init", "-q", str(to)], check=True)


def tested(tree, words):
    """The first test that fails in that tree, None when none does; and what pytest said."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider", *words]
    try:
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return "a test that did not end", ""
    if done.returncode == 0:
        return None, done.stdout
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return (failed[1] if failed else f"pytest's exit code {done.returncode}"), done.stdout + done.stderr


def judge(mutant):
    """Break a copy of the tree by it and see whether that is noticed."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        tree = Path(directory)
        copy(tree)
        if fault := applies(mutant, tree):
            return Judged(mutant, None, time.monotonic() - began, f"does not apply: {fault}")
        subprocess.run(["git", "apply", str(mutant.path)], cwd=tree, check=True)
        caught, said = tested(tree, mutant.tests)
        fault = "" if caught is None or "::" in caught or "not end" in caught else said[-800:]
        return Judged(mutant, None if fault else caught, time.monotonic() - began, fault)


def main():
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("names", nargs="*", help="these only; by default all")
    parser.add_argument("--area", help="those of this area only")
    parser.add_argument("--processes", type=int, default=2)
    said = parser.parse_args()
    chosen = [one for one in mutants() if one.name in (said.names or [one.name]) and said.area in (None, one.area)]
    words = sorted({word for one in chosen for word in one.tests})
    failed, output = tested(ROOT, words)
    if failed is not None or not chosen:
        print(f"without any mutant, this fails already: {failed}\n{output[-2000:]}" if chosen else "no such mutant")
        return 2
    print(f"{'mutant':<34}{'seconds':>8}  caught by", flush=True)
    judged = []
    with ThreadPoolExecutor(said.processes) as pool:
        for one in pool.map(judge, chosen):
            judged.append(one)
            by = (one.caught_by or "NOBODY").rpartition("/")[2]
            print(f"{one.mutant.name:<34}{one.seconds:>8.1f}  {by}", flush=True)
    alive = [one for one in judged if one.caught_by is None]
    for one in alive:
        print(f"\n{one.mutant.name} lives: {one.mutant.breaks}\n{one.fault}")
    print(f"\n{len(judged)} mutants, {len(judged) - len(alive)} caught")
    return 1 if alive else 0


if __name__ == "__main__":
    raise SystemExit(main())
