"""What a client shows to be answered as new: it is waited for without work for each who waits, or in vain for none."""

import asyncio
import time

import pytest

from regional_keystone import positions
from regional_keystone.errors import Unavailable
from regional_keystone.log import Entry, put
from regional_keystone.model import Site, Taken
from regional_keystone.positions import Shown, Waiting
from tests.cloud import eventually, project
from tests.site.test_follow import Part
from tests.stand_ins import settle

FEED = "RegionTwo/inc"


class Counting:
    """A reader that counts."""

    def __init__(self, inner):
        self._inner, self.read = inner, 0

    def get(self, *arguments):
        self.read += 1
        return self._inner.get(*arguments)

    def scan(self, *arguments):
        self.read += 1
        return self._inner.scan(*arguments)


@pytest.fixture
async def part(tmp_path, monkeypatch):
    monkeypatch.setattr(positions, "WAIT_S", 30.0)  # of a clock that no test turns
    made = await Part().open(tmp_path)
    made.reader = Counting(made.follower.overlay)
    made.wait = Waiting(made.reader, made.follower, made.clock, lambda: ("RegionOne/inc", 3))
    yield made
    await made.close()


def know(part, *records):
    number = part.follower.position + 1
    part.follower.note([Entry(number, f"t{number}", 0, tuple(put(one) for one in records))])


async def test_nothing_is_read_for_each_who_waits_and_each_entry(part):
    know(part, Site(id="RegionTwo", state="active", instance="inc"))
    waiting = [asyncio.create_task(part.wait(Shown(0, 7, FEED), f"address {number % 3}")) for number in range(60)]
    await eventually(lambda: part.reader.read == 2)  # the sites, and what was taken over
    await settle(200)
    began = part.reader.read
    for number in range(50):
        know(part, project(f"p{number}"))
        await settle()
    assert part.reader.read == began <= 2
    know(part, Taken(feed=FEED, number=6))
    await settle(200)
    assert not any(task.done() for task in waiting)
    know(part, Taken(feed=FEED, number=7))
    await asyncio.gather(*waiting)
    assert part.reader.read <= began + 4
    part.follower.forgetters[-1]()  # a snapshot has replaced all
    await part.wait(Shown(0, 7, FEED), "")
    assert part.reader.read <= began + 6


@pytest.mark.parametrize("feed", ["nosuchfeed", "RegionFour/inc", "RegionThree/inc"])
async def test_a_feed_that_nobody_writes_is_not_waited_for(part, feed):
    know(
        part,
        Site(id="RegionTwo", state="active", instance="inc"),
        Site(id="RegionThree", state="removed", instance="inc"),
    )
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await part.wait(Shown(0, 1, feed), "")
    assert time.monotonic() - began < positions.WAIT_S / 2
    know(part, Taken(feed=feed, number=1))
    await part.wait(Shown(0, 1, feed), "")


async def test_the_own_feed_is_known_without_a_look(part):
    await part.wait(Shown(0, 3, "RegionOne/inc"), "")
    assert part.reader.read == 0
