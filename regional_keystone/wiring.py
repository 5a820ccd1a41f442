"""Puts the parts of a process together and serves them.

A controller is put together from the same parts (`controller.wiring`), so what both have is built here once.
"""

import asyncio
import itertools
import math
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

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
from regional_keystone.compliance import joined
from regional_keystone.digest import digest
from regional_keystone.errors import StoreRefused
from regional_keystone.fastpath import Confirmed, FastPath, Memory
from regional_keystone.follow import Follower
from regional_keystone.followed import Followed
from regional_keystone.holder import CREDENTIAL, RECEIPT, Holder, follow, look_after
from regional_keystone.issue import SKEW_S, Issuer
from regional_keystone.jws import MOST_LAG_S
from regional_keystone.key_files import KeyRepositoryError
from regional_keystone.log import Change, Transaction, put
from regional_keystone.messages import Request, Response
from regional_keystone.metrics import Counts, Metrics
from regional_keystone.model import Attempts
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.parts import Door, Replica
from regional_keystone.passwords import recipe
from regional_keystone.policy import Policy
from regional_keystone.ports import Cache, Clock, Committer, Writer
from regional_keystone.positions import OwnFeed, Waiting
from regional_keystone.remembered import Remembered
from regional_keystone.sealing import Lives
from regional_keystone.sections import Keys
from regional_keystone.settings import ConfigurationError, Settings
from regional_keystone.shared import REPAIRED, Seal, SharedFacts, cache_secret, repaired_at
from regional_keystone.signing import Signatory, directories
from regional_keystone.validate import Validator
from regional_keystone.web import Fast, Known, Limits, Web, admin_app

log = structlog.get_logger("site")

WAIT_S = 3.0  # how long an answer waits for its own change to arrive here
CONFIRMED_S = 1.0  # how old what is known may be for the fast path where others append to the log as well
SETTLE_S = 1.0
_THOROUGHLY = 60  # one look at signing keys in so many reads every file
_ROWS = 20_000  # answers of the store that many validations share


def keep_s(settings: Settings) -> float:
    """How long after its last use a key, and after its making a revocation, can still matter to some token."""
    return settings.token.expiration + settings.keys.isolation_s + shown_s(settings)


def shown_s(settings: Settings) -> float:
    """How long after its end a token may be shown somewhere: one from a fast clock, by a slow one."""
    return settings.token.allow_expired_window + SKEW_S + settings.freshness.skew_s


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
    owner: str | None = None,
) -> Replica:
    """Everything below the decisions, not started yet. `keeps`: whether this process writes the key directories.

    `owner`: whose the signing key of this process is, where that is not `name`.
    """
    keys, state = settings.keys, settings.site.state_dir
    path = keys.directory or state / "fernet-keys"
    holder = Holder(name, cluster, box, signers, path, keeps, followed=_followed(keys, path))
    path = keys.credential_directory or state / "credential-keys"
    credential = Holder(name, cluster, box, signers, path, keeps, CREDENTIAL)
    path = keys.receipt_directory or state / "receipt-keys"
    receipt = Holder(name, cluster, box, signers, path, keeps, RECEIPT)
    for one in (holder, credential, receipt):
        one.memory = state / f"{one.of}.epoch"
        await asyncio.to_thread(one.load)
    signatory = await _signatory(settings, clock, owner or name, cluster, keeps=keeps)
    overlay = Overlay(store)
    follower = Follower(
        store=store,
        overlay=overlay,
        holder=holder,
        clock=clock,
        lifetime_s=keep_s(settings),
        leads=leads,
        signatory=signatory,
        others=(credential, receipt),
        isolation_s=keys.isolation_s,
    )
    follower.leave.wanted = Lives(settings.token.expiration * 10**6, settings.token.allow_expired_window * 10**6)
    return Replica(clock, store, overlay, holder, credential, follower, signatory)


async def _signatory(settings: Settings, clock: Clock, owner: str, cluster: str, *, keeps: bool) -> Signatory:
    """Raises StoreRefused for a private key that others can read, and the like."""
    section = settings.jwt_tokens
    private, public = directories(settings)
    signatory = Signatory(
        owner,
        cluster,
        private,
        public,
        keeps=keeps,
        signs=settings.token.provider == "jws",
        lag_s=min(math.ceil(settings.freshness.skew_s), MOST_LAG_S),
        trusted=section.trusted_public_key_repository,
        clock=clock,
    )
    try:
        await asyncio.to_thread(signatory.load)
    except KeyRepositoryError as error:
        raise StoreRefused(str(error)) from None
    return signatory


