"""The operator's socket of a controller: rows that no entry made so are looked for, and put right, on request."""

from collections.abc import Sequence

import msgspec
from aiohttp import web

from controller.repair import Repair
from regional_keystone.errors import Invalid
from regional_keystone.messages import Drifted
from regional_keystone.operator_listener import answered
from regional_keystone.record import TABLES


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table, or without one the stretch of the log that follows `after`."""

    table: str = ""
    after: int = 0
    dry_run: bool = False


def routes(repair: Repair | None) -> list[web.RouteDef]:
    """What is answered; every answer is JSON. `repair` is None where each site compares its own file."""

    def present() -> Repair:
        if repair is None:
            raise Invalid("Records are in files: each site compares its own by itself, and `rkctl status` shows it.")
        return repair

    async def tables(request: web.Request) -> web.Response:
        """What is to be asked for, one after another."""
        del request
        present()
        return answered({"tables": list(TABLES)})

    async def step(request: web.Request) -> web.Response:
        """One step: a table, or {after}: a stretch of the log. `next` in the answer: where the log goes on."""
        asked = msgspec.json.decode(await request.read() or b"{}", type=Step)
        if not asked.table:
            after, found = await present().stretch(asked.after, dry_run=asked.dry_run)
            return answered({"rows": 0, "next": after, "found": _plain(found)})
        if asked.table not in TABLES:
            raise Invalid(f"There is no table {asked.table}.")
        rows, found = await present().table(asked.table, dry_run=asked.dry_run)
        return answered({"rows": rows, "next": None, "found": _plain(found)})

    return [web.get("/db/repair", tables), web.post("/db/repair", step)]


def _plain(found: Sequence[Drifted]) -> list[dict[str, object]]:
    return [msgspec.structs.asdict(one) for one in found]
