"""The pages are true as far as a machine can tell: derived ones are fresh, links and references lead somewhere."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from docs.generate import PAGES
from tests.golden.derived import DERIVED

ROOT = Path(__file__).parents[2]
WRITTEN = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SOURCE = sorted([*ROOT.glob("regional_keystone/**/*.py"), *ROOT.glob("controller/**/*.py")])
FRESH = {**PAGES, **DERIVED}

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
MERGE = re.compile(rb"^(?:[<>|]{7} |={7}$)", re.MULTILINE)
NAMED = re.compile(r'(docs/[\w./-]*\.(?:md|py))(?:, "([^"]+)")?')


def ids(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def headings(page):
    return HEADING.findall(FENCED.sub("", page.read_text()))


def anchor(heading):
    """What a heading is called in a link, as the usual renderers have it."""
    kept = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower())
    return kept.replace(" ", "-")


def dead_ends(page):
    """The links of a page that lead to no file, or to no heading in it."""
    found = []
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, place = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (place and place not in map(anchor, headings(target))):
            found.append(link)
    return found


def unknown_places(text):
    """The pages and headings that a text names and that are not there."""
    found = []
    for name, heading in NAMED.findall(text):
        page = ROOT / name
        if not page.exists() or (heading and heading not in headings(page)):
            found.append(f"{name}, {heading}" if heading else name)
    return found


def joined(source):
    """Source text in which a reference that is broken over lines is in one piece."""
    return re.sub(r"\s*\n\s*(?:# )?", " ", source)


@pytest.mark.parametrize("name", sorted(FRESH))
def test_a_derived_page_says_what_the_source_says(name):
    path = ROOT / name
    assert path.exists(), f"{name} is missing: make golden, python docs/generate.py"
    assert path.read_text() == FRESH[name](), f"{name} is stale: make golden, python docs/generate.py; read the diff"


@pytest.mark.parametrize("page", WRITTEN, ids=ids(WRITTEN))
def test_every_link_leads_to_a_page_and_a_heading(page):
    assert dead_ends(page) == []


@pytest.mark.parametrize("page", WRITTEN, ids=ids(WRITTEN))
def test_a_page_names_only_pages_that_are_there(page):
    assert unknown_places(FENCED.sub("", page.read_text())) == []


@pytest.mark.parametrize("source", SOURCE, ids=ids(SOURCE))
def test_source_names_only_pages_and_headings_that_are_there(source):
    text = source.read_text()
    assert unknown_places(text) + unknown_places(joined(text)) == []


def test_every_page_can_be_reached_from_the_first():
    seen, waiting = set(), [ROOT / "docs" / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        links = [link.partition("#")[0] for link in LINK.findall(FENCED.sub("", page.read_text()))]
        waiting += [(page.parent / link).resolve() for link in links if link and not re.match(r"[a-z]+:", link)]
    assert set(ids(ROOT.glob("docs/**/*.md"))) <= set(ids(seen))


def test_every_decision_is_in_the_index_under_its_own_title():
    index = (ROOT / "docs" / "adr" / "README.md").read_text()
    listed = [
        (name, title) for _, name, title in re.findall(r"^\| \[(\d+)\]\(([^)]+)\) \| (.+) \|$", index, re.MULTILINE)
    ]
    written = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    titles = [(page.name, headings(page)[0].partition(". ")[2]) for page in written]
    assert listed == titles
    assert [int(page.name[:4]) for page in written] == list(range(1, len(written) + 1))


def test_every_dependency_has_its_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = {re.split(r"[\[<>=!~; ]", one)[0] for group in groups for one in group} - {project["name"]}
    page = (ROOT / "docs" / "dependencies.md").read_text()
    assert set(re.findall(r"^- \*\*([\w.-]+)\*\*", page, re.MULTILINE)) == wanted


def test_no_file_has_marks_of_a_merge():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False).stdout
    files = [
        ROOT / os.fsdecode(name) for name in listed.split(b"\0") if name
    ] or WRITTEN + SOURCE  # of an archive, these
    marked = [str(file) for file in files if file.is_file() and MERGE.search(file.read_bytes())]
    assert marked == []


def test_marks_of_a_merge_would_be_found():
    assert all(MERGE.search(b"x\n" + sign * 7 + b" HEAD\ny\n") for sign in (b"<", b">", b"|"))
    assert MERGE.search(b"x\n" + b"=" * 7 + b"\ny\n")
    assert not MERGE.search(b"Title\n" + b"=" * 8 + b"\n")


def test_a_wrong_reference_would_be_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A `page`, of mine\n[a](nowhere.md) [b](#a-page-of-mine) [c](#other)\n```\n[d](fenced.md)\n```\n")
    assert dead_ends(page) == ["nowhere.md", "#other"]
    assert unknown_places(joined('Source: docs/feeds.md,\n    "No such heading".')) == [
        "docs/feeds.md, No such heading"
    ]
    assert unknown_places('docs/gone.md and docs/feeds.md, "The stream"') == ["docs/gone.md"]
