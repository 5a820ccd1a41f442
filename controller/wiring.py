"""A site's wiring plus commit, replicate, rotate; background tasks in one TaskGroup."""

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import structlog

from controller.acknowledgements import Acknowledgements
from controller.admin_keys import KeysAdmin
from controller.authority import HOLDER, Authority
from controller.bootstrap import bootstrap, identity_endpoints
from controller.commit import Sequencer
from controller.compromise import Compromise
from controller.counterpart import Counterpart
from controller.credential_keys import CredentialKeys
from controller.heartbeat import beat
from controller.housekeeping import keep_house
from controller.key_export import KeyFiles
from controller.late import Late
from controller.regions import Regions
from controller.repair import Repair
from controller.replicate import Replicator
from controller.rotate import Rotator
from controller.sealed_tokens import SealedTokens
from controller.settings import Settings, terms
from controller.signer_turn import SignerTurn
from controller.signing_keys import SigningKeys
from controller.sites import Sites
from controller.stream_tls import StreamTls
from controller.sweep import Sweeper
from controller.trusts import Trusts
from regional_keystone import backends, parts, report, secret_file, wiring
from regional_keystone.bundle import read_header
from regional_keystone.errors import IdentityError, StoreRefused, Unavailable
from regional_keystone.holder import TOKEN
from regional_keystone.issue_counts import totals
from regional_keystone.log import LOG
from regional_keystone.messages import Request, Response
from regional_keystone.model import Ring
from regional_keystone.passwords import recipe
from regional_keystone.ports import Clock, Lock, Wake, Writer
from regional_keystone.purge import Purge
from regional_keystone.purging import purge
from regional_keystone.record import Touch
from regional_keystone.signer_chain import Chain, root
from regional_keystone.signing import CONTROLLER
from regional_keystone.survey import Survey

log = structlog.get_logger("controller")

READY_S = 3.0  # what is known of a log that others write may be so old at a controller that is asked
_AGAIN_S = 5.0
Store = Callable[[], Awaitable[Writer]]


