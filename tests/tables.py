"""Does a store hold what its log says? Tables against log, references against what is there."""

from collections.abc import AsyncIterator

from regional_keystone.log import LOG, Entry, Put
from regional_keystone.ports import Writer
from regional_keystone.record import TABLES, Key

Rows = dict[tuple[str, Key], bytes]


async def entries_of(store: Writer) -> AsyncIterator[Entry]:
    """The whole log, in order."""
    after = 0
    while page := await store.tail(LOG, after):
        for entry in page:
            yield entry
        after = page[-1].number


def tell(rows: Rows, entry: Entry) -> None:
    """Bring rows to where they are after this entry."""
    for change in entry.changes:
        if isinstance(change, Put):
            rows[change.table, change.key] = change.row
        else:
            rows.pop((change.table, change.key), None)


async def unlike(store: Writer, rows: Rows) -> list[str]:
    """What the tables have that the log does not say, or lack."""
    async with store.snapshot() as snapshot:
        held = {(table, tuple(key)): row async for table, key, row in snapshot.rows()}
    told = {(table, tuple(key)): row for (table, key), row in rows.items()}
    return [
        f"{table} {key}: the table and the log differ"
        for table, key in held.keys() | told.keys()
        if held.get((table, key)) != told.get((table, key))
    ]


async def dangling(store: Writer) -> list[str]:
    """References to what is not there: a deletion without its cascades."""
    there: dict[str, set[str]] = {}
    records = {}
    for name, table in TABLES.items():
        records[name] = [one async for one in store.scan(table.kind)]
        there[name] = {table.key_of(one)[0] for one in records[name]}
    found = []
    for name, table in TABLES.items():
        for field, facts in table.fields.items():
            if facts.ref is None:
                continue
            targets = set().union(*(there[one] for one in facts.ref.table.split())) | {None, "system"}
            for one in records[name]:
                if getattr(one, field) not in targets:
                    found.append(f"{name} {table.key_of(one)}: {field} is not there")
    return found
