"""A site's operator condemns keys here, without a controller and without a lock: in force at once, and for good.

Who can open the socket can read the site's private key as well. What is condemned stands in the site's own feed, from
which a controller takes it over once, and turns the ring away. Source: docs/adr/0026-condemned-keys.md.
"""

import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from aiohttp import web

from regional_keystone.errors import IdentityError, Invalid, NotFound
from regional_keystone.follow import Follower
from regional_keystone.holder import CREDENTIAL
from regional_keystone.issue_counts import Issues, live
from regional_keystone.log import Transaction, put
from regional_keystone.model import Condemned
from regional_keystone.operator_listener import answered, rendered, who_asks
from regional_keystone.ports import Clock, Committer
from regional_keystone.signing import SIGNING

log = structlog.get_logger("panic")

_WHY = 200


class Wanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key by its id, or all that tokens are sealed or signed with; and why, for the record."""

    key: str = ""
    all: bool = False
    why: str = ""


class Panic:
    """Condemns keys at one site. `own` is the site's own feed, told to every process of the site.

    `issued`: how many tokens all its processes have issued, by key and hour.
    """

    def __init__(
        self, *, follower: Follower, own: Committer, clock: Clock, place: str, issued: Callable[[], Issues]
    ) -> None:
        self._follower = follower
        self._own = own
        self._clock = clock
        self._place = place
        self._issued = issued

    def keys(self) -> dict[str, str]:
        """Id -> ring of every key that this site knows, signing keys too, but those of the secrets of credentials.

        Of those, nothing could be refused: what they have sealed has to be opened.
        """
        rings = {name: holder for name, holder in self._follower.holders.items() if name != CREDENTIAL}
        held = {key: name for name, one in rings.items() if one.seen.epoch for key in one.ring.key_ids.values()}
        return held | dict.fromkeys(self._follower.signers.ids, SIGNING)

    async def condemn(self, wanted: Wanted, by: str) -> list[str]:
        """The keys that were condemned now; refused by every process of this site when it returns.

        Raises Invalid unless one key is named or all, NotFound for one that is not known here, Unavailable.
        """
        keys = self.keys()
        if bool(wanted.key) == wanted.all:
            raise Invalid("Say which key, by its id, or all of them.")
        if wanted.key and wanted.key not in keys:
            raise NotFound(f"No ring of this site has a key {wanted.key}; those that it has: {', '.join(keys)}.")
        meant = sorted(keys if wanted.all else [wanted.key])
        fresh = [key for key in meant if key not in self._follower.condemned]
        now, why = self._clock.now(), wanted.why[:_WHY]
        records = [Condemned(id=key, ring=keys[key], at=now, by=by, why=why, place=self._place) for key in fresh]
        if records:
            name = f"panic/{uuid.uuid4().hex}"
            changes = tuple(map(put, records))
            await self._own.commit(Transaction(name, self._follower.position, frozenset(), changes))
            log.error("keys_condemned", keys=fresh, by=by, why=why, place=self._place)
        return fresh

    def app(self) -> web.Application:
        """The handlers; every answer is JSON."""
        app = web.Application(middlewares=[rendered])
        app.add_routes([web.get("/keys", self._keys), web.post("/panic", self._panic)])
        return app

    async def _keys(self, request: web.Request) -> web.Response:
        del request
        return answered(self._told([]))

    async def _panic(self, request: web.Request) -> web.Response:
        wanted = msgspec.json.decode(await request.read(), type=Wanted)
        return answered(self._told(await self.condemn(wanted, f"{who_asks(request)} at {self._place}")))

    def _live(self, key: str) -> int:
        """About how many tokens from here, under this key, are good."""
        now = self._clock.now()
        return live(self._issued().get(key, {}), now, self._follower.lifetime_us or now)

    def _told(self, condemned: list[str]) -> dict[str, Any]:
        signatory = self._follower.signatory
        try:
            if signatory is not None and signatory.signs:
                signatory.check()
            else:
                self._follower.sealing_number()
            issues = True
        except IdentityError:
            issues = False
        known = self._follower.condemned
        return {
            "site": self._place,
            "condemned": condemned,
            "keys": [
                {"id": key, "ring": ring, "condemned": key in known, "live_tokens": self._live(key)}
                for key, ring in self.keys().items()
            ],
            "issues_tokens": issues,
        }
