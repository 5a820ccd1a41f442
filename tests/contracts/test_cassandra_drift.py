"""Rows in Cassandra that no entry of the log made: found, named, and as the log has them again."""

import asyncio
import json
from contextlib import asynccontextmanager
from secrets import token_hex

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from typer.testing import CliRunner

from controller.__main__ import app as command_line
from controller.admin_repair import routes
from controller.commit import Sequencer
from controller.repair import Repair
from regional_keystone.adapters.cassandra_schema import packed
from regional_keystone.adapters.local import LocalLock, LocalWake, SystemClock
from regional_keystone.data_centre import DataCentre
from regional_keystone.follow import Follower
from regional_keystone.holder import Holder
from regional_keystone.log import LOG, put, remove
from regional_keystone.model import Region, RevocationEvent, User
from regional_keystone.operator_listener import listen, rendered
from regional_keystone.overlay import Overlay, transact
from regional_keystone.record import encode
from regional_keystone.refresh import Refresh
from regional_keystone.sections import Convergence
from tests.contracts.cassandra_stores import SITE


class Hurried(SystemClock):
    """One controller alone need not wait until others know."""

    async def sleep(self, seconds):
        await super().sleep(min(seconds, 0.05))


class Controller:
    """What of a controller writes to the store and repairs it."""

    def __init__(self, store, overlay, follower, sequencer):
        self.store, self.overlay, self._follower, self.sequencer = store, overlay, follower, sequencer
        self.repair = self.repairing()

    def repairing(self, drifting=None, **section):
        return Repair(
            drifting=drifting or self.store.drift,
            store=self.store,
            overlay=self.overlay,
            sequencer=self.sequencer,
            follower=self._follower,
            lock=LocalLock(),
            clock=Hurried(),
            section=Convergence(**section),
        )

    async def commit(self, *changes):
        async def decide(reader):
            return changes, None

        _, position = await transact(self.overlay, self.sequencer, token_hex(8), decide)
        assert await self._follower.settled(position, 10.0)
        return position


@asynccontextmanager
async def controller(keyspace, folder, data_centre="dc1"):
    async with keyspace.store(data_centre) as store:
        overlay, clock = Overlay(store), SystemClock()
        holder = Holder("@controller", "c", X25519PrivateKey.generate(), [], folder / data_centre)
        follower = Follower(store=store, overlay=overlay, holder=holder, clock=clock, lifetime_s=60.0, leads=True)
        sequencer = Sequencer(store=store, follower=follower, clock=clock, wake=LocalWake())
        await sequencer.start()
        tasks = [asyncio.create_task(follower.run()), asyncio.create_task(sequencer.run())]
        yield Controller(store, overlay, follower, sequencer)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def user(number, **fields):
    fields = {"name": f"u{number}", "domain_id": "d"} | fields
    return User(id=f"{number:03x}u", **fields)


def region(name, **fields):
    return Region(id=name, **fields)


def revocation(number):
    return RevocationEvent(id=f"{number:03x}r", issued_before=1, revoked_at=1, keep_until=1 << 60, user_id="u")


@asynccontextmanager
async def commands(repair, folder):
    """`rkctl db repair`, answered by this."""
    app = web.Application(middlewares=[rendered])
    app.add_routes(routes(repair))
    (folder / "controller.conf").write_text(f"[site]\nstate_dir = {folder}\n")
    runner = await listen(app, folder / "admin.sock")

    async def rkctl(*arguments):
        words = ["db", "repair", "--json", "--config", str(folder / "controller.conf"), *arguments]
        done = await asyncio.to_thread(CliRunner().invoke, command_line, words)
        return done.exit_code, json.loads(done.stdout.splitlines()[-1])["found"]  # below what is logged

    yield rkctl
    await runner.cleanup()


class Hand:
    """Somebody with a shell of the database: no timestamps of ours."""

    def __init__(self, driver):
        self._driver = driver

    async def __call__(self, cql, *values):
        await self._driver.run(cql, values, consistency="ALL")

    async def changes(self, number, **fields):
        row = encode(user(number, **fields))
        await self("UPDATE users SET row = ? WHERE bucket = ? AND id = ?", row, f"{number:03x}", f"{number:03x}u")

    async def adds(self, number, at=1):
        row, bucket = encode(user(number)), f"{number:03x}"
        await self("INSERT INTO users (bucket, id, at, row) VALUES (?, ?, ?, ?)", bucket, bucket + "u", at, row)

    async def removes(self, number, table="users", letter="u"):
        await self(f"DELETE FROM {table} WHERE bucket = ? AND id = ?", f"{number:03x}", f"{number:03x}{letter}")

    async def removes_copy(self, number):
        await self("DELETE FROM users__name WHERE g = ? AND id = ?", packed([f"u{number}"]), f"{number:03x}u")

    async def adds_copy(self, number, name):
        values = (packed([name]), f"{number:03x}u", 1, encode(user(number, name=name)))
        await self("INSERT INTO users__name (g, id, at, row) VALUES (?, ?, ?, ?)", *values)


