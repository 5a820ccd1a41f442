"""Every option of Keystone 30 is one here too, or the page of divergences says why not."""

import re
from fnmatch import fnmatchcase
from pathlib import Path

from regional_keystone.settings import Settings, options

ROOT = Path(__file__).parents[2]
UPSTREAM = (ROOT / "tests/golden/upstream/settings.txt").read_text().split()
OURS = {f"{'DEFAULT' if section == 'default' else section}.{name}" for section, name in options(Settings)}
PAGE = (ROOT / "docs/divergences.md").read_text().partition("## Settings that are not there")[2].partition("\n## ")[0]
LEFT_OUT = [
    f"{section}.{name}"
    for section, name in re.findall(
        r"`\[(\S+)\] (\S+)`", "\n".join(line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `"))
    )
]


def test_every_option_of_upstream_is_there_or_left_out_with_a_reason():
    assert len(UPSTREAM) > 200
    assert [one for one in UPSTREAM if one not in OURS and not any(fnmatchcase(one, row) for row in LEFT_OUT)] == []


def test_what_is_said_to_be_left_out_is_upstreams_and_is_not_there():
    assert [row for row in LEFT_OUT if not any(fnmatchcase(one, row) for one in UPSTREAM)] == []
    assert [row for row in LEFT_OUT if row in OURS] == []
