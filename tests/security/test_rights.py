"""Who else on a machine gets at what a process holds: its files, its sockets, its memory, its cores."""

import subprocess

import pytest

from tests.processes import PATIENCE_S, RKCTL
from tests.security.rows import row

COUNT = 2
OPENED = [  # whose, what others were let into, and how
    ("controller", "", 0o770),
    ("controller", "authority/signer.key", 0o440),
    ("site", "", 0o707),
    ("site", "identity/box.key", 0o620),
]


def serving(kind, state):
    """The exit code and the last words of a server over this state directory."""
    programs = {"controller": [RKCTL, "serve"], "site": [RKCTL.with_name("regional-keystone"), "serve"]}
    program, verb = programs[kind]
    sets = ["--set", f"site.state_dir={state}"]
    command = [program, *sets, verb] if kind == "site" else [program, verb, *sets]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    return done.returncode, done.stderr


@row("SEC-83", "keys, state, sockets and authority that others reach or own: no server starts on them")
@pytest.mark.parametrize(("kind", "name", "mode"), OPENED, ids=lambda one: oct(one) if isinstance(one, int) else one)
def test_sec_83_nothing_starts_on_what_others_can_reach(tmp_path, kind, name, mode):
    state = tmp_path / "state"
    for folder in ("", "authority", "identity", "fernet-keys"):
        (state / folder).mkdir(mode=0o700)
    path = state / name
    path.touch(mode=0o600) if "." in name else None
    path.chmod(mode)
    before = sorted(state.rglob("*"))
    code, said = serving(kind, state)
    assert code == 3, said
    assert f"{path}: others can reach what is in it; mend it: chmod {'600' if '.' in name else '700'} {path}" in said
    assert sorted(state.rglob("*")) == before
