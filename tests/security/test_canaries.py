"""No secret leaves its place: a federation is used, its keys are turned, and all that it has written is searched.

Where something may lie is the table `canaries.ALLOWED`. INV-18 of the reliability bar.
"""

import contextlib
import gc
import os
import re
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests import replay
from tests.api.conftest import Client
from tests.processes import PATIENCE_S, RKCTL, ended, free_port, processes
from tests.security import canaries
from tests.security.rows import WEAKER, row
from tests.security.scanner import Secret, forms, scan

COUNT = 2
HELM = Path(__file__).parents[2] / "helm"


class Searched(NamedTuple):
    """A federation that was used: what was found where it may not be, all paths, those in which the use can be seen, and
    which kinds of secrets there were.
    """

    home: object
    folder: Path
    found: list
    paths: list
    seen: list
    kinds: set

    def at(self, *places):
        """What was found below these folders, of the federation or of what was only said; something has to lie there."""
        roots = [root / place for root in (self.home.directory, self.folder) for place in places]
        assert any(canaries.size(path) for path in self.paths if any(path.is_relative_to(root) for root in roots))
        return [one for one in self.found if any(Path(one.path).is_relative_to(root) for root in roots)]

    def shows(self, pattern):
        """Whether the use can be seen in a path like this, so that a secret could have been as well."""
        return any(path.match(pattern) for path in self.seen)


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    """A federation in files, with workers, of a user who may do no more than any; and what is put before commands.

    Root without capabilities is such a one, and may read the Python that we run by.
    """
    who = [] if os.geteuid() else ["setpriv", "--inh-caps=-all", "--bounding-set=-all", "--"]
    with ended(tmp_path_factory.mktemp("ordinary") / "federation") as home:
        sets = (f"workers.processes={COUNT}", "token.provider=jws", "default.debug=true")
        sets += ("identity.password_hash_rounds=4",)
        command = [*who, RKCTL, "up", "--detach", "--state", home.directory, "--sites", "RegionOne"]
        command += ["--port", str(free_port()), *(word for one in sets for word in ("--set", one))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert done.returncode == 0, done.stderr
        yield home, who


ON_ENGINES = pytest.param("cassandra", marks=pytest.mark.engines("cassandra", "zookeeper", "memcached", "haproxy"))


@pytest.fixture(scope="module", params=["files", ON_ENGINES])
def searched(request, tmp_path_factory):
    """Once in files, once on all engines."""
    folder = tmp_path_factory.mktemp("said")
    if request.param == "files":
        home, _ = request.getfixturevalue("ordinary")
    else:
        home = request.getfixturevalue("_engine_federation").home
        request.getfixturevalue("_engine_federation").revive()
    use = canaries.Use(home)
    use.do()
    paths = canaries.written(use, folder)
    found = [one for one in scan(use.secrets, paths) if not canaries.may(one, home, folder)]
    seen = [path for path in paths if use.mark.encode() in path.read_bytes()]
    return Searched(home, folder, found, paths, seen, {one.kind for one in use.secrets})


@pytest.mark.federation
@row("SEC-97", "secrets in logs at DEBUG, metrics, pages, and in what objects that hold them say of themselves")
def test_sec_97_what_a_process_tells_holds_no_secret(searched):
    assert searched.at("logs", "pages") == []


@pytest.mark.federation
@row("SEC-98", "secrets on command lines, in environments and in what commands print; memory and cores of processes")
def test_sec_98_what_a_machine_shows_of_processes_holds_no_secret(searched):
    assert searched.at("processes", "said", "config") == []


@pytest.mark.federation
@row(
    "SEC-99",
    "secrets in answers: refusals that repeat what was sent, records that show more than at their making",
    WEAKER + ": a 404 repeats the token",
)
def test_sec_99_no_answer_repeats_a_secret(searched):
    assert searched.at("answers") == []
    assert searched.shows("answers/all")


@pytest.mark.federation
@row("SEC-100", "keys and secrets in files, Cassandra, ZooKeeper, memcached, others' directories")
def test_sec_100_nothing_that_is_kept_holds_a_secret(searched):
    assert searched.found == []
    if searched.home.engines.exists():
        kept = ["commitlog/CommitLog-*.log", "rows/users", "rows/log", "tables/*users*Data.db"]
        assert [one for one in kept if not searched.shows(one)] == []
        assert searched.at("memcached") == []
        assert [path for path in searched.paths if path.match("zookeeper*/data/version-2/log.*")]
    else:
        assert searched.shows("controller/log.db*")
        assert searched.shows("RegionOne/replica.db*")
    assert not [path for path in searched.paths if re.fullmatch(r"core(\.\d+)?", path.name)]


@pytest.mark.federation
def test_every_kind_of_secret_was_there_and_every_kind_of_place_was_searched(searched):
    """Or that nothing was found says less than it seems to."""
    on_engines = searched.home.engines.exists()
    assert searched.kinds == canaries.KINDS - (canaries.NOT_ON_ENGINES if on_engines else canaries.NOT_IN_FILES)
    assert canaries.unsearched(searched.home, searched.folder, searched.paths) == []
    assert searched.shows("copied/log.db*")


@pytest.mark.federation
def test_sockets_and_files_are_for_their_owner_alone(ordinary):
    home, _ = ordinary
    for path in (home.control, home.admin):
        assert path.is_socket()
    for path in (home.directory, *home.directory.rglob("*")):
        if "public" not in path.parts:  # keys for a Keystone beside the site, another user where that may come so far
            with contextlib.suppress(FileNotFoundError):  # a file that was written beside another and has replaced it
                assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.federation
def test_nobody_looks_into_a_process_that_holds_keys_and_it_leaves_no_core(ordinary):
    home, who = ordinary
    holders = processes(home)
    assert home.holder() in holders
    assert len(holders) == 3 + COUNT - 1  # the supervisor, the controller, the site and its workers
    for pid, words in holders.items():
        assert re.search(r"Max core file size +0 +0 ", Path(f"/proc/{pid}/limits").read_text()), words
        assert "Umask:\t0077" in Path(f"/proc/{pid}/status").read_text(), words
    read = "import sys\nfor name in sys.argv[1:]:\n try: print(open(name, 'rb').read(0))\n except OSError as e: print(e.errno)"
    with contextlib.ExitStack() as stack:
        command = [*who, "sh", "-c", "echo ready; exec sleep 1000"]
        other = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
        stack.callback(other.kill)
        assert other.stdout.readline() == b"ready\n", "before that it is still ours"
        names = [f"/proc/{pid}/{name}" for pid in holders for name in ("mem", "environ")]
        done = subprocess.run(
            [*who, sys.executable, "-c", read, *names, f"/proc/{other.pid}/mem"],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout.split() == ["13"] * len(names) + ["b''"]


async def test_no_object_that_lives_in_a_controller_shows_what_it_holds(tmp_path):
    """Every one of ours that the collector knows, asked for its name as a log or an exception would ask."""
    async with AsyncExitStack() as stack:
        world = replay.World(tmp_path)
        await world.start(stack)
        await Client(world).login("admin", replay.PASSWORD)
        rings = [one.ring for one in world.controller.part.follower.holders.values() if one.seen.epoch]
        assert rings
        held = [canaries.raw(key) for ring in rings for key in ring.numbers.values()]
        held += [canaries.private(path) for path in tmp_path.rglob("*.key")]
        wanted = [form for value in (*held, replay.PASSWORD.encode()) for _, form in forms(value)]
        wanted += [repr(value)[2:-1].encode() for value in held]
        ours = [
            one for one in gc.get_objects() if str(type(one).__module__).startswith(("regional_keystone", "controller"))
        ]
        assert len(ours) > 100
        for one in ours:
            with contextlib.suppress(AttributeError):  # not put together to its end
                shown = repr(one).encode()
                assert not any(form in shown for form in wanted), type(one)


def test_charts_are_told_names_of_secrets_and_make_none():
    values = [yaml.safe_load(path.read_text()) for path in sorted(HELM.glob("*/values.yaml"))]
    assert len(values) == 2
    assert {name for one in values for name in _secret_names(one)} == {
        "existingSecret",
        "imagePullSecrets",
        "joinTokens",
    }
    assert not [
        path for path in HELM.rglob("templates/*") if re.search(r"^kind: Secret$", path.read_text(), re.MULTILINE)
    ]


def _secret_names(value):
    """Every name of a value that could be one of a secret."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if re.search("secret|password|token|key", name, re.IGNORECASE):
                yield name
            yield from _secret_names(inner)


def test_the_table_names_what_there_is():
    assert len({(one.where, one.kind) for one in canaries.ALLOWED}) == len(canaries.ALLOWED)
    assert all(one.why for one in canaries.ALLOWED)
    assert "hunter2" not in repr(Secret("password", "ann", b"hunter2"))
