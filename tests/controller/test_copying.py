"""Copying a store: nothing is lost, a second run goes on, and what is no copy is refused."""

import asyncio
import base64
import io
import json
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from rich.console import Console

from controller.authority import HOLDER
from controller.copying import Differ, copy
from controller.display import Display
from regional_keystone import bundle
from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.digest import digest
from regional_keystone.errors import StoreRefused
from regional_keystone.keys import KeyRing
from regional_keystone.log import LOG, Entry, put, remove
from regional_keystone.model import Region, Ring


def entry(number, *changes, by="t"):
    return Entry(number, f"{by}{number}", number, changes or (put(Region(id=f"r{number:04}")),))


async def write(store, count, by="t"):
    head = await store.head(LOG)
    entries = [entry(number, by=by) for number in range(head + 1, head + count + 1)]
    assert await store.append(LOG, head, entries)
    await store.apply(entries)


def ring(cluster, holder=HOLDER):
    """The record of a ring that is sealed for one holder of this federation."""
    keys = KeyRing({number: base64.urlsafe_b64encode(bytes([number]) * 32) for number in (0, 1)}, 1)
    about = bundle.header(cluster, holder, "token", keys, 1, "")
    box = X25519PrivateKey.generate().public_key().public_bytes_raw()
    sealed = {holder: bundle.seal(keys, about, box, Ed25519PrivateKey.generate())}
    return Ring(id="token", epoch=1, fingerprint="", checks={}, sealed=sealed, turned_at=1)


async def keys(store, cluster):
    """The first keys of a federation, as the next entry."""
    head = await store.head(LOG)
    made = entry(head + 1, put(ring(cluster)))
    assert await store.append(LOG, head, [made])
    await store.apply([made])


async def whole(store):
    async with store.snapshot() as snapshot:
        return await digest(snapshot)


async def regions(store):
    return [row.id async for row in store.scan(Region)]


@pytest.fixture
async def stores(tmp_path):
    opened = [await Sqlite.open(tmp_path / name) for name in ("a.db", "b.db")]
    yield opened
    for store in opened:
        await store.close()


def nothing(job, done, total):
    assert job
    assert total is None or 0 < done <= total


async def test_there_and_on_and_back(stores, tmp_path):
    source, target = stores
    await keys(source, "f")
    await write(source, 1202)
    head = await source.head(LOG)
    gone = entry(head + 1, remove(Region(id="r0007")))
    assert await source.append(LOG, head, [gone])
    await source.apply([gone])
    await source.prune(LOG, 1000)
    first = await copy(source, target, nothing)
    assert (first.position, first.rows, first.entries) == (1204, 1202, 0)
    assert await regions(target) == await regions(source)
    await write(source, 250)
    second = await copy(source, target, nothing)
    assert (second.position, second.rows, second.entries) == (1454, 0, 250)
    assert [one.id for one in await target.tail(LOG, 1204)] == [one.id for one in await source.tail(LOG, 1204)]
    assert (await copy(source, target, nothing)).entries == 0
    await write(target, 3)
    back = await copy(target, source, nothing)
    assert (back.position, back.rows, back.entries) == (1457, 0, 3)


async def test_a_target_that_lags_behind_the_log_of_the_source_gets_a_snapshot(stores):
    source, target = stores
    await keys(source, "f")
    await write(source, 5)
    await copy(source, target, nothing)
    await write(source, 5)
    await source.prune(LOG, 8)
    assert (await copy(source, target, nothing)).rows == 11


async def test_how_far_it_is_has_a_total(stores):
    source, target = stores
    told = []
    await keys(source, "f")
    await write(source, 1202)
    await copy(source, target, lambda *said: told.append(said))
    assert [said for said in told if said[0] == "rows"] == [("rows", n, 1203) for n in (500, 1000, 1203)]
    await write(source, 250)
    await copy(source, target, lambda *said: told.append(said))
    assert [said for said in told if said[0] == "entries"] == [("entries", n, 250) for n in (100, 200, 250)]


async def test_entries_that_a_crash_left_unapplied_are_finished(stores):
    source, target = stores
    await write(source, 5)
    await copy(source, target, nothing)
    await write(source, 2)
    assert await target.append(LOG, 5, await source.tail(LOG, 5))
    assert (await copy(source, target, nothing)).position == 7
    assert await regions(target) == await regions(source)


