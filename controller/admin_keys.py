"""The part of the operator's socket that is about key rings: how they stand, turning them, sealing them again."""

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from controller.credential_keys import CredentialKeys
from controller.key_export import KeyFiles, Under
from controller.key_marks import Marks, listed, mark, marks
from controller.rotate import TURNED, Rotator
from controller.sites import RINGS, Sites
from controller.turning import Plan, Terms, key_states, least_active_keys, part_at
from regional_keystone.errors import Invalid
from regional_keystone.holder import CREDENTIAL, TOKEN
from regional_keystone.model import KeyTimes, Ring, Site
from regional_keystone.operator_listener import answered
from regional_keystone.overlay import Overlay
from regional_keystone.ports import Clock


class KeysAdmin:
    """What `rkctl keys`, `rkctl credential` and Keystone's verbs ask of a running controller."""

    def __init__(
        self,
        *,
        rotator: Rotator,
        credential_keys: CredentialKeys,
        sites: Sites,
        overlay: Overlay,
        clock: Clock,
        status: Callable[[], Mapping[str, Any]],
        terms: Terms,
        files: KeyFiles,
        max_active_keys: int = 0,
    ) -> None:
        self._rotator = rotator
        self._credential_keys = credential_keys
        self._sites = sites
        self._overlay = overlay
        self._clock = clock
        self._status = status
        self._terms = terms
        self._files = files
        self._most = max_active_keys

    def routes(self) -> list[web.RouteDef]:
        """The handlers; every answer is JSON."""
        return [
            web.get("/keys/status", self._keys),
            web.post("/keys/rotate", self._rotate),
            web.post("/keys/setup", self._setup),
            web.post("/keys/distribute", self._distribute),
            web.post("/keys/export", self._export),
            web.post("/keys/import", self._import),
            web.get("/credential/status", self._credential_status),
            web.post("/credential/setup", self._credential_setup),
            web.post("/credential/rotate", self._credential_rotate),
            web.post("/credential/migrate", self._credential_migrate),
        ]

    async def _keys(self, request: web.Request) -> web.Response:
        del request
        return answered(await self._shown())

    async def _rotate(self, request: web.Request) -> web.Response:
        """{dry_run?, rings?}: waits for acknowledgements up to the deadline, turns, answers with what stands then."""
        body = msgspec.json.decode(await request.read() or b"{}", type=dict[str, Any])
        rings = _rings(body, TURNED)
        before = await self._shown()
        if body.get("dry_run"):
            return answered({"turned": False, **before})
        ring = await asyncio.shield(self._rotator.turn(rings=rings))
        keys = {str(number): value for number, value in ring.checks.items()}
        return answered({"turned": True, "keys": keys, "primary": max(ring.checks), **await self._shown()})

    async def _setup(self, request: web.Request) -> web.Response:
        """{rings?}: the rings that are not there yet; `made` names them."""
        body = msgspec.json.decode(await request.read() or b"{}", type=dict[str, Any])
        rings = _rings(body, RINGS)
        made = list(await self._rotator.setup(tuple(name for name in rings if name in TURNED)))
        if CREDENTIAL in rings and await self._credential_keys.setup():
            made.append(CREDENTIAL)
        return answered({"made": made, **await self._shown()})

    async def _distribute(self, request: web.Request) -> web.Response:
        """{rings?}: the same keys sealed again for every holder, in the next epoch; the status tells who has it."""
        body = msgspec.json.decode(await request.read() or b"{}", type=dict[str, Any])
        epochs = await asyncio.shield(self._sites.distribute(_rings(body, RINGS)))
        return answered({"distributed": epochs, **await self._shown()})

    async def _export(self, request: web.Request) -> web.Response:
        """{passphrase? or key?, rings?}: the rings as a sealed file."""
        body = msgspec.json.decode(await request.read(), type=dict[str, Any])
        return answered({"file": await self._files.export(_rings(body, RINGS), _under(body))})

    async def _import(self, request: web.Request) -> web.Response:
        """{file, passphrase? or key?, rings?, merge?}: take in the rings of a file; `new` tells how many keys."""
        body = msgspec.json.decode(await request.read(), type=dict[str, Any])
        rings, merge = _rings(body, RINGS), bool(body.get("merge"))
        taken = self._files.take_in(str(body.get("file")), _under(body), rings, merge=merge)
        return answered({"new": await asyncio.shield(taken), **await self._shown()})

    async def _credential_status(self, request: web.Request) -> web.Response:
        del request
        return answered((await self._credential_keys.standing())._asdict())

    async def _credential_setup(self, request: web.Request) -> web.Response:
        del request
        made = await self._credential_keys.setup()
        return answered({"made": made, **(await self._credential_keys.standing())._asdict()})

    async def _credential_rotate(self, request: web.Request) -> web.Response:
        del request
        return answered((await asyncio.shield(self._credential_keys.rotate()))._asdict())

    async def _credential_migrate(self, request: web.Request) -> web.Response:
        del request
        migrated = await asyncio.shield(self._credential_keys.migrate())
        return answered({"migrated": migrated, **(await self._credential_keys.standing())._asdict()})

    async def _shown(self) -> dict[str, Any]:
        """All rings, and the next turn. Raises Conflict before there is a ring for tokens."""
        plan, sites = await self._rotator.plan(), await self._sites.all()
        records = {name: await self._overlay.get(Ring, name) for name in RINGS}
        known = await marks(self._overlay)
        rings = {name: await self._ring(record, sites, known) for name, record in records.items() if record is not None}
        token = records[TOKEN]
        interval_us = self._terms.interval_us
        at = token.turned_at + interval_us if token is not None and interval_us else None
        waits_for = sorted({site for name in TURNED if name in rings for site in rings[name]["waits_for"]})
        return {
            **_plain(plan),
            "follows": self._status().get("rings", {}).get(TOKEN, {}).get("follows"),
            "now": self._clock.now(),
            "rings": rings,
            "condemned": listed(known),
            "next_turn": {
                "at": at,
                "is_due": at is not None and at <= self._clock.now(),
                "interval_s": interval_us // 1_000_000,
                "deadline_s": self._rotator.deadline_s,
                "waits_for": {name: self._reason(name, rings) for name in waits_for},
            },
        }

    async def _ring(self, record: Ring, sites: Sequence[Site], known: Marks) -> dict[str, Any]:
        plan, now = await self._rotator.plan(record.id), self._clock.now()
        states = key_states(record, self._terms, now, plan.waits_for)
        most = self._most or least_active_keys(self._terms)
        shown = {site.id: self._site(record, site) for site in sites if site.state in {"active", "quarantined"}}
        return {
            "epoch": record.epoch,
            "fingerprint": record.fingerprint,
            "turned_at": record.turned_at,
            "sealed_at": record.sealed_at,
            "active_keys": len(record.checks),
            "expected_keys": None if record.id == CREDENTIAL else most,
            "waits_for": list(plan.waits_for),
            "retires": [record.checks[number] for number in plan.retires] if record.id != CREDENTIAL else [],
            "keys": [
                {**msgspec.to_builtins(key.times), **_named(key.id, key.number, key.state), **mark(key.id, known)}
                for key in states
            ],
            "sites": shown,
        }

    def _site(self, record: Ring, site: Site) -> dict[str, Any]:
        """What this site says that it holds of the ring, and what each key is to it then."""
        told = self._status()["sites"].get(site.id, {})
        held = self._rotator.held(site).get(record.id, (0, ""))
        is_newest = held == (record.epoch, record.fingerprint)
        epoch = min(held[0], record.epoch - 1)  # of another ring of the same epoch nothing is known either
        keys = {
            name: _now(number, record) if is_newest else part_at(record.times.get(number, KeyTimes()), epoch)
            for number, name in record.checks.items()
        }
        return {
            "state": site.state,
            "since": site.since,
            "by_operator": site.by_operator,
            "why": site.why,
            "connected": bool(told.get("connected")),
            "acknowledged_at": told.get("acknowledged_at"),
            "epoch": held[0],
            "fingerprint": held[1],
            "is_newest": is_newest,
            "says": "" if is_newest else self._rotator.says(site).get(record.id, ""),
            "keys": keys,
        }

    def _reason(self, site: str, rings: Mapping[str, Any]) -> str:
        """Why this site is waited for."""
        lacks = []
        for name in TURNED:
            if name in rings and site in rings[name]["waits_for"]:
                held, needed = rings[name]["sites"][site]["epoch"], rings[name]["epoch"]
                has = f"has {held}" if held else "has none"
                lacks.append(f"{name} keys of epoch {needed} ({has})")
        connected = rings[TOKEN]["sites"][site]["connected"]
        said = {ring["sites"][site]["says"]: None for ring in rings.values() if ring["sites"][site]["says"]}
        says = f"; it says: {'; '.join(said)}" if said else ""
        return f"it has not acknowledged {', '.join(lacks)}; it is {'' if connected else 'not '}connected{says}"


def _under(body: Mapping[str, Any]) -> Under:
    try:
        return Under(str(body.get("passphrase") or ""), base64.b64decode(body.get("key") or "", validate=True))
    except ValueError:
        raise Invalid("The key is not base64.") from None


def _rings(body: Mapping[str, Any], known: tuple[str, ...]) -> tuple[str, ...]:
    wanted = tuple(body.get("rings") or known)
    if unknown := [name for name in wanted if name not in known]:
        raise Invalid(f"{', '.join(map(str, unknown))}: the rings are {', '.join(known)}.")
    return wanted


def _now(number: int, record: Ring) -> str:
    if number == 0:
        return "staged"
    return "primary" if number == max(record.checks) else "held"


def _named(id_: str, number: int | None, state: str) -> dict[str, Any]:
    return {"id": id_, "number": number, "state": state}


def _plain(plan: Plan) -> dict[str, Any]:
    return {
        "epoch": plan.epoch,
        "waits_for": list(plan.waits_for),
        "retires": list(plan.retires),
        "active": list(plan.active),
        "quarantined": list(plan.quarantined),
    }
