"""Enrolment: invitations, certificates, quarantine, removal. A site is what its record in the log says.

Every act is a transaction, so it collides with a turn of the keys that has not seen it.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog
from aiohttp import web
from cryptography.hazmat.primitives import serialization

from controller.acknowledgements import possible
from controller.authority import HOLDER, Authority, requested_key
from controller.commit import Sequencer
from controller.renewals import Renewals, joiner, key_digest
from controller.replicate import Replicator
from controller.turning import HOLDING, Terms, first, sealed_again
from regional_keystone.bundle import (
    FORMAT,
    LINEAGE,
    VALIDITY_US,
    BundleRefused,
    Header,
    Reason,
    Seen,
    broken_chain,
    header,
    read_header,
    seal,
    signer_id,
)
from regional_keystone.enrol import JoinRequest, JoinToken, Welcome
from regional_keystone.errors import Conflict, Forbidden, IdentityError, Invalid, NotFound
from regional_keystone.holder import CREDENTIAL, RECEIPT, TOKEN, Holder
from regional_keystone.keys import KeyRing
from regional_keystone.log import Change, Collision, put
from regional_keystone.messages import Hello
from regional_keystone.model import Ring, SignerChain, Signing, Site
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.ports import Clock, Reader
from regional_keystone.signer_chain import SIGNERS, Chain, Trusted, followed, root
from regional_keystone.signing import SIGNING

log = structlog.get_logger("sites")

RINGS = (TOKEN, CREDENTIAL, RECEIPT)
HELP_S = 60.0  # a site that says now this, now that, makes an epoch of every ring no more often
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
        terms: Terms,
        certificate_s: float,
        invitation_s: float,
        advertised: Sequence[str],
    ) -> None:
        """`terms`: what every bundle that is sealed from now on promises its holder."""
        self._authority = authority
        self._overlay = overlay
        self._sequencer = sequencer
        self._replicator = replicator
        self._holders = holders
        self._clock = clock
        self.terms = terms
        self._certificate_s = certificate_s
        self._invitation_us = int(invitation_s * 1_000_000)
        self._advertised = tuple(advertised)
        replicator.greeted, replicator.cas = self._greeted, authority.cas.number
        self._root = root(authority.cluster, authority.signer_key)
        self.chain: Chain | None = None  # what this controller believes by now
        self._helped: dict[str, float] = {}  # by site: when it was helped on last, by the clock's ticks
        self._renewals = Renewals(cluster=authority.cluster, clock=clock, member=self._member, welcome=self._welcome)

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
        der = requested_key(request.csr).public_bytes(serialization.Encoding.DER, _PUBLIC)
        who, key = joiner(request.instance, der, request.box_key), key_digest(der)

        async def decide(reader: Recording) -> tuple[list[Change], None]:
            site = await reader.get(Site, request.name)
            if site is None or not _invited(site, request.secret, now):
                raise Forbidden("The join token is unknown, used or expired; make one with `rkctl region add NAME`.")
            if site.join_instance == who:
                return [], None  # its answer was lost
            if site.join_instance is not None:
                raise Forbidden("The join token was used; make another with `rkctl region add NAME`.")
            used = {"join_instance": who, "instance": request.instance, "box_key": request.box_key, "tls_key": key}
            state = "quarantined" if site.by_operator else "active"  # an operator takes it back who set it aside
            member = msgspec.structs.replace(site, state=state, since=now, **used)
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
            changes = await removal(reader, name, now, self.signs)
            if not changes:
                raise NotFound(f"Could not find site: {name}; `rkctl region list` names them.")
            return changes, None

        await transact(self._overlay, self._sequencer, f"remove/{name}/{secrets.token_hex(8)}", decide)
        await self.dismiss(name)

    async def dismiss(self, name: str) -> None:
        """What there is to do after its removal is in the log: end its stream."""
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
            told = site.why if site.drained else ("" if state == "active" else why)
            return [put(msgspec.structs.replace(site, state=state, since=now, why=told), site)], None

        _, position = await transact(self._overlay, self._sequencer, f"{state}/{name}/{secrets.token_hex(8)}", decide)
        if position is not None:
            log.error("site_state", site=name, state=state, why=why)

    async def mark(self, name: str, what: str, **fields: Any) -> Site:
        """Change these fields of a member's record, by an operator's word: as it is after that. Raises NotFound."""
        now = self._clock.now()

        async def decide(reader: Recording) -> tuple[list[Change], Site]:
            site = await reader.get(Site, name)
            if site is None or site.state not in HOLDING:
                cure = f"`rkctl region add {name}` invites it" if site else "`rkctl region list` names them"
                raise NotFound(
                    f"Could not find site: {name}" + (f", it is {site.state}" if site else "") + f"; {cure}."
                )
            since = now if fields.get("state", site.state) != site.state else site.since
            marked = msgspec.structs.replace(site, since=since, **fields)
            return [put(marked, site)] if marked != site else [], marked

        marked, position = await transact(
            self._overlay, self._sequencer, f"{what}/{name}/{secrets.token_hex(8)}", decide
        )
        if position is not None:
            log.error("site_marked", site=name, what=what, why=marked.why)
        return marked

    async def all(self) -> list[Site]:
        """Every site, removed ones as well, by name."""
        return [site async for site in self._overlay.scan(Site)]

    async def refresh(self) -> bool:
        """Seal the rings again before their bundles are too old for who has lost its directory; True if any was.

        Also when they are of the former format: a site that comes back after an upgrade finds what it can check; and
        when other durations are promised by now.
        """
        return any([await self._refresh(name) for name in RINGS])

    async def _refresh(self, name: str) -> bool:
        now = self._clock.now()

        async def decide(reader: Recording) -> tuple[list[Change], bool]:
            ring = await reader.get(Ring, name)
            promised = ring is not None and self._promises(ring)
            signing = signer_id((await self.trusted(reader)).signing)
            if ring is None or (now - ring.sealed_at < VALIDITY_US // 3 and promised and not is_former(ring, signing)):
                return [], False
            return await self.resealed(reader, name, now), True

        done, _ = await transact(self._overlay, self._sequencer, f"reseal/{name}/{secrets.token_hex(8)}", decide)
        return done

    async def distribute(self, names: Sequence[str]) -> dict[str, int]:
        """Seal the same keys again for every holder, in the next epoch of each ring: which epochs that are."""
        now = self._clock.now()

        async def decide(reader: Recording) -> tuple[list[Change], None]:
            return [change for name in names for change in await self.resealed(reader, name, now)], None

        await transact(self._overlay, self._sequencer, f"distribute/{secrets.token_hex(8)}", decide)
        rings = [ring for name in names if (ring := await self._overlay.get(Ring, name)) is not None]
        return {ring.id: ring.epoch for ring in rings}

    async def trusted(self, reader: Recording) -> Trusted:
        """Whose signatures count, as the log has it; whoever asks collides with a change of it."""
        record = await reader.get(SignerChain, SIGNERS)
        return self._root if record is None else followed(record.chain, self._root)

    async def catch_up(self, site: str, holds: Mapping[str, Seen], *, reset: bool = False) -> list[str]:
        """Seal the rings anew that this site cannot go on to from what it says that it holds: which they were.

        By itself only over a gap. A site that holds another ring of an epoch than the log's has one that somebody else
        made, so an operator decides (`reset`). Loud either way.
        """
        return [name for name in RINGS if name in holds and await self._catch_up(site, name, holds[name], reset=reset)]

    async def _greeted(self, hello: Hello) -> None:
        holds = possible(hello.rings)
        if (wait_s := self._helped.get(hello.site, float("-inf")) + HELP_S - self._clock.ticks()) > 0:
            await self._clock.sleep(wait_s)  # its stream may have ended by then, and this with it
            word = self._replicator.acknowledgements.word(hello.site)
            said = word.rings if word is not None and word.instance == hello.instance else {}
            holds = {name: max(held, said.get(name, held)) for name, held in holds.items()}
        try:
            if await self.catch_up(hello.site, {name: Seen(*held) for name, held in holds.items()}):
                self._helped[hello.site] = self._clock.ticks()
        except IdentityError as error:
            log.warning("site_not_helped_on", site=hello.site, why=error.message)

    async def _catch_up(self, site: str, name: str, holds: Seen, *, reset: bool) -> bool:
        now = self._clock.now()

        async def decide(reader: Recording) -> tuple[list[Change], Reason | None]:
            ring = await reader.get(Ring, name)
            if ring is None or site not in ring.sealed or holds.epoch > ring.epoch:
                return [], None
            about = _read(ring.sealed[site])
            broken = Reason.NOT_A_BUNDLE if about is None else broken_chain(about, holds)
            if broken is None or (broken is Reason.FORKED and not reset):
                return [], broken
            return await self.resealed(reader, name, now, held=(site, holds)), broken

        broken, done = await transact(self._overlay, self._sequencer, f"catch-up/{secrets.token_hex(8)}", decide)
        if done is not None:
            log.warning("site_helped_on", site=site, ring=name, holds=holds.epoch, why=broken)
        elif broken is not None:
            cure = f"find out who made that ring, then `rkctl region rejoin {site}`"
            log.error("site_holds_another_ring", site=site, ring=name, epoch=holds.epoch, cure=cure)
        return done is not None

    async def resealed(
        self,
        reader: Recording,
        name: str,
        now: int,
        member: Site | None = None,
        held: tuple[str, Seen] | None = None,
    ) -> list[Change]:
        """The ring of this name in its next epoch, same keys, sealed for this member too; nothing before the first."""
        old = await reader.get(Ring, name)
        if old is None:
            return []
        ring = (await self.held(old)).without(())
        return [put(await self.sealed(reader, name, ring, old, now, member, held), old)]

    async def first(self, reader: Recording, name: str, fresh: KeyRing, now: int) -> Ring:
        """The first ring of this name: what a Keystone left in the directory of this controller, or else `fresh`.

        Raises KeyRepositoryError for a directory whose keys make no ring.
        """
        found = await self._holders[name].unclaimed()
        if found is None:
            return await self.sealed(reader, name, fresh, None, now)
        made = await self.sealed(reader, name, KeyRing(found.numbers, fresh.epoch), None, now)
        log.warning("keys_adopted", ring=name, directory=str(self._holders[name].directory), keys=made.checks)
        return msgspec.structs.replace(made, times={})  # nobody knows since when there are these keys

    async def held(self, record: Ring) -> KeyRing:
        """The ring that `record` tells of, as this controller holds it. Raises Conflict if that does not come."""
        holder = self._holders[record.id]
        for _ in range(100):
            if holder.seen.epoch >= record.epoch and not holder.lost:
                return holder.installed
            await self._clock.sleep(0.02)  # its own entry is still being installed
        raise Conflict(f"This controller holds epoch {holder.seen.epoch} of the ring; the log has {record.epoch}.")

    async def sealed(
        self,
        reader: Recording,
        name: str,
        ring: KeyRing,
        old: Ring | None,
        now: int,
        member: Site | None = None,
        held: tuple[str, Seen] | None = None,
    ) -> Ring:
        """The ring of this name sealed for every holder. Has read every site, so it collides with any of their changes.

        `held`: what this site holds now. Raises Collision when somebody else has turned `old` meanwhile.
        """
        if old is not None and ring.epoch != old.epoch + 1:
            raise Collision
        signer = self._authority.signer_of((await self.trusted(reader)).signing)
        there = {site.id: site async for site in reader.scan(Site) if site.state in HOLDING}
        there |= {} if member is None else {member.id: member}
        holds = {to: self._acknowledged(site, name) for to, site in there.items()} | dict([held] if held else ())
        holders = {to: site.box_key for to, site in there.items()} | {HOLDER: self._authority.box_key}
        lineage = (old.fingerprint, *old.lineage)[:LINEAGE] if old else ()
        return Ring(
            id=name,
            epoch=ring.epoch,
            fingerprint=ring.fingerprint,
            checks=ring.check_values(),
            sealed={
                to: seal(ring, self._about(to, name, ring, now, lineage, holds.get(to)), key, signer)
                for to, key in holders.items()
                if key is not None
            },
            turned_at=old.turned_at if old else now,
            sealed_at=now,
            times=sealed_again(old, self.terms) if old else first(now, self.terms),
            retired=old.retired if old else {},
            lifetime_us=self.terms.lifetime_us,
            lineage=lineage,
            settles_at=old.settles_at if old else 0,
        )

    def _about(
        self, to: str, name: str, ring: KeyRing, now: int, lineage: tuple[str, ...], held: Seen | None
    ) -> Header:
        return header(
            self._authority.cluster,
            to,
            name,
            ring,
            now,
            lineage[0] if lineage else "",
            earlier=lineage[1:],
            held=held,
            isolation_us=self.terms.isolation_us,
        )

    def _promises(self, ring: Ring) -> bool:
        """Whether it was sealed with the promises that are made now."""
        isolation_us = {about and about.isolation_us for about in map(_read, ring.sealed.values())}
        return isolation_us == {self.terms.isolation_us} and ring.lifetime_us == self.terms.lifetime_us

    def signs(self, site: Site) -> bool:
        """Whether it has said that it signs its tokens with keys of its own now; not so, where that is not known."""
        return self._replicator.acknowledgements.of(site).provider == "jws"

    def _acknowledged(self, site: Site, name: str) -> Seen | None:
        said = self._replicator.acknowledgements.of(site).rings
        return Seen(*said[name]) if name in said else None

    def routes(self) -> list[web.RouteDef]:
        """What the stream port answers besides the stream."""
        return [
            web.get("/ca/v1", self._serve_ca),
            web.post("/join/v1", self._serve_join),
            *self._renewals.routes(),
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

    async def _member(self, name: str) -> Site | None:
        await self._sequencer.catch_up()  # another controller may have removed it, just now
        site = await self._overlay.get(Site, name)
        return site if site is not None and site.state in HOLDING else None

    def _welcome(self, csr: str, name: str, instance: str) -> Welcome:
        certificate = self._authority.certify(csr, name, instance, self._clock.now(), self._certificate_s)
        trusted = self._root if self.chain is None else self.chain.trusted
        return Welcome(
            cluster=self._authority.cluster,
            certificate=certificate,
            signers=(trusted.signing,),
            trusted=msgspec.msgpack.encode(trusted),
            cas=self._authority.bundle.decode() if self._authority.cas.number else "",
        )


async def removal(reader: Reader, name: str, now: int, signs: Callable[[Site], bool]) -> list[Change]:
    """What takes this site out of the federation; nothing if it is not of it."""
    site = await reader.get(Site, name)
    if site is None or site.state == "removed":
        return []
    rings = [ring for one in RINGS if (ring := await reader.get(Ring, one)) is not None]
    left_in = {ring.id: ring.epoch for ring in rings}
    if (signing := await reader.get(Signing, SIGNING)) is not None and signs(site):
        left_in[SIGNING] = signing.epoch
    return [put(Site(id=name, state="removed", since=now, left_in=left_in), site)]


def is_former(ring: Ring, signing: str) -> bool:
    """Whether a bundle of it is of a former format, of another signer than signs now, or of no use to anybody."""
    read = map(_read, ring.sealed.values())
    return any(about is None or (about.format, about.signer) != (FORMAT, signing) for about in read)


def _read(bundle: bytes) -> Header | None:
    """What a bundle says that it is, None for what is none: a log that has such a thing is mended by sealing again."""
    try:
        return read_header(bundle)
    except BundleRefused:
        return None


def _invited(site: Site, secret: str, now: int) -> bool:
    good = site.join_digest is not None and hmac.compare_digest(site.join_digest, _digest(secret))
    return good and site.join_expires_at is not None and now < site.join_expires_at


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _json(value: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