async def test_what_is_no_copy_is_refused_and_stays(stores):
    source, target = stores
    await write(source, 3)
    await write(target, 3, by="other")
    before = await regions(target)
    with pytest.raises(StoreRefused, match="two federations"):
        await copy(source, target, nothing)
    await write(target, 1, by="other")
    with pytest.raises(StoreRefused, match="beyond the source"):
        await copy(source, target, nothing)
    assert (await regions(target))[:3] == before


@pytest.mark.parametrize("forgets", ["source", "target", "both", "none"])
async def test_another_federation_is_refused_before_anything_is_written(stores, forgets):
    source, target = stores
    await keys(source, "mine")
    await write(source, 9)
    await keys(target, "theirs")
    await write(target, 3, by="other")
    if forgets in {"source", "both"}:
        await source.prune(LOG, 8)
    if forgets in {"target", "both"}:
        await target.prune(LOG, 4)
    before, log = await whole(target), await target.tail(LOG, 0)
    with pytest.raises(StoreRefused, match="another federation: theirs, and the source of mine"):
        await copy(source, target, nothing)
    assert (await whole(target), await target.head(LOG), await target.tail(LOG, 0)) == (before, 4, log)


@pytest.mark.parametrize("keyless", ["source", "target", "both"])
@pytest.mark.parametrize("forgets", ["source", "target"])
async def test_what_cannot_be_compared_is_refused_before_anything_is_written(stores, keyless, forgets):
    for store, name in zip(stores, ("source", "target"), strict=True):
        await (write(store, 1, by=name) if keyless in {name, "both"} else keys(store, "f"))
    source, target = stores
    await write(source, 5)
    await write(target, 2)
    await stores[forgets == "target"].prune(LOG, 6)
    before = await whole(target)
    with pytest.raises(StoreRefused, match="nothing tells whether"):
        await copy(source, target, nothing)
    assert (await whole(target), await target.head(LOG)) == (before, 3)


async def test_entries_of_others_that_are_not_applied_are_refused(stores):
    source, target = stores
    await write(source, 5)
    await copy(source, target, nothing)
    await write(source, 2)
    assert await target.append(LOG, 5, [entry(6, put(Region(id="theirs")), by="other")])
    with pytest.raises(StoreRefused, match="different entries at position 6"):
        await copy(source, target, nothing)
    assert "theirs" not in await regions(target)


async def test_a_difference_is_found(stores):
    source, target = stores
    await write(source, 3)
    await copy(source, target, nothing)
    await write(source, 1)
    assert await target.append(LOG, 3, [entry(4, put(Region(id="forged")), by="t")])
    await target.apply([entry(4, put(Region(id="forged")), by="t")])
    with pytest.raises(Differ, match="the stores differ"):
        await copy(source, target, nothing)


class Killed(BaseException):
    """What ends a process in the middle of its work."""


def breaks_after(count):
    """A driver whose process ends after so many batches of writes."""

    class Breaks:
        def __init__(self, driver):
            self._driver, self._left = driver, count

        def __getattr__(self, name):
            return getattr(self._driver, name)

        async def change(self, *arguments, **named):
            self._left -= 1
            if self._left < 0:
                raise Killed
            return await self._driver.change(*arguments, **named)

    return Breaks


async def test_to_cassandra_broken_off_and_on_and_back(stores, empty):
    source, back = stores
    await keys(source, "f")
    await write(source, 1200)
    await source.prune(LOG, 1150)
    with pytest.raises(Killed):
        async with empty.store(wrap=breaks_after(3)) as target:
            await copy(source, target, nothing)
    with pytest.raises(StoreRefused, match="Run `rkctl store copy` again"):
        async with empty.store():
            pass
    await write(source, 20)
    async with empty.store(repeat=True) as target:
        done = await copy(source, target, nothing)
        assert (done.position, done.rows, done.entries) == (1221, 1221, 0)
        assert await whole(target) == await whole(source)
        await write(source, 30)
        later = await copy(source, target, nothing)
        assert (later.position, later.rows, later.entries) == (1251, 0, 30)
    async with empty.store() as target:
        assert [one.id for one in await target.tail(LOG, 1221)] == [one.id for one in await source.tail(LOG, 1221)]
        home = await copy(target, back, nothing)
        assert (home.position, home.rows, home.digest) == (1251, 1251, later.digest)
        assert await whole(back) == await whole(source)
        await keys(back, "another")
        with pytest.raises(StoreRefused, match="another federation"):
            await copy(back, target, nothing)


