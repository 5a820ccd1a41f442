"""The only file that names concrete adapters: opens stores, caches, locks and clocks by what is configured.

What is not configured is not imported.
"""

import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import structlog

from regional_keystone import durable
from regional_keystone import model as _model  # declares the tables of every store
from regional_keystone.adapters.local import LocalLock, LocalWake, SystemClock
from regional_keystone.adapters.memcached import Memcached
from regional_keystone.adapters.sqlite import Sqlite
from regional_keystone.adapters.token_cache import TokenCache
from regional_keystone.drift import Drifting, Levelling
from regional_keystone.errors import StoreDamaged, StoreRefused, Unavailable
from regional_keystone.freshness import Heartbeat
from regional_keystone.log import LOG
from regional_keystone.ports import Cache, Clock, Lock, Wake, Writer
from regional_keystone.record import TABLES
from regional_keystone.settings import Cassandra, ConfigurationError, Settings

if TYPE_CHECKING:
    from regional_keystone.adapters import cassandra_driver as _driver
    from regional_keystone.adapters import cassandra_safety as _safety
    from regional_keystone.adapters.zookeeper import ZooKeeper

    CassandraDriver: TypeAlias = _driver.Driver
    Counters: TypeAlias = _driver.Counters
    Finding: TypeAlias = _safety.Finding

log = structlog.get_logger("backends")

_SCRATCH = "scratch-"
_AGAIN_S = 1.0
_LEAVE_S = 2.0  # how long a controller leaves it to another to project what that one has appended


def system_clock() -> Clock:
    """The machine's clock."""
    return SystemClock()


def local_lock() -> Lock:
    """A lock for one controller."""
    return LocalLock()


async def zookeeper(hosts: Collection[str], **options: Any) -> "ZooKeeper":
    """Lock and wake of several controllers; servers that are away are waited for by whoever needs them."""
    from regional_keystone.adapters.zookeeper import ZooKeeper  # noqa: PLC0415  with one controller it is not used

    return await ZooKeeper.open(list(hosts), **options)


def local_wake() -> Wake:
    """Nobody to tell and nobody to hear."""
    return LocalWake()


@contextmanager
def only_user(state: Path) -> Iterator[None]:
    """Be the only process on this state directory; the kernel frees it however we end. Raises StoreRefused."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(durable.locked(state))
        except BlockingIOError:
            cure = "end it, or give this one a state directory of its own"
            raise StoreRefused(f"{state}: another process serves from it; {cure}") from None
        yield


async def open_store(path: Path, *, rebuild: bool = False, only_reads: bool = False) -> Writer:
    """The store in this file. With `rebuild`, a damaged one is moved aside, loudly, and begun anew.

    With `only_reads`, one that another process has open and writes.
    """
    if only_reads:
        return await Sqlite.open(path, only_reads=True)
    try:
        return await Sqlite.open(path)
    except StoreDamaged as error:
        if not rebuild:
            raise
        log.error(
            "replica_damaged", why=str(error), kept_as=str(_moved_aside(path)), now="rebuilding it from a controller"
        )
        return await Sqlite.open(path)


async def open_log(settings: Settings, clock: Clock, *, repeat: bool = False, waits: bool = True) -> Writer:
    """A controller's store: in the cluster that is configured, else a file of its own.

    With `repeat`, one whose restoring was broken off as well; with `waits`, as soon as the cluster answers.
    Raises StoreRefused or Unavailable.
    """
    state = settings.site.state_dir
    if not settings.cassandra.contact_points:
        return await open_store(state / "log.db")
    from regional_keystone.adapters.cassandra import Cassandra as Store  # noqa: PLC0415

    scratch = _scratch(state)
    opened = partial(Store.open, clock=clock, scratch=scratch, repeat=repeat, leave_s=_LEAVE_S)
    return await _opened(settings, clock, opened, waits=waits)


async def open_replica(settings: Settings, clock: Clock, site: str, *, only_reads: bool = False) -> Writer:
    """A site's store: its data centre in the cluster that is configured, else a file of its own.

    With `only_reads`, for a worker of the process that keeps it. Raises StoreRefused or Unavailable.
    """
    state = settings.site.state_dir
    if not settings.cassandra.contact_points:
        return await open_store(state / "replica.db", rebuild=not only_reads, only_reads=only_reads)
    from regional_keystone.adapters.cassandra import CassandraReplica  # noqa: PLC0415

    scratch = _scratch(state, tidy=not only_reads)
    level = settings.cassandra.read_consistency
    replica = partial(CassandraReplica.open, site=site, level=level, clock=clock, scratch=scratch)
    return await _opened(settings, clock, replica, writes=False)


def cassandra_counters(store: Writer) -> "Counters | None":
    """What this store's session with a cluster counts; None for a file."""
    return getattr(store, "counters", None)