@asynccontextmanager
async def hand(keyspace):
    async with keyspace.driver("dc3") as driver:
        yield Hand(driver)


def told(repair):
    return sorted((one.table, one.key, one.how, one.mended) for one in repair.last)


async def users(reader):
    return [one async for one in reader.scan(User)]


async def test_what_a_hand_does_is_found_named_and_as_the_log_has_it_again(keyspace, tmp_path):
    await keyspace.empty_all()
    everybody = [user(number) for number in range(8)]
    async with controller(keyspace, tmp_path) as one, hand(keyspace) as by_hand:
        await one.commit(*map(put, everybody), put(region("a", description="right")))
        assert await one.repair.once()
        await by_hand.changes(1, name="somebody else")
        await by_hand.removes(2)
        await by_hand.adds(9)
        await by_hand("INSERT INTO users (bucket, id, at, row) VALUES ('zzz', '00au', 1, ?)", encode(user(10)))
        await by_hand.removes_copy(3)
        await by_hand.adds_copy(4, "stray")
        await by_hand("UPDATE regions SET row = ? WHERE bucket = 'all' AND id = 'a'", encode(region("a")))
        assert not await one.repair.once()
        assert told(one.repair) == [
            ("regions", "a", "changed", True),
            ("users", "001u", "changed", True),
            ("users", "002u", "lost", True),
            ("users", "003u", "lost", True),
            ("users", "004u", "added", True),
            ("users", "009u", "added", True),
            ("users", "00au", "added", True),
        ]
        async with keyspace.replica("dc2") as site:  # in another data centre, and by every way of asking
            assert await users(site) == everybody
            for person in everybody:
                assert await site.find(User, name=person.name) == [person]
            assert await site.find(User, name="stray") == await site.find(User, name="somebody else") == []
            assert await site.get(Region, "a") == region("a", description="right")
        assert await one.repair.once()
        # what was put right is not out of the log's reach: it may change, go, and come again, by any controller
        async with controller(keyspace, tmp_path, "dc2") as other:
            await other.commit(put(user(1, name="new"), everybody[1]), remove(everybody[2]), put(user(9)))
            assert await other.store.find(User, name="new") == [user(1, name="new")]
            assert await other.store.get(User, "002u") is None
            assert await other.store.get(User, "009u") == user(9)
            assert await other.repair.once()


async def test_what_was_wrong_is_not_put_above_what_an_entry_has_made_meanwhile(keyspace, tmp_path):
    await keyspace.empty_all()

    class Meanwhile:
        """An entry comes between finding a row and putting it right."""

        def __init__(self, drifting, do):
            self._drifting, self._do = drifting, do

        def __getattr__(self, name):
            return getattr(self._drifting, name)

        async def raise_floors(self, places, floor):
            await self._do()
            await self._drifting.raise_floors(places, floor)

    async with controller(keyspace, tmp_path) as one, hand(keyspace) as by_hand:
        await one.commit(put(user(1)), put(user(2)))
        await by_hand.changes(1, name="hand")
        await by_hand.changes(2, name="hand")

        async def do():
            await one.commit(put(user(1, name="newer"), user(1)), remove(user(2)))

        assert not await one.repairing(Meanwhile(one.store.drift, do)).once()
        assert await one.repair.once()
        assert await users(one.store) == [user(1, name="newer")]
        assert await one.store.find(User, name="hand") == await one.store.find(User, name="u1") == []


async def test_nothing_is_written_where_tables_are_replaced_or_too_much_is_wrong_or_nobody_wants_it(keyspace, tmp_path):
    await keyspace.empty_all()
    async with controller(keyspace, tmp_path) as one, hand(keyspace) as by_hand:
        await one.commit(*(put(user(number)) for number in range(3)))
        await by_hand.removes(1)
        await by_hand.removes(2)
        head = await one.store.head(LOG)
        careful = one.repairing(most_mended=1)
        await by_hand("UPDATE marks SET restoring = 7 WHERE feed = 'log'")
        assert not await careful.once()
        assert careful.read_at is None
        await by_hand("DELETE restoring FROM marks WHERE feed = 'log'")
        assert not await careful.once()
        assert (careful.waiting, careful.found.total()) == (2, 0)
        async with commands(careful, tmp_path) as rkctl:
            code, found = await rkctl("--dry-run")
            assert (code, [(told["key"], told["mended"]) for told in found]) == (1, [("001u", False), ("002u", False)])
            assert await one.store.head(LOG) == head
            assert await users(one.store) == [user(0)]
            code, found = await rkctl()
            assert (code, [(told["key"], told["mended"]) for told in found]) == (0, [("001u", True), ("002u", True)])
        assert await careful.once()
        assert careful.waiting == 0


