"""What a store in a file promises besides: about the file, its rights, its disk and its versions."""

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest

from regional_keystone.adapters import sqlite_schema
from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.digest import digest
from regional_keystone.errors import StoreRefused, Unavailable
from regional_keystone.log import LOG, Entry, put
from regional_keystone.model import Grant, Project, Region
from regional_keystone.record import TABLES


def entry(number, *records):
    return Entry(number, f"t{number}", 0, tuple(put(record) for record in records))


async def filled(path, count=300):
    store = await Sqlite.open(path)
    await store.apply([entry(1, *(Region(id=f"r{one:04}", description="x" * 200) for one in range(count)))])
    await store.close()


async def summary(path, tables=TABLES):
    store = await Sqlite.open(path, tables)
    async with store.snapshot() as snapshot:
        found = await digest(snapshot)
    await store.close()
    return found


async def test_file_and_directory_are_the_owners_alone(tmp_path):
    previous = os.umask(0)
    try:
        store = await Sqlite.open(tmp_path / "state" / "store.db")
    finally:
        os.umask(previous)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()}
    assert modes == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    await store.close()
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["store.db"]


@pytest.mark.parametrize("way", ["limit", "tmpfs"])
def test_a_full_disk_is_unavailable_and_nothing_is_half_written(tmp_path, way):
    """Without the right to mount, the second way is a limit on the size of files as well."""
    command = [sys.executable, "-m", "tests.contracts.full_disk", str(tmp_path / "store.db"), way]
    mount = f"mount -t tmpfs -o size=6m tmpfs {tmp_path}"
    if (
        way == "tmpfs"
        and subprocess.run(["unshare", "-m", "sh", "-c", mount], check=False, capture_output=True).returncode
    ):
        command[-1] = "limit"
    elif way == "tmpfs":
        command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", *command]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("well"), done.stderr
    assert not done.returncode


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"not a database at all, but long enough to look at" * 100,
        lambda data: data[: len(data) // 2],
        lambda data: data[:8192] + os.urandom(len(data) - 8192),
        lambda data: data[:100] + os.urandom(3000) + data[3100:],
    ],
    ids=["foreign", "cut", "pages", "head"],
)
async def test_a_damaged_file_is_refused_and_named(tmp_path, damage):
    path = tmp_path / "store.db"
    await filled(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreRefused, match=rf"{path} .*Move the file away"):
        await Sqlite.open(path)


async def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "store.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE mine (x)")
    db.close()
    with pytest.raises(StoreRefused, match="of something else"):
        await Sqlite.open(path)


async def test_a_file_of_a_newer_version_is_refused_and_untouched(tmp_path, monkeypatch):
    path = tmp_path / "store.db"
    monkeypatch.setattr(sqlite_schema, "SCHEMA", sqlite_schema.SCHEMA + 1)
    await filled(path)
    monkeypatch.undo()
    before = path.read_bytes()
    with pytest.raises(StoreRefused, match=rf"{path} was written by a newer version .*Start that version"):
        await Sqlite.open(path)
    assert path.read_bytes() == before


AS_ANOTHER = """
import asyncio, os, sys
from regional_keystone import model
from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.errors import StoreRefused
if os.geteuid() == 0:
    os.setuid(65534)
try:
    asyncio.run(Sqlite.open(sys.argv[1]))
except StoreRefused as refused:
    print(refused)
"""


def test_a_directory_without_rights_is_refused_and_named():
    folder = Path(tempfile.mkdtemp())
    try:
        (folder / "closed.db").touch(0o400)
        for path, mode, words in [
            (folder / "new.db", 0o555, f"The directory {folder} of new.db"),
            (folder / "under" / "new.db", 0o555, f"The directory {folder / 'under'} for new.db cannot be made"),
            (folder / "closed.db", 0o777, f"{folder / 'closed.db'} cannot be opened for writing"),
        ]:
            if words.endswith("writing") and os.geteuid():
                continue  # its owner may change the mode, and does
            folder.chmod(mode)
            done = subprocess.run([sys.executable, "-c", AS_ANOTHER, path], check=False, capture_output=True, text=True)
            assert done.stdout.startswith(words), (done.stdout, done.stderr)
            assert "mode 0" in done.stdout
    finally:
        folder.chmod(0o700)
        shutil.rmtree(folder)


async def test_new_tables_fields_and_indexes_come_with_a_newer_program(tmp_path):
    path = tmp_path / "store.db"
    project, grant = Project(id="p", name="x", parent_id="q"), Grant(
        actor_id="u", actor="user", target="project", target_id="p", role_id="r", inherited=True
    )  # fmt: skip
    older = dict(TABLES)
    older["projects"] = TABLES["projects"]._replace(by=(), unique=())
    del older["grants"]
    store = await Sqlite.open(path, older)
    await store.apply([entry(1, project, grant)])
    await store.close()
    before = await summary(path, older)
    store = await Sqlite.open(path)
    assert await store.find(Project, parent_id="q") == [project]
    assert await store.find(Project, domain_id=None, name="x") == [project]
    assert await store.find(Grant, role_id="r") == [grant]
    await store.close()
    assert await summary(path) == before
    assert await summary(path, older) == before  # and back again
    assert await summary(path) == before


async def test_every_find_has_an_index(tmp_path):
    await (await Sqlite.open(tmp_path / "store.db")).close()
    db = sqlite3.connect(tmp_path / "store.db")
    try:
        for statements in (sqlite_schema.Statements(table) for table in TABLES.values()):
            for group, statement in statements.finds.items():
                plan = " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", ["x"] * len(group)))
                assert "SEARCH" in plan, (statement, plan)
                assert "SCAN" not in plan
    finally:
        db.close()


async def test_a_locked_file_is_unavailable_and_the_loop_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_schema, "_BUSY_S", 0.5)
    path = tmp_path / "store.db"
    store = await Sqlite.open(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writing = asyncio.create_task(store.append(LOG, 0, [entry(1, Region(id="r"))]))
    longest, last = 0.0, time.monotonic()
    while not writing.done():
        await asyncio.sleep(0.01)
        assert await store.get(Region, "r") is None
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    with pytest.raises(Unavailable):
        await writing
    assert longest < 0.4
    other.execute("ROLLBACK")
    other.close()
    assert await store.append(LOG, 0, [entry(1, Region(id="r"))])
    await store.close()


async def test_whoever_gives_up_while_rows_are_read_leaves_nothing_behind(tmp_path):
    path = tmp_path / "store.db"
    await filled(path, 3000)
    store = await Sqlite.open(path)

    async def read():
        async with store.snapshot() as snapshot:
            return [row async for row in snapshot.rows()]

    for steps in range(0, 40, 3):
        task = asyncio.create_task(read())
        for _ in range(steps):
            await asyncio.sleep(0.0003)
        task.cancel()
        await asyncio.wait([task])
    assert len(await read()) == 3000
    await store.close()
    assert [one.name for one in tmp_path.iterdir()] == ["store.db"]


@pytest.mark.parametrize("follows", [False, True])
async def test_a_page_of_what_may_be_long_is_read_without_sorting(tmp_path, follows):
    store = await Sqlite.open(tmp_path / "x.db")
    await store.close()
    with closing(sqlite3.connect(tmp_path / "x.db")) as db:
        for name, table in TABLES.items():
            for group in [(), *((one,) for one in table.wide)]:
                statement = sqlite_schema.Statements(table).page(group, follows=follows)
                plan = " ".join(
                    row[-1] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", ["x"] * statement.count("?"))
                )
                assert "TEMP B-TREE" not in plan, (name, group, plan)
