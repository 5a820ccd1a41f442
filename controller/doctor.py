"""Whether what is configured is there and can be relied on: a list of checks, each with its cure."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from cryptography import x509

from controller import ask
from controller.authority import issuing, lent
from controller.caches import unreached
from controller.db import database
from controller.settings import Settings as ControllerSettings
from controller.turn_checks import turn_checks
from regional_keystone import backends, exposure
from regional_keystone.enrol import Identity
from regional_keystone.errors import StoreRefused, Unavailable
from regional_keystone.followed import Followed
from regional_keystone.key_directory import examine as examine_keys
from regional_keystone.key_files import Damage, KeyRepositoryError, is_there
from regional_keystone.middleware_cache import strategies
from regional_keystone.settings import Cassandra, ConfigurationError, Settings
from regional_keystone.signing import directories
from regional_keystone.signing_files import CURRENT, NEXT, load_private

_REACH_S = 2.0
_PROBE = "doctor"
_SOON_S = 180 * 86400
OK, WARN, FAIL = "OK", "WARN", "FAIL"


class Check(NamedTuple):
    """One thing that was looked at; `state` is OK, WARN or FAIL."""

    check: str
    state: str
    detail: str
    cure: str = ""


async def examine(settings: Settings, services: Iterable[Path] = ()) -> list[Check]:
    """Every check that these settings call for; nothing is changed.

    `services`: configurations of services of the region, whose caches are looked for.
    """
    found = [Check("settings", OK, "every option is known"), _state(settings)]
    found += [*_rights(settings), *_key_directories(settings), *_certificates(settings)]
    if settings.cassandra.contact_points:
        found += [one async for one in _cassandra(settings)]
    else:
        found.append(Check("cassandra", OK, "not configured: records lie in a file"))
    if isinstance(settings, ControllerSettings) and settings.cassandra.contact_points:
        found.append(_drift(settings))
    for server in settings.memcached.servers:
        alone = dataclasses.replace(settings.memcached, servers=(server,))
        found.append(await _memcached(dataclasses.replace(settings, memcached=alone)))
    if isinstance(settings, ControllerSettings):
        found += [
            await _reached("zookeeper", host, "start it, or correct [zookeeper] hosts")
            for host in settings.zookeeper.hosts
        ]
        found += await asyncio.to_thread(lambda: [*_turns(settings.site.state_dir)])
    cure = "start it, or correct [middleware_cache] servers; what lies there is deleted when it is back"
    found += [await _reached("middleware_cache", server, cure) for server in settings.middleware_cache.servers]
    return [*found, *await asyncio.to_thread(lambda: [*_caches(settings, services)])]


def _caches(settings: Settings, services: Iterable[Path]) -> Iterator[Check]:
    """Whether a site with these settings can delete what each of these services keeps."""
    section, check = settings.middleware_cache, "service"
    try:
        known = strategies(section)
    except (ConfigurationError, StoreRefused) as error:
        yield Check("middleware_cache", FAIL, str(error), "correct [middleware_cache] strategies")
        return
    identity = Identity(settings.site.state_dir / "identity")
    region = identity.membership().name if identity.directory.exists() and identity.joined else None
    for file in services:
        try:
            found = unreached(file, section, known, region)
        except ValueError as error:
            yield Check(check, FAIL, f"{file}: {error}", "name a configuration of a service")
            continue
        if found is None:
            cure = "name the file that has its [keystone_authtoken]"
            yield Check(check, WARN, f"{file} says nothing of what the middleware keeps", cure)
        elif not found:
            yield Check(check, OK, f"{file}: what it keeps is deleted when a token ends")
        for one in found or ():
            yield Check(check, WARN, f"{file}: {one.why}", one.cure)


def _state(settings: Settings) -> Check:
    place = settings.site.state_dir
    if not place.exists():
        return Check("state", OK, f"{place} is made at the first start")
    if not place.is_dir():
        return Check("state", FAIL, f"{place} is no directory", "name another in [site] state_dir")
    return Check("state", OK, str(place))


def _rights(settings: Settings) -> list[Check]:
    """What a server would not start with."""
    found = [Check("rights", FAIL, f"{one.path}: {one.why}", one.cure) for one in exposure.exposed(settings)]
    return found or [Check("rights", OK, "nobody else reaches keys and secrets, or changes what is believed")]


def _key_directories(settings: Settings) -> Iterator[Check]:
    """What is wrong with the directories of keys; nothing where all is well or nothing is there yet."""
    keys, state, check = settings.keys, settings.site.state_dir, "keys"
    own = (keys.directory, "fernet-keys"), (keys.credential_directory, "credential-keys")
    for named, name in (*own, (keys.receipt_directory, "receipt-keys")):
        for one in _damage(named or state / name):
            cure = one.cure or "nothing to do while the process runs: it is written again from the controllers' ring"
            yield Check(check, FAIL if one.cure else WARN, f"{one.file}: {one.what}", cure)
    if settings.token.provider == "jws":
        yield from _signing_keys(directories(settings)[0], check)
    if keys.follow is not None:
        followed = Followed(keys.follow, keys.follow_seals, logs=False)
        followed.read()
        if followed.problem:
            what, _, cure = followed.problem.partition("; mend it: ")
            yield Check(check, FAIL, what, cure or "copy it once more from where Keystone turns it")


def _signing_keys(directory: Path, check: str) -> Iterator[Check]:
    for name in (CURRENT, NEXT):
        try:
            load_private(directory, name)
        except KeyRepositoryError as error:
            what, _, cure = str(error).partition("; mend it: ")
            yield Check(check, FAIL, what, cure or "let the process read it")


def _damage(directory: Path) -> Iterable[Damage]:
    try:
        return examine_keys(directory).damage if is_there(directory) else ()
    except KeyRepositoryError as error:
        return (error.damage or Damage(directory, str(error)),)


def _certificates(settings: Settings) -> list[Check]:
    """Whether each that is kept here is good for some time; they renew themselves, except for the CA's."""
    state = settings.site.state_dir
    places = {state / "identity" / "tls.crt": "start the site and let it reach a controller: it renews it by itself"}
    if isinstance(settings, ControllerSettings):
        authority = lent() or settings.controller.authority_dir or state / "authority"
        places = {
            issuing(authority): "turn it before it ends: `rkctl authority rotate --ca`",
            state / "stream.crt": "start the controller: it renews it by itself",
        }
    now = backends.system_clock().now()
    return [_certificate(path, now, cure) for path, cure in places.items() if path.exists()]


