"""What a store in Cassandra says when it is asked for sums of its tables: there are none, and ADR 35 says why."""

from collections.abc import Sequence

from regional_keystone.record import Key
from regional_keystone.sums import Covered, Lying


class Unsurveyed:
    """The part of `ports.Writer` that is for replicas in files."""

    async def survey(self, table: str, begin: str, least_rows: int) -> Covered:
        """Not here: who reads these tables in another place reads the same ones."""
        raise LookupError(f"{table} from {begin} on, {least_rows} rows: sums are kept of files only")

    async def foreign_writes(self) -> int:
        """Not here."""
        raise LookupError("who else writes is known of files only")

    async def lying(self, table: str, leaf: str) -> tuple[int, list[Lying]]:
        """Not here."""
        raise LookupError(f"{table} {leaf}: sums are kept of files only")

    async def mend(self, rows: Sequence[tuple[str, Key, bytes | None]]) -> None:
        """Not here: a write without an entry would have no position."""
        raise LookupError(f"{len(rows)} rows: only files are mended")
