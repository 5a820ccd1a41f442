"""Puts the parts of a process together and serves them.

A controller is put together from the same parts (`controller.wiring`), so what both have is built here once.
"""

import asyncio
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from regional_keystone import front
from regional_keystone.api import (
    application_credentials,
    assignment,
    auth,
    catalog,
    credentials,
    discovery,
    domain_config,
    endpoint_filter,
    endpoint_policy,
    federation,
    identity,
    limit_models,
    limits,
    oauth1,
    projects,
    simple_cert,
    trusts,
)
from regional_keystone.api.serve import Api
from regional_keystone.api.shapes import Lengths, Shape
from regional_keystone.attempts import Counted, Record, Uncounted, Verifier, changes, facts
from regional_keystone.backends import cassandra_counters
from regional_keystone.compliance import joined
from regional_keystone.digest import digest
from regional_keystone.errors import Unavailable
from regional_keystone.fastpath import Confirmed, FastPath, Memory
from regional_keystone.follow import Follower
from regional_keystone.holder import CREDENTIAL, Holder
from regional_keystone.issue import Issuer
from regional_keystone.keys import KeyRing
from regional_keystone.log import Change, Transaction, put
from regional_keystone.messages import Request, Response
from regional_keystone.metrics import Counts, Durations, Metrics, Told
from regional_keystone.model import Attempts
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.passwords import hashes_waiting, recipe
from regional_keystone.policy import Policy
from regional_keystone.ports import Cache, Clock, Committer, Writer
from regional_keystone.remembered import Remembered
from regional_keystone.settings import ConfigurationError, Settings
from regional_keystone.shared import Seal, SharedFacts, cache_secret
from regional_keystone.validate import Validator
from regional_keystone.web import Fast, Limits, Web, admin_app

if TYPE_CHECKING:
    from regional_keystone.backends import Counters

log = structlog.get_logger("site")

WAIT_S = 3.0  # how long an answer waits for its own change to arrive here
CONFIRMED_S = 1.0  # how old what is known may be for the fast path where others append to the log as well
_ROWS = 20_000  # answers of the store that many validations share


@dataclass(slots=True)
class Replica:
    """Records, keys and revocations as one process knows them, and how fresh."""

    clock: Clock
    store: Writer
    overlay: Overlay
    holder: Holder
    credentials: Holder
    follower: Follower


@dataclass(slots=True)
class Door:
    """What answers clients."""

    api: Api
    web: Web
    fastpath: FastPath
    metrics: Metrics
    shared: SharedFacts | None = None

    async def close(self) -> None:
        """Let go of the region's cache."""
        if self.shared is not None:
            await self.shared.close()


def keep_s(settings: Settings) -> float:
    """How long after its last use a key, and after its making a revocation, can still matter to some token."""
    token, keys = settings.token, settings.keys
    return token.expiration + token.allow_expired_window + keys.isolation_s + settings.freshness.skew_s


async def replica(
    settings: Settings,
    clock: Clock,
    store: Writer,
    *,
    name: str,
    cluster: str,
    box: X25519PrivateKey,
    signers: Collection[bytes],
    leads: bool = False,
    keeps: bool = True,
) -> Replica:
    """Everything below the decisions, not started yet. `keeps`: whether this process writes the key directory."""
    keys, state = settings.keys, settings.site.state_dir
    holder = Holder(name, cluster, box, signers, keys.directory or state / "fernet-keys", keeps)
    path = keys.credential_directory or state / "credential-keys"
    credential = Holder(name, cluster, box, signers, path, keeps, CREDENTIAL)
    for one in (holder, credential):
        await asyncio.to_thread(one.load)
    overlay = Overlay(store)
    follower = Follower(
        store=store,
        overlay=overlay,
        holder=holder,
        clock=clock,
        lifetime_s=keep_s(settings),
        leads=leads,
        others=(credential,),
    )
    return Replica(clock, store, overlay, holder, credential, follower)


def door(
    settings: Settings,
    part: Replica,
    *,
    committer: Committer,
    forward: Callable[[Request], Awaitable[Response]] | None = None,
    own: Committer | None = None,
    current: Callable[[], Awaitable[None]] | None = None,
    cache: Cache | None = None,
) -> Door:
    """The Identity API over one replica. With `forward` what changes goes to a controller.

    With `cache`, facts are shared with the other processes of the region; whoever closes the Door closes it.
    """
    metrics, fastpath = Metrics(), FastPath(part.follower, settings.fastpath.entries)
    rows = Remembered(part.overlay, Memory(part.follower, min(settings.fastpath.entries, _ROWS)))
    for memory in (fastpath, rows.memory):
        part.follower.watchers.append(memory.disturb)
        part.follower.forgetters.append(memory.forget_all)
    shared = _shared(settings, part, fastpath, metrics, cache) if cache else None
    policy = _policy(settings)
    validator = Validator(rows, part.follower, fastpath, policy, clock=part.clock, settings=settings, shared=shared)
    verifier = _verifier(settings, part, _in_own_feed(part, own) if own else _in_log(part, committer))
    issuer = Issuer(part.overlay, part.follower, clock=part.clock, settings=settings, verifier=verifier)
    engine = Api(
        _shapes(settings, part, issuer, validator, verifier),
        reader=part.overlay,
        committer=committer,
        prove=validator.proven,
        policy=policy,
        clock=part.clock,
        keep_s=keep_s(settings),
        lengths=_lengths(settings),
        forward=forward,
        own=own,
        current=current,
    )
    fast = Confirmed(fastpath, part.follower, CONFIRMED_S) if current else fastpath
    return Door(engine, _web(settings, part, engine, fast, metrics), fastpath, metrics, shared)


