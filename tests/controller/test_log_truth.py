"""What the log says of records, as far back as it reaches."""

import pytest

from controller.log_truth import LogTruth
from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.drift import Said
from regional_keystone.log import LOG, Entry, put, remove
from regional_keystone.model import Region
from regional_keystone.record import encode

A, B = ("regions", ("a",)), ("regions", ("b",))


def region(name, text=""):
    return Region(id=name, description=text)


@pytest.fixture
async def store(tmp_path):
    opened = await Sqlite.open(tmp_path / "log.db")
    changes = [put(region("a")), put(region("b")), put(region("a", "new"))]
    changes += [put(region(f"r{number}")) for number in range(1200)]
    changes.append(remove(region("b")))
    entries = [Entry(number, f"t{number}", number, (change,)) for number, change in enumerate(changes, 1)]
    assert await opened.append(LOG, 0, entries)
    await opened.apply(entries)
    yield opened
    await opened.close()


async def test_the_last_entry_that_touched_a_record_tells_what_it_is(store):
    log = LogTruth(store)
    head = await store.head(LOG)
    found, whole = await log.newest([A, B], head, 1 << 60)
    assert found == {A: Said(3, encode(region("a", "new"))), B: Said(head, None)}
    assert not whole  # it was not read to the end
    assert await log.newest([B], head - 1, 1 << 60) == ({B: Said(2, encode(region("b")))}, False)
    assert await log.newest([("regions", ("never",))], head, 1 << 60) == ({}, True)
    assert await log.newest([A], head, 100) == ({}, False)  # no more than it was allowed to read
    assert await log.at(A, 1) == Said(1, encode(region("a")))
    assert await log.at(B, 1) is None


async def test_a_log_that_has_forgotten_its_beginning_does_not_say_that_something_never_was(store):
    log = LogTruth(store)
    head = await store.head(LOG)
    await store.prune(LOG, 777)
    assert await log.newest([A, B], head, 1 << 60) == ({B: Said(head, None)}, False)
    assert await log.at(A, 3) is None
    assert len(await log.touched(0, head, 1 << 60, lambda table, key: True)) == head - 777
    assert await log.touched(head - 2, head, 10, lambda table, key: key == ("b",)) == {B: Said(head, None)}