def store_heartbeat(store: Writer) -> Heartbeat | None:
    """The controllers' heartbeat in this store; None for a file, which they do not write."""
    return getattr(store, "heartbeat", None)


def drifting(store: Writer) -> Drifting | None:
    """How rows lie in this store, where several write them; None for a file."""
    return getattr(store, "drift", None)


def levelling(store: Writer) -> Levelling | None:
    """A data centre's part of a store that several have; None for a file."""
    return getattr(store, "here", None)


async def _opened(
    settings: Settings,
    clock: Clock,
    open_: Callable[["CassandraDriver"], Awaitable[Writer]],
    *,
    waits: bool = True,
    writes: bool = True,
) -> Writer:
    """The store. With `waits`, of a process that may be started before the cluster, or while it is away."""
    while True:
        try:
            driver = await safe_cassandra_driver(settings.cassandra, writes=writes)
            try:
                return await open_(driver)
            except BaseException:
                await driver.close()
                raise
        except Unavailable as error:
            if not waits:
                raise
            log.warning("waiting_for_cassandra", why=error.message)
        await clock.sleep(_AGAIN_S)


def _scratch(state: Path, *, tidy: bool = True) -> Callable[[], Any]:
    """Makes empty stores for a while, in the state directory: what is in them is as secret as what lies there.

    With `tidy` those of former lives are removed first, which is for the process to do that has the directory.
    """

    @asynccontextmanager
    async def scratch() -> AsyncIterator[Writer]:
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=state, ignore_cleanup_errors=True) as directory:
            store = await Sqlite.open(Path(directory) / "rows.db")
            try:
                yield store
            finally:
                await store.close()

    for left in state.glob(f"{_SCRATCH}*") if tidy else ():  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    return scratch


def region_cache(settings: Settings) -> Cache | None:
    """The region's cache; None without servers. Raises ConfigurationError."""
    if not settings.memcached.servers:
        return None
    try:
        return Memcached(settings.memcached)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"[memcached] {error}") from None


def token_caches(settings: Settings) -> list[TokenCache]:
    """Every memcached of the region's services. Raises ConfigurationError."""
    section = settings.middleware_cache
    try:
        return [TokenCache(one, section.timeout_s, section.tls_ca) for one in dict.fromkeys(section.servers)]
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"[middleware_cache] {error}") from None


def _moved_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.damaged-{uuid.uuid4().hex[:8]}")
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.rename(aside)
    return aside


class CassandraSchema(NamedTuple):
    """What this version wants in a cluster: name -> definition of the tables of all, and of those of one site."""

    version: int
    oldest: int  # of the programs that may go on beside this version
    state: str
    copies: str  # the part of the state that names the tables of rows which every writer keeps
    unfilled: str  # begins the parts of the state that name records which new tables lack
    tables: Mapping[str, str]
    records: Mapping[str, str]  # table of rows -> the records that are in it
    site_tables: Callable[[str], Mapping[str, str]]
    ack_table: Callable[[str], str]
    own_table: Callable[[str], str]


def cassandra_schema() -> CassandraSchema:
    """The schema that `rkctl db sync` makes."""
    from regional_keystone.adapters import cassandra_schema as schema  # noqa: PLC0415  slow to import, and often unused

    tables = schema.definitions(TABLES)
    records = {form.name: name for name, forms in schema.forms_of(TABLES).items() for form in forms.all}
    version, state = schema.VERSION, schema.SCHEMA_VERSION
    return CassandraSchema(
        version,
        version,
        state,
        schema.COPIES,
        schema.UNFILLED,
        tables,
        records,
        schema.site_definitions,
        schema.ack_table,
        schema.own_table,
    )