async def test_a_row_that_has_no_copy_is_missed_and_the_log_says_what_it_was(keyspace, tmp_path):
    await keyspace.empty_all()
    async with controller(keyspace, tmp_path) as one, hand(keyspace) as by_hand:
        await one.commit(*(put(revocation(number)) for number in range(3)))
        await one.commit(put(region("a")))
        await by_hand.removes(0, "revocations", "r")  # before anybody has read it: its entry is a recent one
        assert not await one.repair.once()
        assert told(one.repair) == [("revocations", "000r", "lost", True)]
        await by_hand.removes(1, "revocations", "r")
        assert not await one.repair.once()
        assert told(one.repair)[1:] == [("revocations", "001r", "lost", True)]
        assert await one.store.get(RevocationEvent, "001r") == revocation(1)
        assert await one.repair.once()
        await by_hand.removes(2, "revocations", "r")
        late = one.repairing()  # that has never read the tables: the log is read by an operator's wish
        found, after = [], 0
        while after is not None:
            after, some = await late.stretch(after, dry_run=False)
            found += some
        assert [(told.key, told.how, told.mended) for told in found] == [("002r", "lost", True)]


# ------------------------------------------------------------------------------------- what one data centre has lost


class Forgetful:
    """A data centre that lacks rows, (table, id), until somebody asks the others for them through it."""

    def __init__(self, driver, lost):
        self._driver, self._lost = driver, lost

    def __getattr__(self, name):
        return getattr(self._driver, name)

    async def run(self, cql, values=(), **named):
        return self._seen(cql, await self._driver.run(cql, values, **named), **named)

    async def pages(self, cql, values=(), **named):
        async for page in self._driver.pages(cql, values, **named):
            yield self._seen(cql, page, **named)

    def _seen(self, cql, rows, consistency, **named):
        touched = {one for one in self._lost if f'FROM "{one[0]}"' in cql and any(one[1] in row for row in rows)}
        if consistency == "QUORUM" and "DISTINCT" not in cql:
            self._lost -= touched
            return rows
        return [row for row in rows if not any(one[1] in row for one in touched)]


@asynccontextmanager
async def data_centre(keyspace, folder, lost):
    """What a site in dc2 compares, and the touches of which it is told that they are doubtful."""
    async with keyspace.replica("dc2", wrap=lambda driver: Forgetful(driver, lost)) as store:
        holder = Holder(SITE, "c", X25519PrivateKey.generate(), [], folder / "site")
        clock, noted, doubted = Hurried(), [], set()
        follower = Follower(store=store, overlay=Overlay(store), holder=holder, clock=clock, lifetime_s=60.0)
        await follower.start()
        follower.doubters.append(doubted.update)

        async def note(position):
            noted.append(position)

        async def pending(number):
            return []

        compared = DataCentre(
            levelling=store.here,
            store=store,
            follower=follower,
            refresh=Refresh(follower, pending),
            clock=clock,
            section=Convergence(),
            note_repair=note,
        )
        yield compared, noted, doubted


async def test_what_one_data_centre_lost_is_named_given_back_and_forgotten(keyspace, tmp_path):
    await keyspace.empty_all()
    lost = set()
    async with controller(keyspace, tmp_path) as one:
        position = await one.commit(*(put(user(number)) for number in range(5)), put(region("a")))
        async with data_centre(keyspace, tmp_path, lost) as (compared, noted, doubted):
            assert await compared.once()
            lost |= {("users", "002u"), ("users__name", "003u"), ("regions", "a")}
            assert not await compared.once()
            assert told(compared) == [
                ("regions", "a", "lost", True),
                ("users", "002u", "lost", True),
                ("users", "003u", "lost", True),
            ]
            assert not lost
            assert {("users", "002u"), ("users", "003u"), ("users", ("name",), ("u3",)), ("regions", "a")} <= doubted
            assert noted
            assert min(noted) > position
            assert await compared.once()
            # what is on its way is not lost
            await one.commit(put(user(6)))
            lost |= {("users", "006u")}
            assert await compared.once()
            assert compared.found.total() == 3