def _certificate(path: Path, now: int, cure: str) -> Check:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        return Check("certificate", FAIL, f"{path}: {error}", "put it back from a backup")
    begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    left_s = ends - now / 1_000_000
    until = f"{path}: until {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if left_s <= 0:
        return Check("certificate", FAIL, f"{until}, it has ended", cure)
    if left_s < min((ends - begins) / 4, _SOON_S):
        return Check("certificate", WARN, f"{until}, that is soon", cure)
    return Check("certificate", OK, until)


def _turns(state: Path) -> Iterator[Check]:
    """Whether the keys turn as they should; nothing where no controller runs that could be asked."""
    check = "turns"
    try:
        status = ask.admin(state / "admin.sock", "/keys/status", timeout_s=10.0)
    except ask.Absent:
        return
    except (ask.Unanswered, ask.Refusal) as error:
        yield Check(check, WARN, str(error), "look as the user who runs the controller, and at its log")
        return
    for finding in turn_checks(status):
        yield Check(check, *finding)


async def _cassandra(settings: Settings) -> AsyncIterator[Check]:
    """Connection, cluster, schema; each as far as the one before allows. What nodes are set to needs no keyspace."""
    section = settings.cassandra
    try:
        driver = await backends.cassandra_driver(section, keyspace=False)
    except StoreRefused as error:
        yield _refused("cassandra", error)
        return
    except Unavailable as error:
        yield Check("cassandra", FAIL, error.message, "start its nodes, or correct [cassandra] contact_points")
        return
    try:
        nodes = [node for node in driver.nodes() if node.data_centre == driver.data_centre]
        up = sum(bool(node.up) for node in nodes)
        state = OK if up == len(nodes) else WARN
        yield Check("cassandra", state, f"{up} of {len(nodes)} nodes of {driver.data_centre} can be reached")
        for finding in await backends.cassandra_findings(driver, section):
            yield Check(*finding)
        placed = isinstance(settings, ControllerSettings)  # nobody else is told where replicas are to be
        if placed and (misplaced := await backends.cassandra_misplaced(driver, section)):
            yield Check(*misplaced)
        yield await _schema(section)
    except StoreRefused as error:
        yield Check("replication", FAIL, str(error), "correct the setting")
    except Unavailable as error:
        yield Check("cassandra", FAIL, error.message, "see the nodes' logs")
    finally:
        await driver.close()


