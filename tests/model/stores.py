"""The shared log, tables and replicas in memory; disks, on which the product's own code keeps the keys.

Every call may take a while, may come to nothing, may be done without its answer being heard; a crash may fall anywhere
between. What is here when a process dies is what was durable.
"""

import asyncio
import errno
import os
import shutil
import tempfile
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace

from regional_keystone import holder
from regional_keystone.errors import Unavailable, Unknown
from regional_keystone.keys import check_value
from regional_keystone.log import LOG, Put
from regional_keystone.record import TABLES, decode, encode, facts


class Rows:
    """What outlives a process: a log and its tables."""

    def __init__(self):
        self.entries = []
        self.first = 1  # the number of the first that was not pruned
        self.tables = {}
        self.applied = 0
        self.said = {}

    def copy(self):
        """As a backup has it."""
        other = Rows()
        other.entries, other.first = list(self.entries), self.first
        other.tables = {name: dict(rows) for name, rows in self.tables.items()}
        other.applied, other.said = self.applied, dict(self.said)
        return other

    @property
    def head(self):
        return self.first + len(self.entries) - 1

    def apply(self, entries):
        for entry in entries:
            if entry.number > self.applied:
                for change in entry.changes:
                    rows = self.tables.setdefault(change.table, {})
                    if isinstance(change, Put):
                        rows[change.key] = decode(TABLES[change.table].kind, change.row)
                    else:
                        rows.pop(change.key, None)
                self.applied = entry.number

    def at_head(self, kind):
        """The records of a type as the whole log has them."""
        found = dict(self.tables.get(facts(kind).name, {}))
        for entry in self.entries[max(0, self.applied + 1 - self.first) :]:
            for change in entry.changes:
                if change.table == facts(kind).name:
                    if isinstance(change, Put):
                        found[change.key] = decode(kind, change.row)
                    else:
                        found.pop(change.key, None)
        return found


class Store:
    """One process' way to its rows. Implements `ports.Writer`."""

    def __init__(self, rows, loop, faults, appended=None):
        self.rows = rows
        self._loop = loop
        self._faults = faults  # .fails() -> None, "before" or "after"
        self._appended = appended
        self.begun = 0  # the position of the newest snapshot of which rows were taken in, if all of them or not

    async def _late(self, rare=0.1):
        if self._loop.random.random() < rare:
            await asyncio.sleep(self._loop.latency_s())
        if self._faults.away:
            await asyncio.sleep(self._loop.latency_s())
            raise Unavailable("The store does not answer.")

    async def get(self, kind, *key):
        await self._late()
        return self.rows.tables.get(facts(kind).name, {}).get(key)

    async def find(self, kind, **equals):
        await self._late()
        rows = self.rows.tables.get(facts(kind).name, {})
        return [rows[key] for key in sorted(rows) if all(getattr(rows[key], k) == v for k, v in equals.items())]

    async def page(self, kind, after, limit, like=(), **equals):
        found = await self.find(kind, **equals)
        key_of = facts(kind).key_of
        kept = [row for row in found if (after is None or key_of(row) > after) and all(one.admits(row) for one in like)]
        return kept[:limit]

    async def scan(self, kind):
        await self._late()
        rows = dict(self.rows.tables.get(facts(kind).name, {}))
        for key in sorted(rows):
            yield rows[key]

    async def tail(self, feed, after, limit=1000):
        await self._late()
        start = after + 1 - self.rows.first
        return [] if start < 0 or feed != LOG else self.rows.entries[start : start + limit]

    async def applied(self, feed):
        await self._late()
        return self.rows.applied

    async def head(self, feed):
        await self._late()
        return self.rows.head

    async def append(self, feed, after, entries):
        await self._late(0.7)
        outcome = self._faults.append()
        if outcome == "nothing done":
            raise Unknown
        mine = self.rows.head == after
        if mine:
            if self._appended is not None:
                self._appended(entries)
            self.rows.entries.extend(entries)
        await self._late(0.5)
        if outcome == "not heard":
            raise Unknown
        return mine

    async def apply(self, entries):
        await self._late(0.7)
        self.rows.apply(entries)
        await self._late(0.3)

    async def acknowledge(self, site, said):
        await self._late(0.5)
        if said:
            self.rows.said[site] = said
        else:
            self.rows.said.pop(site, None)
        await self._late(0.3)

    async def acknowledged(self):
        await self._late(0.3)
        return dict(self.rows.said)

    async def prune(self, feed, upto):
        drop = max(0, min(upto, self.rows.applied) + 1 - self.rows.first)
        del self.rows.entries[:drop]
        self.rows.first += drop

    @asynccontextmanager
    async def snapshot(self):
        await self._late()
        still = [
            (name, key, encode(row))
            for name, rows in sorted(self.rows.tables.items())
            for key, row in sorted(rows.items())
        ]

        async def rows():
            for row in still:
                yield row

        yield SimpleNamespace(position=self.rows.applied, rows=rows)

    async def restore(self, position, rows):
        self.begun, tables = max(position, self.begun), {}
        async for name, key, row in rows:
            tables.setdefault(name, {})[tuple(key)] = decode(TABLES[name].kind, row)
        await self._late(0.7)
        self.rows.tables, self.rows.applied = tables, position
        self.rows.entries, self.rows.first = [], position + 1

    async def close(self):
        pass


class Feed(Store):
    """A site's way to its own feed, which is a log without tables."""

    async def tail(self, feed, after, limit=1000):
        await self._late()
        start = after + 1 - self.rows.first
        return [] if start < 0 else self.rows.entries[start : start + limit]

    async def prune(self, feed, upto):
        await self._late()
        drop = max(0, min(upto, self.rows.head) + 1 - self.rows.first)
        del self.rows.entries[:drop]
        self.rows.first += drop


class Disk:
    """A machine's, in memory and below one directory: what a write has finished stays, whatever is killed."""

    def __init__(self, root):
        self.root = root
        self.full = False
        self.backup = root.with_name(f"{root.name}.backup")
        root.mkdir()
        _DISKS[root] = self

    def keys(self, of):
        """The ids of the keys in a directory, whoever wrote them."""
        found = [path for path in (self.root / of).glob("*") if path.name.isdigit()]
        return {check_value(path.read_bytes()) for path in found}

    def damage(self, of, chance):
        """A file is cut short; False when there is none."""
        found = sorted(path for path in (self.root / of).glob("*") if path.name.isdigit())
        if found:
            path = chance.choice(found)
            path.chmod(0o600)
            path.write_bytes(b"")
        return bool(found)

    def save(self):
        shutil.rmtree(self.backup, ignore_errors=True)
        shutil.copytree(self.root, self.backup)

    def restore(self):
        shutil.rmtree(self.root)
        shutil.copytree(self.backup, self.root)


_DISKS = {}


@contextmanager
def memory():
    """A directory for disks whose files are in memory; their owner may fill them up."""
    there = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="model-", dir=there if there.is_dir() else None) as root:
        write_directory, fsync = holder.write_directory, os.fsync

        def write(directory, *rest, **more):
            disk = _DISKS.get(directory.parent)
            if disk is not None and disk.full:
                raise OSError(errno.ENOSPC, "No space left on device", str(directory))
            return write_directory(directory, *rest, **more)

        holder.write_directory, os.fsync = write, lambda descriptor: None
        try:
            yield Path(root)
        finally:
            holder.write_directory, os.fsync = write_directory, fsync
            for disk in [one for one in _DISKS if one.parent == Path(root)]:
                del _DISKS[disk]