def _shapes(settings: Settings, part: Replica, issuer: Issuer, validator: Validator, verifier: Verifier) -> list[Shape]:
    """Everything that is answered, with what it needs."""
    model, deepest = _limit_model(settings), settings.default.max_project_tree_depth
    return [
        *discovery.SHAPES,
        *auth.shapes(issuer, validator, keep_s(settings)),
        *catalog.SHAPES,
        *endpoint_filter.SHAPES,
        *endpoint_policy.SHAPES,
        *limits.shapes(model),
        *simple_cert.SHAPES,
        *projects.shapes(deepest if model.depth is None else min(deepest, model.depth)),
        *identity.shapes(
            identity.Terms(settings.security_compliance, recipe(settings.identity), verifier, part.holder.name)
        ),
        *assignment.SHAPES,
        *credentials.shapes(part.credentials, settings.credential.user_limit),
        *oauth1.SHAPES,
        *federation.SHAPES,
        *domain_config.shapes(part.credentials, settings.security_compliance),
        *trusts.shapes(settings.trust.max_redelegation_count),
        *application_credentials.shapes(recipe(settings.identity), settings.application_credential.user_limit),
    ]


def _verifier(settings: Settings, part: Replica, record: Record) -> Verifier:
    """What checks passwords; only where something asks for it is anything counted."""
    rules, how = settings.security_compliance, recipe(settings.identity)
    if not (rules.lockout_failure_attempts or rules.disable_user_account_days_inactive):
        return Uncounted(how)
    return Counted(
        how,
        rules=rules,
        reader=part.overlay,
        pending=part.follower.pending,
        place=part.holder.name,
        record=record,
        clock=part.clock,
    )


def _in_own_feed(part: Replica, own: Committer) -> Record:
    async def record(said: Attempts) -> None:
        name = f"login/{uuid.uuid4().hex}"
        await own.commit(Transaction(name, part.follower.position, frozenset(), (put(said),)))

    return record


def _in_log(part: Replica, committer: Committer) -> Record:
    async def record(said: Attempts) -> None:
        async def decide(reader: Recording) -> tuple[list[Change], None]:
            known = await facts(reader, said)
            return changes(known, joined(known.row, said)), None

        await transact(part.overlay, committer, f"login/{uuid.uuid4().hex}", decide)

    return record


def _shared(settings: Settings, part: Replica, fastpath: FastPath, metrics: Metrics, cache: Cache) -> SharedFacts:
    section, holder = settings.memcached, part.holder
    secret = cache_secret(section.secret_file or settings.site.state_dir / "cache.secret")
    seal = Seal(secret, region=holder.name, cluster=holder.cluster)
    shared = SharedFacts(cache, seal, fastpath, part.follower, clock=part.clock, ttl_s=section.ttl_s)
    metrics.tell("cache_lookups", lambda: shared.lookups)
    metrics.tell("cache_failures", cache.failures)
    metrics.tell("cache_up", cache.servers)
    return shared


def _limit_model(settings: Settings) -> limit_models.Model:
    try:
        return limit_models.model_named(settings.unified_limit.enforcement_model)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def _policy(settings: Settings) -> Policy:
    try:
        return Policy(str(settings.policy.file) if settings.policy.file else None)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None


def _lengths(settings: Settings) -> Lengths:
    """How long lists are; those that can be very long are never given whole, as upstream has it."""
    most, every = settings.default.max_db_limit, settings.default.list_limit
    long = {"users": settings.identity.list_limit, "groups": settings.identity.list_limit}
    long |= {"projects": settings.resource.list_limit, "domains": settings.resource.list_limit}
    short = {"roles": settings.role.list_limit, "policies": settings.policy.list_limit}
    short |= dict.fromkeys(("regions", "services", "endpoints"), settings.catalog.list_limit)
    short |= dict.fromkeys(("limits", "registered_limits"), settings.unified_limit.list_limit)
    usual = {name: limit or every or most for name, limit in long.items()}
    usual |= {name: limit or every or 0 for name, limit in {**short, "": None}.items()}
    return Lengths(most, {name: min(limit, most) for name, limit in usual.items()})


