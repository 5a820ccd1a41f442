"""Whether a Cassandra cluster can keep what is promised on it: what its nodes are set to, and where replicas lie.

Every finding says what is wrong and what to do. Source: docs/operate.md
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from regional_keystone.adapters.cassandra_connect import Refused
from regional_keystone.adapters.cassandra_driver import Driver
from regional_keystone.adapters.cassandra_schema import COPIES, SCHEMA_VERSION, UNFILLED, VERSION, quoted, replication
from regional_keystone.errors import StoreRefused, Unavailable
from regional_keystone.settings import Cassandra, is_loopback

OK, WARN, FAIL = "OK", "WARN", "FAIL"
_SAFE = {  # setting of each node: (values that keep the promise, what the others do, cure)
    "commitlog_sync": (
        ("batch", "group"),
        "loses what was acknowledged when all replicas are killed together",
        "set commitlog_sync: batch (or group) in cassandra.yaml of each node, one after another",
    ),
    "paxos_variant": (
        ("v2",),
        "leaves outcomes unknown under contention, or lets serial reads be stale",
        "set paxos_variant: v2 and paxos_state_purging: repaired in cassandra.yaml, and repair paxos regularly",
    ),
}


class Finding(NamedTuple):
    """What one check has found; `state` is OK, WARN or FAIL."""

    check: str
    state: str
    detail: str
    cure: str = ""


async def examine(driver: Driver, section: Cassandra) -> list[Finding]:
    """All findings about the cluster and, where there is one, our keyspace. Raises Unavailable."""
    known = {node.data_centre for node in driver.nodes() if node.data_centre}
    found = [*await _settings(driver), *_placed(section, known)]
    there = await replicas(driver, section.keyspace)
    if there is not None:
        found += _keyspace(section, there, known)
    found += _logins(section, await replicas(driver, "system_auth") or {}, known)
    return [_allowed(finding) if section.allow_unsafe else finding for finding in found]


def refuse(findings: list[Finding]) -> list[Finding]:
    """What is to be warned of. Raises StoreRefused when anything fails."""
    failed = [f"{one.check}: {one.detail}; {one.cure}" for one in findings if one.state == FAIL]
    if failed:
        raise StoreRefused(" | ".join(failed))
    return [one for one in findings if one.state == WARN]


async def check_version(driver: Driver, known: Collection[str], *, writes: bool) -> None:
    """Raise StoreRefused unless the schema is one that this program can work with, and may.

    It knows these tables of rows. One that `writes` has to know all that are kept: others miss what it leaves out.
    """
    wanted = f"SELECT part, version, state FROM {SCHEMA_VERSION}"  # noqa: S608  a name of ours
    there = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?"
    if not await driver.run(there, (driver.keyspace, SCHEMA_VERSION), consistency="ONE"):
        raise StoreRefused(f"keyspace {driver.keyspace} has no tables; run `rkctl db sync`")
    try:
        rows = await _state(driver, wanted, everywhere=writes)
    except Refused as error:
        raise StoreRefused(error.message) from None
    found = {part: version for part, version, _ in rows}
    version, oldest = found.get("version") or 0, found.get("oldest") or 0
    if version < VERSION:
        raise StoreRefused(f"keyspace {driver.keyspace} has schema {version} of {VERSION}; run `rkctl db sync`")
    if oldest > VERSION:
        raise StoreRefused(f"keyspace {driver.keyspace} needs programs of schema {oldest}, this one knows {VERSION}")
    if any(state and part.startswith(UNFILLED) for part, _, state in rows):
        raise StoreRefused(f"keyspace {driver.keyspace} has new tables without their rows; run `rkctl db sync` again")
    kept = next((state for part, _, state in rows if part == COPIES), None)
    if kept is not None:  # a version that did not say it yet made the schema
        _check_copies(driver.keyspace, set(kept.split()), set(known), writes=writes)


async def _state(driver: Driver, cql: str, *, everywhere: bool) -> list[tuple[Any, ...]]:
    """Of the majority for who writes; cut off from it nothing can be written either."""
    if everywhere:
        with suppress(Unavailable):
            return await driver.run(cql, consistency="QUORUM")
    return await driver.run(cql, consistency="LOCAL_ONE")


def _check_copies(keyspace: str, kept: set[str], known: set[str], *, writes: bool) -> None:
    if writes and (unknown := sorted(kept - known)):
        cure = "use the newer program, or go back by `rkctl db sync --back` once all controllers have ended"
        raise StoreRefused(f"keyspace {keyspace} keeps {', '.join(unknown)}, which this program leaves out; {cure}")
    if lacking := sorted(known - kept):
        raise StoreRefused(f"keyspace {keyspace} does not keep {', '.join(lacking)} yet; run `rkctl db sync`")


async def replicas(driver: Driver, keyspace: str) -> dict[str, int] | None:
    """How many replicas of a keyspace each data centre has, "" for any; None when there is no such keyspace."""
    wanted = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?"
    rows = await driver.run(wanted, (keyspace,), consistency="ONE")
    if not rows:
        return None
    shown = dict(rows[0][0])
    if shown.pop("class").endswith("NetworkTopologyStrategy"):
        return {name: int(number.partition("/")[0]) for name, number in shown.items()}
    return {"": int(shown.get("replication_factor", 1))}


async def misplaced(driver: Driver, section: Cassandra) -> Finding | None:
    """Where the keyspace's replicas are not those of the setting, which is never changed in passing."""
    there, wanted = await replicas(driver, section.keyspace), wanted_replicas(section)
    if there is None or there == wanted:
        return None
    shown = ", ".join(f"{name or 'anywhere'}:{number}" for name, number in there.items())
    said = ", ".join(f"{name}:{number}" for name, number in wanted.items())
    alter = f"ALTER KEYSPACE {quoted(section.keyspace)} WITH replication = {replication(wanted)}"
    repair = f"at once `nodetool repair --full {section.keyspace}` on each node, before anybody relies on new replicas"
    cure = f"correct the setting, or as a user of the cluster who may: {alter}; then {repair}"
    return Finding("replication", WARN, f"the keyspace has {shown}, [cassandra] replication says {said}", cure)