def _drift(settings: ControllerSettings) -> Check:
    """What the running controller says of rows that no entry made so."""
    try:
        found = ask.admin(settings.site.state_dir / "admin.sock", "/status", timeout_s=_REACH_S).get("drift") or {}
    except (ask.Unanswered, ask.Refusal) as error:
        return Check("drift", OK, f"not looked at: {error}")
    rows = "rows in Cassandra that no entry of the log made as they are"
    if found.get("waiting"):
        cure = "find out who wrote them; `rkctl db repair --dry-run` shows them, `rkctl db repair` puts them right"
        return Check("drift", FAIL, f"{found['waiting']} {rows}: too many to be put right unasked", cure)
    if found.get("unmended"):
        cure = "docs/operate.md, A row that drifted: the log does not reach back to what they were"
        return Check("drift", WARN, f"{found['unmended']} {rows}, and nothing tells what they should be", cure)
    if found.get("read_at") is None:
        return Check("drift", OK, "not looked at: no reading has ended at this controller yet, or another one reads")
    return Check("drift", OK, f"{found['rows']} rows and copies read, {sum(found['found'].values())} ever put right")


async def _schema(section: Cassandra) -> Check:
    """Whether the keyspace is there and of our version. Raises Unavailable."""
    try:
        async with database(section, backends.system_clock(), lambda _: None) as opened:
            found = await opened.find()
    except StoreRefused as error:
        return _refused("schema", error)
    if found.is_current:
        return Check("schema", OK, f"version {found.version}")
    lacking = f"{len(found.differences)} differences from version {found.expected}"
    return Check("schema", FAIL, f"version {found.version or 'none'}, {lacking}", "run `rkctl db sync`")


def _refused(check: str, error: StoreRefused) -> Check:
    what, _, cure = str(error).partition("; ")
    return Check(check, FAIL, what, cure)


async def _memcached(settings: Settings) -> Check:
    """Whether the server keeps what it is given: a miss is all that a cache ever shows."""
    (server,) = settings.memcached.servers
    cure = "start it, or correct [memcached] servers; until then its share of answers is made anew each time"
    try:
        cache = backends.region_cache(settings)
        if cache is None:
            return Check("memcached", OK, "not configured")
    except ConfigurationError as error:
        return Check("memcached", FAIL, str(error), cure)
    try:
        await cache.set_many({_PROBE: b"1"}, 10.0)
        kept = (await cache.get_many([_PROBE])).get(_PROBE) == b"1"
    finally:
        await cache.close()
    return Check("memcached", OK, server) if kept else Check("memcached", WARN, f"{server} keeps nothing", cure)


async def _reached(check: str, server: str, cure: str) -> Check:
    host, _, port = server.rpartition(":")
    try:
        async with asyncio.timeout(_REACH_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.close()
    except (OSError, ValueError) as error:
        return Check(check, WARN, f"{server}: {getattr(error, 'strerror', None) or 'no answer'}", cure)
    return Check(check, OK, server)
