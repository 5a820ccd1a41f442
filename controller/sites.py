"""Enrolment: invitations, certificates, quarantine, removal. A site is what its record in the log says.

Every act is a transaction, so it collides with a turn of the keys that has not seen it.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
import structlog
from aiohttp import web
from cryptography.hazmat.primitives import serialization

from controller.authority import HOLDER, Authority, identity, requested_key
from controller.commit import Sequencer
from controller.replicate import Replicator, certified
from regional_keystone.bundle import VALIDITY_US, header, seal
from regional_keystone.enrol import JoinRequest, JoinToken, Welcome
from regional_keystone.errors import Conflict, Forbidden, IdentityError, Invalid, NotFound
from regional_keystone.holder import CREDENTIAL, TOKEN, Holder
from regional_keystone.keys import KeyRing
from regional_keystone.log import Change, Collision, put
from regional_keystone.model import Ring, Site
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.ports import Clock

log = structlog.get_logger("sites")

RINGS = (TOKEN, CREDENTIAL)
HOLDING = ("active", "quarantined")  # the states in which rings are sealed for a site
_PUBLIC = serialization.PublicFormat.SubjectPublicKeyInfo
Condition = Callable[[Recording, Site], Awaitable[bool]]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Sites:
    """Who belongs to the federation."""

    def __init__(
        self,
        *,
        authority: Authority,
        overlay: Overlay,
        sequencer: Sequencer,
        replicator: Replicator,
        holders: Mapping[str, Holder],
        clock: Clock,
        certificate_s: float,
        invitation_s: float,
        advertised: Sequence[str],
    ) -> None:
        self._authority = authority
        self._overlay = overlay
        self._sequencer = sequencer
        self._replicator = replicator
        self._holders = holders
        self._clock = clock
        self._certificate_s = certificate_s
        self._invitation_us = int(invitation_s * 1_000_000)
        self._advertised = tuple(advertised)

    async def invite(self, name: str) -> str:
        """A one-time join token for this site, good for some time; also for one that must join anew.

        Raises Invalid for a name that no region can have.
        """
        if not _NAME.fullmatch(name):
            raise Invalid(f"{name!r} is no name for a region: letters, digits, '.', '_' and '-', at most 64.")
        secret, now = secrets.token_urlsafe(32), self._clock.now()

        async def decide(reader: Recording) -> tuple[list[Change], None]:
            old = await reader.get(Site, name)
            fresh = old if old and old.state in HOLDING else Site(id=name, state="invited", since=now)
            invited = msgspec.structs.replace(
                fresh,
                join_digest=_digest(secret),
                join_expires_at=now + self._invitation_us,
                join_instance=None,
            )
            return [put(invited, old)], None

        await transact(self._overlay, self._sequencer, f"invite/{secrets.token_hex(16)}", decide)
        token = JoinToken(name=name, secret=secret, ca=self._authority.fingerprint, controllers=self._advertised)
        return token.text()

    async def join(self, request: JoinRequest) -> Welcome:
        """Make the site a member and seal the rings for it. The same request again gets the same answer.

        Raises Forbidden for a token that is not, or no longer, good.
        """
        now = self._clock.now()
        good = _NAME.fullmatch(request.name) and re.fullmatch(r"[0-9a-f]{32}", request.instance)
        if not good or len(request.box_key) != 32:
            raise Invalid("The join request is malformed.")
        who = _joiner(request)

        async def decide(reader: Recording) -> tuple[list[Change], None]:
            site = await reader.get(Site, request.name)
            if site is None or not _invited(site, request.secret, now):
                raise Forbidden("The join token is unknown, used or expired; make one with `rkctl region add NAME`.")
            if site.join_instance == who:
                return [], None  # its answer was lost
            if site.join_instance is not None:
                raise Forbidden("The join token was used; make another with `rkctl region add NAME`.")
            used = {"join_instance": who, "instance": request.instance, "box_key": request.box_key}
            member = msgspec.structs.replace(site, state="active", since=now, **used)
            rings = [change for name in RINGS for change in await self.resealed(reader, name, now, member)]
            return [put(member, site), *rings], None

        name = f"join/{request.name}/{request.instance}/{secrets.token_hex(8)}"
        _, position = await transact(self._overlay, self._sequencer, name, decide)
        if position is not None:
            await self._replicator.forget(request.name, "another instance of this site has joined")
            log.info("site_joined", site=request.name, instance=request.instance)
        return self._welcome(request.csr, request.name, request.instance)

    async def remove(self, name: str) -> None:
        """The site is no longer of the federation: its stream ends, nothing is sealed for it. Raises NotFound."""
        now = self._clock.now()

        async def decide(reader: Recording) -> tuple[list[Change], None]:
            site = await reader.get(Site, name)
            if site is None or site.state == "removed":
                raise NotFound(f"Could not find site: {name}.")
            return [put(Site(id=name, state="removed", since=now), site)], None

        await transact(self._overlay, self._sequencer, f"remove/{name}/{secrets.token_hex(8)}", decide)
        log.warning("site_removed", site=name)
        await self._replicator.forget(name, "this site was removed")

    async def set_state(self, name: str, state: str, why: str, only_if: Condition | None = None) -> None:
        """Quarantine a site, or take it back. Loud either way."""
        now = self._clock.now()

        async def decide(reader: Recording) -> tuple[list[Change], None]:
            site = await reader.get(Site, name)
            if site is None or site.state not in HOLDING or site.state == state:
                return [], None
            if only_if is not None and not await only_if(reader, site):
                return [], None
            return [put(msgspec.structs.replace(site, state=state, since=now), site)], None

        _, position = await transact(self._overlay, self._sequencer, f"{state}/{name}/{secrets.token_hex(8)}", decide)
        if position is not None:
            log.error("site_state", site=name, state=state, why=why)

    async def all(self) -> list[Site]:
        """Every site, removed ones as well, by name."""
        return [site async for site in self._overlay.scan(Site)]

    async def refresh(self) -> bool:
        """Seal the rings again before their bundles are too old for who has lost its directory; True if any was."""
        return any([await self._refresh(name) for name in RINGS])

    async def _refresh(self, name: str) -> bool:
        now = self._clock.now()

        async def decide(reader: Recording) -> tuple[list[Change], bool]:
            ring = await reader.get(Ring, name)
            if ring is None or now - ring.sealed_at < VALIDITY_US // 3:
                return [], False
            return await self.resealed(reader, name, now), True

        done, _ = await transact(self._overlay, self._sequencer, f"reseal/{name}/{secrets.token_hex(8)}", decide)
        return done

    async def resealed(self, reader: Recording, name: str, now: int, member: Site | None = None) -> list[Change]:
        """The ring of this name in its next epoch, same keys, sealed for this member too; nothing before the first."""
        old = await reader.get(Ring, name)
        if old is None:
            return []
        ring = (await self.held(old)).without(())
        return [put(await self.sealed(reader, name, ring, old, now, member), old)]

    async def held(self, record: Ring) -> KeyRing:
        """The ring that `record` tells of, as this controller holds it. Raises Conflict if that does not come."""
        holder = self._holders[record.id]
        for _ in range(100):
            if holder.seen.epoch >= record.epoch:
                return holder.ring
            await self._clock.sleep(0.02)  # its own entry is still being installed
        raise Conflict(f"This controller holds epoch {holder.seen.epoch} of the ring; the log has {record.epoch}.")

    async def sealed(
        self, reader: Recording, name: str, ring: KeyRing, old: Ring | None, now: int, member: Site | None = None
    ) -> Ring:
        """The ring of this name sealed for every holder. Has read every site, so it collides with any of their changes.

        Raises Collision when `ring` does not follow `old`: somebody else has turned it meanwhile.
        """
        if old is not None and ring.epoch != old.epoch + 1:
            raise Collision
        holders = {site.id: site.box_key async for site in reader.scan(Site) if site.state in HOLDING}
        if member is not None:
            holders[member.id] = member.box_key
        holders[HOLDER] = self._authority.box_key
        previous = old.fingerprint if old else ""
        return Ring(
            id=name,
            epoch=ring.epoch,
            fingerprint=ring.fingerprint,
            checks=ring.check_values(),
            sealed={
                to: seal(
                    ring, header(self._authority.cluster, to, name, ring, now, previous), key, self._authority.signer
                )
                for to, key in holders.items()
                if key is not None
            },
            turned_at=old.turned_at if old else now,
            sealed_at=now,
            ceased=dict(old.ceased) if old else {},
        )

    def routes(self) -> list[web.RouteDef]:
        """What the stream port answers besides the stream."""
        return [
            web.get("/ca/v1", self._serve_ca),
            web.post("/join/v1", self._serve_join),
            web.post("/renew/v1", self._serve_renew),
        ]

    async def _serve_ca(self, request: web.Request) -> web.Response:
        del request
        return web.Response(body=self._authority.ca_pem, content_type="application/x-pem-file")

    async def _serve_join(self, request: web.Request) -> web.Response:
        try:
            wanted = msgspec.json.decode(await request.read(), type=JoinRequest)
            await self._sequencer.catch_up()  # another controller may have invited it, just now
            return _json(await self.join(wanted))
        except msgspec.MsgspecError:
            return web.Response(status=400, text="not a join request")
        except IdentityError as error:
            return web.Response(status=error.status, text=error.message)

    async def _serve_renew(self, request: web.Request) -> web.Response:
        name = certified(request)
        try:
            await self._sequencer.catch_up()  # another controller may have removed it, just now
        except IdentityError as error:
            return web.Response(status=error.status, text=error.message)
        for site in await self.all():
            if site.state in HOLDING and name == identity(self._authority.cluster, site.id, site.instance or ""):
                try:
                    csr = msgspec.json.decode(await request.read(), type=dict[str, str])["csr"]
                    return _json(self._welcome(csr, site.id, site.instance or ""))
                except (msgspec.MsgspecError, KeyError, Invalid):
                    return web.Response(status=400, text="not a renewal request")
        return web.Response(status=403, text="no site of this federation")

    def _welcome(self, csr: str, name: str, instance: str) -> Welcome:
        certificate = self._authority.certify(csr, name, instance, self._clock.now(), self._certificate_s)
        return Welcome(cluster=self._authority.cluster, certificate=certificate, signers=(self._authority.signer_key,))


def _joiner(request: JoinRequest) -> str:
    """Who used a join token: the instance with its keys, so that whoever finds the token later cannot use it again."""
    key = requested_key(request.csr).public_bytes(serialization.Encoding.DER, _PUBLIC)
    return f"{request.instance}/{hashlib.sha256(key + request.box_key).hexdigest()[:32]}"


def _invited(site: Site, secret: str, now: int) -> bool:
    good = site.join_digest is not None and hmac.compare_digest(site.join_digest, _digest(secret))
    return good and site.join_expires_at is not None and now < site.join_expires_at


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _json(value: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