class Controller:
    """The global side, in one process."""

    def __init__(self, settings: Settings, clock: Clock, shared: Store | None = None) -> None:
        """`shared` opens a log to which other controllers append as well; without it, it is what is configured."""
        self.settings = settings
        self.clock = clock
        self.lock: Lock = backends.local_lock()
        self.wake: Wake = backends.local_wake()
        self._shared = shared
        self._is_shared = bool(shared or settings.cassandra.contact_points)
        self.authority: Authority
        self.part: parts.Replica
        self.late: Late
        self.sequencer: Sequencer
        self.acknowledgements: Acknowledgements
        self.replicator: Replicator
        self.sites: Sites
        self.rotator: Rotator
        self.compromise: Compromise
        self.credential_keys: CredentialKeys
        self.signing_keys: SigningKeys
        self.regions: Regions
        self.trusts: Trusts
        self.sweeper: Sweeper
        self.door: parts.Door
        self.purge: Purge | None = None
        self.counterpart: Counterpart | None = None
        self.repair: Repair | None = None
        self.stream_tls: StreamTls | None = None  # before the port is open
        self.signer_turn: SignerTurn
        self._states: dict[str, str] = {}
        self._drained: set[str] = set()
        self._why: dict[str, str] = {}
        self._sites_changed = asyncio.Event()

    async def build(self, stack: AsyncExitStack) -> None:
        """Open what is on disk and put it together; nothing runs yet."""
        settings, clock = self.settings, self.clock
        store = await (self._shared() if self._shared else backends.open_log(settings, clock))
        stack.push_async_callback(store.close)
        await self._coordinate(stack)
        self.authority = Authority.open(self.authority_dir, clock.now())
        self.part = await wiring.replica(
            settings,
            clock,
            store,
            name=HOLDER,
            cluster=self.authority.cluster,
            box=self.authority.box,
            signers=(self.authority.signer_key,),
            leads=not self._is_shared,
            owner=f"{CONTROLLER}{self.name}",
        )
        self._build_global()
        cache = backends.region_cache(settings)
        current = self.sequencer.catch_up if self._is_shared else None
        self.door = wiring.door(settings, self.part, committer=self.sequencer, current=current, cache=cache)
        stack.push_async_callback(self.door.close)
        report.export(self.part, self.door)
        self.purge = purge(settings, self.part, self.door)
        if self.purge is not None:
            stack.push_async_callback(self.purge.close)
        await self._open_counterpart()
        self._export()
        self.replicator.answer = self._answer
        self.replicator.heard = self._heard
        self.replicator.offered = self.signing_keys.hear
        self.part.follower.watchers.append(self._saw)

    async def _open_counterpart(self) -> None:
        """Say what lies in an own file to sites that compare; tables of several writers are put right here."""
        how, part = self.settings.convergence, self.part
        if (drifting := backends.drifting(part.store)) is not None:
            self.repair = Repair(
                drifting=drifting,
                store=part.store,
                overlay=part.overlay,
                sequencer=self.sequencer,
                follower=part.follower,
                lock=self.lock,
                clock=self.clock,
                section=how,
            )
            self.repair.export(self.door.metrics.tell)
        if not how.interval_s or self._is_shared:
            return
        survey = Survey(part.store, self.clock, how.share, expects=True)
        await survey.start()
        survey.watch(part.follower)
        self.counterpart = found = Counterpart(survey=survey, store=part.store, clock=self.clock, share=how.share)
        self.replicator.compare, self.replicator.converged = found.answer, found.heard
        self.door.metrics.tell("drift_doubted_leaves", lambda: found.doubted)

    def _export(self) -> None:
        tell = self.door.metrics.tell
        tell("commits", lambda: self.sequencer.committed)
        tell("commit_batches", lambda: self.sequencer.batches)
        tell("collisions", lambda: self.sequencer.collisions)
        tell("feed_share", self.replicator.taking.shares)
        tell("rotations", lambda: self.rotator.turns)
        tell("primary_key_age_seconds", lambda: self.rotator.primary_age_s)
        tell("active_keys", lambda: self.rotator.active_keys)
        tell("next_turn_seconds", lambda: self.rotator.next_turn_s)
        tell("turn_waits_for", lambda: len(self.rotator.waits_for))
        tell("tokens_issued", lambda: totals(self.part.follower.issues.told()))
        tell("sites", lambda: {**Counter(self._states.values()), "drained": len(self._drained)})
        tell("certificate_left_seconds", lambda: report.left_s(self.certificates(), self.clock))
        tell("deletions_pending", lambda: len(self.sweeper.pending))
        tell("clock_ahead_seconds", lambda: self.late.ahead_us() / 1_000_000)
        tell("clock_wrong", lambda: float(self.late.why_wrong() is not None))
        tell("log_backlog_bytes", lambda: self.sequencer.backlog_bytes)

    async def _coordinate(self, stack: AsyncExitStack) -> None:
        zookeeper = self.settings.zookeeper
        if zookeeper.hosts:
            session = await backends.zookeeper(
                zookeeper.hosts,
                path=zookeeper.path,
                name=self.name,
                clock=self.clock,
                session_timeout_s=zookeeper.session_timeout_s,
                username=zookeeper.username,
                password=secret_file.read(zookeeper.password_file, "password") if zookeeper.password_file else "",
                tls_ca=zookeeper.tls_ca,
            )
            stack.push_async_callback(session.close)
            self.lock, self.wake = session, session

    def _build_regions(self) -> None:
        self.regions = Regions(
            sites=self.sites,
            replicator=self.replicator,
            take_back=self.rotator.take_back,
            overlay=self.part.overlay,
        )

    def _build_signers(self, shared: Mapping[str, Any]) -> None:
        """Whose signatures on rings count: from the first signer on, as the log has it."""
        begin = root(self.authority.cluster, self.authority.signer_key)
        self.sites.chain = self.part.follower.chain = Chain(begin, self.part.follower.holders.values())
        self.signer_turn = SignerTurn(
            authority=self.authority, sites=self.sites, deadline_s=self.settings.keys.acknowledge_deadline_s, **shared
        )

    def _build_global(self) -> None:
        settings, clock, part = self.settings, self.clock, self.part
        self.sequencer = Sequencer(store=part.store, follower=part.follower, clock=clock, wake=self.wake)
        self.acknowledgements = Acknowledgements(store=part.store, clock=clock, controller=self.name)
        shared: dict[str, Any] = {"overlay": part.overlay, "sequencer": self.sequencer, "clock": clock}
        self.replicator = Replicator(
            cluster=self.authority.cluster,
            store=part.store,
            acknowledgements=self.acknowledgements,
            keep_s=wiring.keep_s(settings),
            rules=settings.security_compliance,
            **shared,
        )
        self._compare_clocks()
        self.trusts = Trusts(keep_s=wiring.keep_s(settings), **shared)
        shared["replicator"] = self.replicator
        self.sites = Sites(
            authority=self.authority,
            holders=part.follower.holders,
            terms=terms(settings),
            certificate_s=settings.stream.certificate_lifetime_s,
            invitation_s=settings.stream.join_token_s,
            advertised=(self.advertised, *settings.stream.others),
            **shared,
        )
        self._build_signers(shared)
        self.sweeper = Sweeper(
            overlay=part.overlay,
            sequencer=self.sequencer,
            follower=part.follower,
            lock=self.lock,
            clock=clock,
            keep_s=wiring.keep_s(settings),
        )
        self._build_keys(shared)

    def _compare_clocks(self) -> None:
        """Go by our clock only while most of the active sites do not contradict it."""
        most_us, trusted = terms(self.settings).skew_us, self.settings.controller.trust_clock
        self.late = Late(self.clock, most_us, lambda site: self._states.get(site) == "active", trusted=trusted)
        self.sequencer.refuses, self.replicator.late = self.late.refuses, self.late

    async def newest(self) -> int:
        """When the log's newest entry was written, by whoever did; 0 where it has none."""
        return max([entry.at for entry in await self.part.store.tail(LOG, max(0, self.sequencer.head - 1))], default=0)

    async def begin_clock(self, newest: int) -> None:
        """Compare our clock with an entry of then, and with those sites that there are."""
        self._states = {site.id: site.state for site in await self.sites.all()}
        self.late.begin(newest, expects="active" in self._states.values())

    def _build_keys(self, shared: dict[str, Any]) -> None:
        settings, part = self.settings, self.part
        self.credential_keys = CredentialKeys(sites=self.sites, **shared)
        self.signing_keys = SigningKeys(
            sites=self.sites,
            cluster=self.authority.cluster,
            terms=terms(settings),
            deadline_s=settings.keys.acknowledge_deadline_s,
            **shared,
        )
        self.sealed_tokens = SealedTokens(
            terms=terms(settings),
            owner=f"{CONTROLLER}{self.name}",
            signs=settings.token.provider == "jws",
            issued_here=part.follower.issues.told,
            **shared,
        )
        self.compromise = Compromise(
            sites=self.sites, terms=terms(settings), issued_here=part.follower.issues.told, **shared
        )
        part.follower.watchers.append(self.compromise.saw)
        self.rotator = Rotator(
            sites=self.sites,
            lock=self.lock,
            terms=terms(settings),
            deadline_s=settings.keys.acknowledge_deadline_s,
            **shared,
        )
        self._build_regions()

    @property
    def name(self) -> str:
        """What this one of several controllers is called."""
        return self.settings.controller.name or socket.gethostname()

    @property
    def authority_dir(self) -> Path:
        """Where the federation's CA and signing keys are."""
        return self.settings.controller.authority_dir or self.settings.site.state_dir / "authority"

    @property
    def advertised(self) -> str:
        """Where sites find the stream."""
        stream = self.settings.stream
        return stream.advertise or f"https://{stream.host}:{stream.port}"

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """What runs for as long as the controller does."""
        running: list[Coroutine[Any, Any, None]] = [
            keep_house(
                store=self.part.store,
                overlay=self.part.overlay,
                sequencer=self.sequencer,
                acknowledgements=self.acknowledgements,
                follower=self.part.follower,
                lock=self.lock,
                clock=self.clock,
                retention_s=self.settings.log.retention_s,
                why_not=self.late.why_not,
            ),
            self.sweeper.run(),
            self.compromise.run(),
            self.acknowledgements.run(),
            self._watch_sites(),
            self._refresh_bundles(),
            self.signing_keys.run(self.part.signatory),
            wiring.settle_again(self.part),
        ]
        if self.stream_tls is not None:
            running.append(self.stream_tls.run())
        if self.settings.keys.rotation_interval:
            running.append(self.rotator.run())
        if self.purge is not None:
            running.append(self.purge.run())
        if self.counterpart is not None:
            running.append(self.counterpart.run(self.settings.convergence.interval_s))
        if self.repair is not None:
            running += self.repair.tasks()
        if self._is_shared:
            running.append(self.sequencer.follow(self.settings.controller.poll_s))
        heartbeat = backends.store_heartbeat(self.part.store)
        if heartbeat is not None:
            running.append(beat(heartbeat, self.part.follower, self.clock, self.late.why_wrong))
        return running

    async def _refresh_bundles(self) -> None:
        """Once an hour, and again soon after a failure."""
        while True:
            try:
                await self.sites.refresh()
            except IdentityError as error:
                log.error("bundles_not_refreshed", why=error.message)
                await self.clock.sleep(30.0)
            else:
                await self.clock.sleep(3600.0)

    async def first(self) -> None:
        """What an empty state needs: keys, and with a password file the first administrator and the own endpoints."""
        settings = self.settings
        await self._check_federation()
        await self.rotator.setup()
        await self.credential_keys.setup()
        await self._check_federation()  # another controller may have been first, with an authority of its own
        path = settings.bootstrap.password_file
        if path is None:
            return
        await self.bootstrap(settings.bootstrap.username, secret_file.read(path, "first administrator's password"))

    async def _check_federation(self) -> None:
        ring = await self.part.overlay.get(Ring, TOKEN)
        if ring is None:
            return
        theirs, mine = read_header(ring.sealed[HOLDER]).cluster, self.authority.cluster
        if theirs != mine:
            raise StoreRefused(
                f"{self.authority_dir} is the authority of federation {mine}, and the log is of federation {theirs};"
                " put a copy of the authority directory of one of its controllers there"
            )

    async def bootstrap(self, username: str, password: str) -> None:
        """The first domain, roles and administrator, and this controller's own endpoints; what exists stays."""
        settings = self.settings
        await bootstrap(
            self.part.overlay,
            self.sequencer,
            username=username,
            project=settings.bootstrap.project_name,
            password=password,
            how=recipe(settings.identity),
            now=self.clock.now(),
        )
        listen = settings.listen
        base = listen.public_endpoint or f"http{'s' if listen.tls_cert else ''}://{listen.host}:{listen.port}"
        await identity_endpoints(self.part.overlay, self.sequencer, settings.controller.region, f"{base}/v3")

    def ready(self) -> str | None:
        """What /readyz says to be missing, None for nothing: others may read the log that cannot be read from here."""
        if (why := self.late.why_wrong()) is not None:
            return why
        if self.part.follower.age_s() <= READY_S:
            return None
        return f"the end of the log has not been read for more than {READY_S:g} s"

    def keys_admin(self) -> KeysAdmin:
        """What operators ask of keys."""
        return KeysAdmin(
            rotator=self.rotator,
            credential_keys=self.credential_keys,
            sites=self.sites,
            overlay=self.part.overlay,
            clock=self.clock,
            status=self.status,
            terms=terms(self.settings),
            files=KeyFiles(
                overlay=self.part.overlay,
                sequencer=self.sequencer,
                sites=self.sites,
                clock=self.clock,
                terms=terms(self.settings),
                cluster=self.authority.cluster,
            ),
            max_active_keys=self.settings.keys.max_active_keys,
        )

    def status(self) -> dict[str, Any]:
        """What /status tells."""
        replicator = self.replicator
        names = sorted({*self._states, *self.acknowledgements.said, *replicator.sessions})
        return {
            **report.common_status(self.part, self.door),
            "name": "controller",
            "state": "leading",
            "cluster": self.authority.cluster,
            "sites": {name: self._site_status(name) for name in names},
            "quarantined": sorted(name for name, state in self._states.items() if state == "quarantined"),
            "certificates": self.certificates(),
            "deletions": self.sweeper.status(),
            "clock": {"ahead_s": round(self.late.ahead_us() / 1_000_000, 1), "refuses": self.late.why_not()},
            **({} if self.purge is None else {"middleware_cache": self.purge.status()}),
            **({} if self.counterpart is None else {"convergence": self.counterpart.status()}),
            **({} if self.repair is None else {"drift": self.repair.status()}),
        }

    def certificates(self) -> dict[str, int]:
        """When each that is used here ends, microseconds since 1970 UTC."""
        ends = {"ca": int(self.authority.ca.not_valid_after_utc.timestamp() * 1_000_000)}
        return ends if self.stream_tls is None else ends | {"stream": self.stream_tls.ends_at}

    def _site_status(self, name: str) -> dict[str, Any]:
        said = self.acknowledgements.word(name)
        return {
            "state": self._states.get(name, "unknown"),
            "drained": name in self._drained,
            "why": self._why.get(name, ""),
            "connected": name in self.replicator.sessions,
            "controller": said.controller if said else None,
            "position": said.position if said else None,
            "rings": {ring: {"epoch": held[0], "fingerprint": held[1]} for ring, held in said.rings.items()}
            if said
            else {},
            "acknowledged_at": said.at if said else None,
            "clock_behind_s": self.late.ahead_of_s(name),
            "convergence": self.counterpart.status_of(name) if self.counterpart else None,
        }

    async def _watch_sites(self) -> None:
        """Keep the status' view of the sites; take back quarantined ones that have caught up."""
        while True:
            self._sites_changed.clear()
            try:
                await self._look_at_sites()
            except Unavailable as error:  # the store: it is tried again
                log.error("sites_not_read", why=error.message)
            with suppress(TimeoutError):  # what could not be taken back, because of a full disk say, is tried again
                async with asyncio.timeout(_AGAIN_S):
                    await self._sites_changed.wait()

    async def _look_at_sites(self) -> None:
        sites = await self.sites.all()
        self._states = {site.id: site.state for site in sites}
        self._drained = {site.id for site in sites if site.drained}
        self._why = {site.id: site.why for site in sites}
        lacking = {site.id for site in sites if await self.signing_keys.lacks(site)}
        await self.replicator.review(sites)
        await self.rotator.look()
        for site in sites:
            if site.state == "quarantined" and not site.by_operator and site.id not in lacking:
                await self.rotator.take_back(site.id)

    def _saw(self, position: int, touched: set[Touch]) -> None:
        del position
        if ("sites",) in touched:
            self._sites_changed.set()

    def _heard(self, site: str) -> None:
        self.signing_keys.stir()
        if self._states.get(site) == "quarantined":
            self._sites_changed.set()

    async def _answer(self, request: Request) -> Response:
        return await self.door.api.answer(request, keep=True)