async def fill_cassandra(
    driver: "CassandraDriver", clock: Clock, name: str, tell: Callable[[int], Awaitable[None]], *, settle: bool
) -> tuple[int, bool]:
    """Fill what is new of these records from the rows that are there: how many, and whether the log stood still.

    If it did not, a controller that does not know what is new may have left something out. See `Cassandra.complete`.
    """
    from regional_keystone.adapters.cassandra import Cassandra as Store  # noqa: PLC0415

    store = await Store.open(driver, clock=clock, scratch=_no_scratch, repeat=True)
    before = await store.head(LOG)
    count = await store.complete({name}, tell, settle=settle)
    return count, await store.head(LOG) == before


async def cassandra_untaken(driver: "CassandraDriver", clock: Clock, site: str) -> int:
    """How many entries of this site's own feeds the log has not taken over."""
    from regional_keystone.adapters.cassandra import Cassandra as Store  # noqa: PLC0415
    from regional_keystone.adapters.cassandra_log import heads  # noqa: PLC0415

    store = await Store.open(driver, clock=clock, scratch=_no_scratch, repeat=True)
    untaken = 0
    for feed, head in (await heads(driver, site)).items():
        taken = await store.get(_model.Taken, feed)
        untaken += max(head - (taken.number if taken else 0), 0)
    return untaken


async def forget_cassandra(driver: "CassandraDriver", site: str) -> int:
    """Forget how far this site's data centre was complete, and return it. Raises Unavailable."""
    from regional_keystone.adapters import cassandra_log  # noqa: PLC0415

    return await cassandra_log.forget_mark(driver, site)


def _no_scratch() -> Any:
    raise StoreRefused("nothing is restored here")


async def cassandra_driver(section: Cassandra, *, keyspace: bool = True) -> "CassandraDriver":
    """A session with the cluster that is configured. Raises StoreRefused, naming the cure, or Unavailable."""
    from regional_keystone.adapters.cassandra_driver import Driver  # noqa: PLC0415

    return await Driver.open(section, keyspace=keyspace)


async def cassandra_findings(driver: "CassandraDriver", section: Cassandra) -> "list[Finding]":
    """Whether the cluster can keep what is promised on it. Raises Unavailable."""
    from regional_keystone.adapters import cassandra_safety  # noqa: PLC0415

    return await cassandra_safety.examine(driver, section)


async def safe_cassandra_driver(section: Cassandra, *, writes: bool = True) -> "CassandraDriver":
    """As `cassandra_driver`, for serving. Raises StoreRefused for a cluster that can lose what was acknowledged.

    And, for one that `writes` log and tables, where it would leave out what others rely on.
    """
    from regional_keystone.adapters import cassandra_safety  # noqa: PLC0415

    driver = await cassandra_driver(section)
    try:
        for finding in cassandra_safety.refuse(await cassandra_safety.examine(driver, section)):
            log.warning("cassandra_unsafe", check=finding.check, why=finding.detail, cure=finding.cure)
        await cassandra_safety.check_version(driver, cassandra_schema().records.keys(), writes=writes)
    except BaseException:
        await driver.close()
        raise
    return driver


async def cassandra_replicas(driver: "CassandraDriver", keyspace: str) -> Mapping[str, int] | None:
    """How many replicas each data centre has; None when there is no such keyspace."""
    from regional_keystone.adapters import cassandra_safety  # noqa: PLC0415

    return await cassandra_safety.replicas(driver, keyspace)


async def cassandra_misplaced(driver: "CassandraDriver", section: Cassandra) -> "Finding | None":
    """Whether replicas are others than the setting says. Raises StoreRefused for a setting that says nothing."""
    from regional_keystone.adapters import cassandra_safety  # noqa: PLC0415

    return await cassandra_safety.misplaced(driver, section)


def cassandra_wanted_replicas(section: Cassandra) -> Mapping[str, int]:
    """[cassandra] replication as numbers. Raises StoreRefused for what is none."""
    from regional_keystone.adapters import cassandra_safety  # noqa: PLC0415

    return cassandra_safety.wanted_replicas(section)