def wanted_replicas(section: Cassandra) -> dict[str, int]:
    """[cassandra] replication as numbers. Raises StoreRefused for what is none."""
    found: dict[str, int] = {}
    for one in section.replication:
        name, _, number = one.strip().rpartition(":")
        if not (name and number.isdecimal() and int(number)):
            raise StoreRefused(f"[cassandra] replication = {one}: write name:replicas, at least 1, of each data centre")
        found[name] = int(number)
    if not found:
        raise StoreRefused("[cassandra] replication is empty: write name:replicas of each data centre")
    return found


async def _settings(driver: Driver) -> list[Finding]:
    found: list[Finding] = []
    for name, (safe, risk, cure) in _SAFE.items():
        asked = f"SELECT value FROM system_views.settings WHERE name = '{name}'"  # noqa: S608  a name of ours
        answers = await driver.run_on_each(asked)
        unread = {
            address: rows.message if isinstance(rows, Unavailable) else "it has no such setting"
            for address, rows in answers.items()
            if not rows or isinstance(rows, Unavailable)
        }
        values = {
            address: rows[0][0] for address, rows in answers.items() if not isinstance(rows, Unavailable) and rows
        }
        wrong = {address: value for address, value in values.items() if value not in safe}
        if wrong:
            said = ", ".join(f"{value} on {address}" for address, value in wrong.items())
            found.append(Finding(name, FAIL, f"{said} {risk}", cure))
        elif values:
            found.append(Finding(name, OK, ", ".join(sorted(set(values.values())))))
        if unread or not answers:
            said = ", ".join(f"{address}: {why}" for address, why in unread.items()) or "any node of the data centre"
            grant = "start those nodes; if it is the right that lacks, GRANT SELECT ON system_views.settings"
            found.append(Finding(name, WARN if values else FAIL, f"not known of {said}", grant))
    return found


def _placed(section: Cassandra, known: set[str]) -> Iterator[Finding]:
    addresses = [point for point in section.contact_points if not is_loopback(point)]
    if section.username and addresses and section.tls_ca is None:
        yield Finding("tls", WARN, "the password crosses the network in clear", "set [cassandra] tls_ca")
    if section.local_data_centre in known:
        yield Finding("data centres", OK, ", ".join(sorted(known)))


def _keyspace(section: Cassandra, there: Mapping[str, int], known: set[str]) -> Iterator[Finding]:
    """Whether our replicas can carry a quorum of all, and reads of the local data centre."""
    check, local = "replication", section.local_data_centre
    shown = ", ".join(f"{name or 'anywhere'}:{number}" for name, number in there.items())
    alter = f"ALTER KEYSPACE {section.keyspace} WITH replication = {{'class': 'NetworkTopologyStrategy', ...}}, repair"
    if "" in there:
        yield Finding(check, FAIL, f"{shown} does not say in which data centre a replica lies", alter)
        return
    if absent := sorted(set(there) - known):
        yield Finding(check, FAIL, f"no node is in {', '.join(absent)}, which {shown} names", alter)
    if not there.get(local):
        yield Finding(check, FAIL, f"{shown}: the local data centre {local} has no replica", alter)
    elif there[local] > 1 and section.read_consistency in {"LOCAL_ONE", "ONE"}:
        why = f"read_consistency = {section.read_consistency} with {there[local]} replicas in {local} reads stale ones"
        yield Finding("read consistency", FAIL, why, "set [cassandra] read_consistency = LOCAL_QUORUM")
    if even := [name for name, number in there.items() if number == 2]:
        why = f"{', '.join(even)} with 2 replicas cannot lose one for LOCAL_QUORUM"
        yield Finding(check, WARN, why, "use 1 or 3 replicas in each data centre")
    quorum, largest = sum(there.values()) // 2 + 1, max(there.values(), default=0)
    if sum(there.values()) - largest < quorum:
        why = f"{shown}: QUORUM ({quorum} of {sum(there.values())}) does not survive the loss of one data centre"
        yield Finding(check, WARN, why, "use three data centres with equally many replicas")
    else:
        yield Finding(check, OK, shown)


def _logins(section: Cassandra, there: Mapping[str, int], known: set[str]) -> Iterator[Finding]:
    if not section.username:
        return
    local, check = section.local_data_centre, "system_auth"
    alter = "ALTER KEYSPACE system_auth with a replica in each data centre, then `nodetool repair system_auth`"
    if "" in there and len(known) == 1 and there[""] > 1:
        yield Finding(check, OK, f"{there['']} replicas")
    elif "" in there:
        why = f"roles have {there['']} replica(s) anywhere: when those are out of reach, nobody can log in"
        yield Finding(check, WARN if len(known) == 1 else FAIL, why, alter)
    elif local not in there:
        yield Finding(check, FAIL, f"{local} has no replica of the roles: cut off, nobody can log in there", alter)
    elif missing := sorted(known - set(there)):
        yield Finding(check, WARN, f"{', '.join(missing)} has no replica of the roles", alter)
    else:
        yield Finding(check, OK, "roles are in every data centre")


def _allowed(finding: Finding) -> Finding:
    """With allow_unsafe everything is told and nothing refused."""
    return finding._replace(state=WARN) if finding.state == FAIL else finding