def _web(settings: Settings, part: Replica, engine: Api, fastpath: Fast, metrics: Metrics) -> Web:
    async def wait(position: int) -> None:
        if not await part.follower.reached(position, WAIT_S):
            raise Unavailable(f"This region has not received change {position} yet.")

    return Web(
        engine,
        clock=part.clock,
        metrics=metrics,
        fastpath=fastpath,
        limits=_limits(settings),
        public_endpoint=settings.listen.public_endpoint or None,
        trusted_proxies=settings.listen.trusted_proxies,
        cors=settings.cors,
        wait=wait,
    )


async def open_doors(
    stack: AsyncExitStack,
    settings: Settings,
    part: Replica,
    opened: Door,
    status: Callable[[], Mapping[str, Any]],
    ready: Callable[[], str | None],
    others: Callable[[], Awaitable[Iterable[Counts]]] | None = None,
) -> None:
    """Open the public and the private port until the stack is left. Raises OSError for one that is taken.

    With `others` there are other processes at the public port, and this tells what they have counted.
    """

    async def digest_now() -> tuple[int, str]:
        async with part.store.snapshot() as snapshot:
            return await digest(snapshot)

    listen = settings.listen
    private = admin_app(status=status, metrics=opened.metrics, ready=ready, digest=digest_now, others=others)
    if others is not None:
        await front.see_free(listen.host, listen.port)
    await open_public(stack, settings, opened, shared=others is not None)
    private_runner = await front.serve_private(private, listen.admin_host, listen.admin_port)
    stack.push_async_callback(private_runner.cleanup)


async def open_public(stack: AsyncExitStack, settings: Settings, opened: Door, *, shared: bool) -> None:
    """Open the public port until the stack is left; `shared` with other processes. Raises OSError for one taken."""
    listen = settings.listen
    runner = await front.serve(
        opened.web, listen.host, listen.port, ssl_context=_tls(settings), reuse_port=shared or None
    )
    stack.push_async_callback(runner.cleanup)


def common_status(part: Replica, opened: Door) -> dict[str, Any]:
    """The part of /status that sites and controllers share; no secret is in it."""
    follower, seen = part.follower, part.holder.seen
    rings = {name: _ring_status(holder.ring) for name, holder in follower.holders.items() if holder.seen.epoch}
    age_s = follower.age_s()
    return {
        "name": part.holder.name,
        "position": follower.position,
        "projected": follower.projected,
        "head": follower.head,
        "lag_entries": follower.head - follower.position,
        "age_s": None if age_s == float("inf") else round(age_s, 3),
        "ring_epoch": seen.epoch,
        "rings": rings,
        "requests": opened.metrics.requests_served,
        "revocations": len(follower.index),
    }


def _ring_status(ring: KeyRing) -> dict[str, Any]:
    keys = {str(number): value for number, value in ring.check_values().items()}
    return {"epoch": ring.epoch, "fingerprint": ring.fingerprint, "primary": ring.primary, "keys": keys}


def export(part: Replica, opened: Door) -> None:
    """Let metrics ask what the replica knows, at each scrape."""
    follower, tell = part.follower, opened.metrics.tell
    tell("log_position", lambda: follower.position)
    tell("log_head", lambda: follower.head)
    tell("lag_entries", lambda: follower.head - follower.position)
    tell("age_seconds", follower.age_s)
    tell("revocations_live", lambda: len(follower.index))
    tell("ring_epoch", lambda: {name: seen.epoch for name, seen in follower.seen.items()})
    tell("password_hash_queue", hashes_waiting)
    counters = cassandra_counters(part.store)
    if counters is not None:
        _export_cassandra(tell, counters)


def _export_cassandra(tell: Callable[[str, Callable[[], Told]], None], counters: "Counters") -> None:
    tell("cassandra_requests", lambda: counters.requests)
    tell("cassandra_errors", lambda: counters.errors)
    tell("cassandra_breaker_open", lambda: counters.breaker_open)
    tell("cassandra_breaker_opened", lambda: counters.breaker_opened)
    tell("cassandra_duration_seconds", lambda: Durations(counters.told(), counters.answers, counters.seconds))


@asynccontextmanager
async def background(tasks: Iterable[Coroutine[Any, Any, None]]) -> AsyncIterator[asyncio.TaskGroup]:
    """Run all of these until the block is cancelled; if one dies, so does the block, and the process with it."""
    async with asyncio.TaskGroup() as group:
        for task in tasks:
            group.create_task(_to_the_end(task))
        yield group


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Run it; where it is given up and nobody here wanted that, it is an error: a group takes it for an orderly end."""
    task, caller = asyncio.create_task(work), asyncio.current_task()
    try:
        await task
    except asyncio.CancelledError:
        if caller is not None and caller.cancelling():
            raise
        raise RuntimeError(f"{task.get_coro()!r} was given up by itself") from None


def _limits(settings: Settings) -> Limits:
    limits = settings.limits
    return Limits(
        body_bytes=limits.body_bytes,
        connections=limits.connections,
        connections_per_peer=limits.connections_per_peer,
    )


def _tls(settings: Settings) -> ssl.SSLContext | None:
    listen = settings.listen
    if listen.tls_cert is None or listen.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(listen.tls_cert, listen.tls_key)
    return context