def _followed(keys: Keys, own: Path) -> Followed | None:
    if keys.follow is None:
        return None
    if keys.follow.resolve() == own.resolve():
        raise ConfigurationError("[keys] follow must name another directory than the one that is kept here")
    return Followed(keys.follow, keys.follow_seals)


def door(
    settings: Settings,
    part: Replica,
    *,
    committer: Committer,
    forward: Callable[[Request], Awaitable[Response]] | None = None,
    own: Committer | None = None,
    own_at: OwnFeed | None = None,
    current: Callable[[], Awaitable[None]] | None = None,
    cache: Cache | None = None,
) -> Door:
    """The Identity API over one replica. With `forward` what changes goes to a controller.

    `own_at`: the name of the feed in `own`, and how far it counts in this process.

    With `cache`, facts are shared with the other processes of the region; whoever closes the Door closes it.
    """
    metrics, fastpath = Metrics(), FastPath(part.follower, settings.fastpath.entries)
    rows = Remembered(part.overlay, Memory(part.follower, min(settings.fastpath.entries, _ROWS)))
    for memory in (fastpath, rows.memory):
        part.follower.watchers.append(memory.disturb)
        part.follower.forgetters.append(memory.forget_all)
        part.follower.doubters.append(memory.doubt)
    shared = _shared(settings, part, fastpath, metrics, cache) if cache else None
    policy = _policy(settings)
    validator = Validator(rows, part.follower, fastpath, policy, clock=part.clock, settings=settings, shared=shared)
    verifier = _verifier(settings, part, _in_own_feed(part, own) if own else _in_log(part, committer))
    if settings.security_compliance.disable_user_account_days_inactive:
        validator.active_until = verifier.active_until
    issuer = Issuer(
        part.overlay,
        part.follower,
        clock=part.clock,
        settings=settings,
        verifier=verifier,
        signatory=part.signatory if settings.token.provider == "jws" else None,
    )
    metrics.tell("tokens_beyond_signer", lambda: validator.beyond)
    metrics.tell("sealed_tokens_refused", lambda: validator.sealed)
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
        own_at=own_at,
        current=current,
    )
    fast = Confirmed(fastpath, part.follower, CONFIRMED_S) if current else fastpath
    return Door(engine, _web(settings, part, engine, fast, metrics, own_at), fastpath, metrics, validator, shared)


def _shapes(settings: Settings, part: Replica, issuer: Issuer, validator: Validator, verifier: Verifier) -> list[Shape]:
    """Everything that is answered, with what it needs."""
    model, deepest = _limit_model(settings), settings.default.max_project_tree_depth
    return [
        *discovery.SHAPES,
        *auth.shapes(
            issuer,
            validator,
            keep_s(settings),
            shown_s(settings),
            settings.token.revoked_singly,
            strict_chain=settings.token.strict_chain,
        ),
        *catalog.SHAPES,
        *endpoint_filter.SHAPES,
        *endpoint_policy.SHAPES,
        *limits.shapes(model),
        *simple_cert.SHAPES,
        *projects.shapes(deepest if model.depth is None else min(deepest, model.depth)),
        *identity.shapes(
            identity.Terms(
                settings.security_compliance, recipe(settings.identity), verifier, part.holder.name, keep_s(settings)
            )
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
        may_lack=part.follower.may_lack,
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
    repaired = repaired_at(settings.site.state_dir / REPAIRED)
    seal = Seal(secret, region=holder.name, cluster=holder.cluster)
    shared = SharedFacts(cache, seal, fastpath, part.follower, clock=part.clock, ttl_s=section.ttl_s, repaired=repaired)
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


def _web(
    settings: Settings, part: Replica, engine: Api, fastpath: Fast, metrics: Metrics, own_at: OwnFeed | None
) -> Web:
    follower = part.follower
    wait = Waiting(part.overlay, follower, part.clock, own_at)
    metrics.tell("waiting_for_position", lambda: len(wait.places))
    metrics.tell("waiting_refused", lambda: wait.places.refused)

    def knows() -> Known:
        return Known(follower.position, follower.age_s(), part.holder.seen.epoch)

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
        knows=knows,
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


async def look_after_keys(part: Replica) -> None:
    """See to it that the directories of keys hold what is in use, for ever."""
    follower = part.follower
    watching = look_after(list(follower.holders.values()), part.clock, follower.progressed)
    await asyncio.gather(watching, follow(part.holder, part.clock))


async def settle_again(part: Replica) -> None:
    """See to it that the files of signing keys are what they should be, for ever; tell what is held only then."""
    for number in itertools.count(1):
        await part.clock.sleep(SETTLE_S)
        thoroughly = number % _THOROUGHLY == 0
        if part.signatory is not None and await part.signatory.look_after(thoroughly=thoroughly):
            part.follower.progress()


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