def test_a_terminal_gets_a_bar_with_a_total_that_goes_when_it_is_done():
    written = io.StringIO()
    with Display(Console(file=written, force_terminal=True, width=100, _environ={"TERM": "xterm"})) as display:
        display.advance("rows", 500, 1203)
        display.advance("entries", 3, 7)
        display.advance("comparing", 0, None)
    assert "500/1203" in written.getvalue()
    assert "3/7" in written.getvalue()
    assert written.getvalue().endswith("\x1b[?25h\r\x1b[1A\x1b[2K")


def rkctl(*words):
    program = [sys.executable, "-m", "controller", "store", "copy", *map(str, words)]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)


def files(tmp_path, **counts):
    """Stores in folders of these names, closed, with keys of federation f and so many regions."""

    async def make(path, count):
        store = await Sqlite.open(path)
        await keys(store, "f")
        await write(store, count)
        await store.close()

    for name, count in counts.items():
        (tmp_path / name).mkdir(mode=0o700)
        asyncio.run(make(tmp_path / name / "kept.db", count))
    return [tmp_path / name / "kept.db" for name in counts]


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_the_command_copies_exactly_the_named_files(tmp_path):
    (source,) = files(tmp_path, a=600)
    done = rkctl("--from", source, "--to", tmp_path / "b" / "new.db", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["position"], told["rows"], told["entries"]) == (601, 601, 0)
    assert "rows: 500 of 601" in done.stderr
    assert "log.db" not in names(source.parent) | names(tmp_path / "b")
    (tmp_path / "b" / "new.db").rename(tmp_path / "b" / "log.db")
    again = rkctl("--from", tmp_path / "b", "--to", source)
    assert (again.returncode, again.stdout) == (
        0,
        f"0 rows and 0 entries copied; both stand at 601, digest {told['digest']}\n",
    )


def test_the_command_refuses_a_source_that_is_not_there_before_anything_is_made(tmp_path):
    (tmp_path / "a").mkdir(mode=0o700)
    config = tmp_path / "c.conf"
    config.write_text(f"[site]\nstate_dir = {tmp_path / 'c'}\n")
    for missing in (tmp_path / "a" / "other.db", tmp_path / "a", config):
        done = rkctl("--from", missing, "--to", tmp_path / "b" / "new.db")
        assert (done.returncode, done.stdout) == (3, "")
        assert "does not exist" in done.stderr
    assert names(tmp_path) == {"a", "c.conf"}
    assert not names(tmp_path / "a")


def test_the_command_tells_a_refusal_from_a_difference(tmp_path):
    (source,), target = files(tmp_path, a=5), tmp_path / "b.db"
    assert rkctl("--from", source, "--to", target).returncode == 0
    same = rkctl("--from", source, "--to", source)
    assert (same.returncode, "both the source and the target" in same.stderr) == (3, True)

    async def forge():
        store = await Sqlite.open(target)
        made = entry(7, put(Region(id="forged")))
        assert await store.append(LOG, 6, [made])
        await store.apply([made])
        await store.close()
        store = await Sqlite.open(source)
        await write(store, 1)
        await store.close()

    asyncio.run(forge())
    differs = rkctl("--from", source, "--to", target, "--json")
    assert (differs.returncode, differs.stdout) == (1, "")
    assert "the stores differ" in differs.stderr

    async def others():
        store = await Sqlite.open(target)
        await keys(store, "another")
        await store.close()

    asyncio.run(others())
    refused = rkctl("--from", source, "--to", target, "--json")
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "another federation" in refused.stderr


def test_the_command_copies_into_a_configured_cluster(tmp_path, section_text):
    (source,) = files(tmp_path, a=5)
    config = tmp_path / "controller.conf"
    config.write_text(f"[site]\nstate_dir = {tmp_path / 'c'}\n{section_text}")
    there = rkctl("--from", source, "--to", config, "--json")
    assert there.returncode == 0, there.stderr
    back = rkctl("--from", config, "--to", tmp_path / "b.db", "--json")
    assert back.returncode == 0, back.stderr
    told, again = json.loads(there.stdout), json.loads(back.stdout)
    assert told == {"position": 6, "rows": 6, "entries": 0, "digest": again["digest"]}
    assert again["position"] == 6
