"""The part of docs/data-model.md that is about Cassandra: tables, partitions and their sizes, levels of consistency."""
# ruff: noqa: INP001, E501  a folder of pages, no package; rows of tables are long

from collections.abc import Iterable, Iterator
from typing import Any, get_type_hints

import msgspec

from regional_keystone.adapters.cassandra_log import EVERYWHERE
from regional_keystone.adapters.cassandra_schema import GRACE_S, RANGE, SHARDS, STONE_S, Copy, Form, Forms
from regional_keystone.record import Record, Table, encode

_OVERHEAD_BYTES = 40  # of a row on disk: timestamps, `at`, lengths
_BUCKETS = 16**3  # ids are hexadecimal
_USERS = 1_000_000
_ROWS = {
    "users": _USERS,
    "projects": _USERS // 10,
    "groups": _USERS // 100,
    "memberships": 2 * _USERS,
    "grants": 3 * _USERS,
    "revocations": _USERS // 10,
    "roles": 100,
    "implications": 100,
    "regions": 10,
    "services": 50,
    "endpoints": 1_500,
    "sites": 10,
    "rings": 2,
    "condemned": 20,
    "proposals": 10,
    "signing": 1,
    "signers": 1,
    "taken": 20,
    "outcomes": 10_000,
    "deletions": 10,
    "endpoint_groups": 20,
    "project_endpoints": _USERS // 100,
    "project_endpoint_groups": _USERS // 20,
    "policies": 50,
    "policy_associations": 100,
    "attempts": _USERS // 10,
    "domain_options": 5_000,
    "trusts": _USERS // 10,
    "application_credentials": _USERS // 5,
    "access_rules": _USERS // 10,
    "credentials": _USERS // 5,
    "consumers": 100,
    "access_tokens": 10_000,
    "identity_providers": 20,
    "federation_protocols": 40,
    "mappings": 40,
    "service_providers": 10,
    "federated_users": _USERS,
    "registered_limits": 200,
    "limits": _USERS // 10,
}
# rows with the same value of a field, of the value that has most
_MOST = {
    ("users", "domain_id"): _USERS // 2,
    ("users", "default_project_id"): 50_000,
    ("projects", "domain_id"): 50_000,
    ("projects", "parent_id"): 20_000,
    ("groups", "domain_id"): 5_000,
    ("projects", "name"): 100,
    ("users", "name"): 100,
    ("groups", "name"): 100,
    ("memberships", "group_id"): 20_000,
    ("grants", "target_id"): 20_000,
    ("grants", "role_id"): 2 * _USERS,
    ("endpoints", "service_id"): 30,
    ("endpoints", "region_id"): 150,
    ("roles", "domain_id"): 50,
    ("implications", "implied_role_id"): 20,
    ("regions", "parent_region_id"): 10,
    ("project_endpoints", "endpoint_id"): 5_000,
    ("project_endpoint_groups", "endpoint_group_id"): 20_000,
    ("policy_associations", "policy_id"): 50,
    ("policy_associations", "endpoint_id"): 1,
    ("policy_associations", "service_id"): 10,
    ("policy_associations", "region_id"): 50,
    ("trusts", "trustor_user_id"): 5_000,
    ("trusts", "trustee_user_id"): 20_000,
    ("trusts", "project_id"): 5_000,
    ("trusts", "redelegated_trust_id"): 100,
    ("application_credentials", "user_id"): 1_000,
    ("application_credentials", "project_id"): 5_000,
    ("access_rules", "user_id"): 1_000,
    ("credentials", "user_id"): 1_000,
    ("credentials", "project_id"): 5_000,
    ("access_tokens", "consumer_id"): 10_000,
    ("access_tokens", "authorizing_user_id"): 100,
    ("access_tokens", "project_id"): 1_000,
    ("identity_providers", "domain_id"): 5,
    ("federated_users", "unique_id"): 5,
    ("federated_users", "idp_id"): _USERS // 2,
    ("registered_limits", "service_id"): 50,
    ("registered_limits", "region_id"): 100,
    ("limits", "project_id"): 100,
    ("limits", "domain_id"): 100,
    ("limits", "registered_limit_id"): 10_000,
}
_RANDOM = "random"
_SPREAD = "a digest of the rest"
# of every table with more than one bucket: what its key begins with, and what a bucket holds besides one row for each
_BOUNDS = {
    "grants": (_RANDOM, "of an actor: a row for each role on each project, domain or system"),
    "project_endpoints": (_RANDOM, "of a project: as many as there are endpoints"),
    "project_endpoint_groups": (_RANDOM, "of a project: as many as there are groups of endpoints"),
    "trusts": (_RANDOM, ""),
    "application_credentials": (_RANDOM, ""),
    "access_rules": (_RANDOM, ""),
    "credentials": (f"{_RANDOM}; of EC2 a digest of the access key", ""),
    "federated_users": (_RANDOM, "of a user: what providers call it, a few"),
    "projects": (_RANDOM, ""),
    "users": (_RANDOM, ""),
    "groups": (_RANDOM, ""),
    "memberships": (_RANDOM, "of a user: its groups; how large a group is does not matter here"),
    "attempts": (_RANDOM, "of a user: one for each site that took a login, and one for the controllers"),
    "domain_options": (_RANDOM, "of a domain: at most one for each option that there is"),
    "limits": (_RANDOM, ""),
    "revocations": (f"{_RANDOM}; made by a site: {_SPREAD}", "stones of what was removed in a month"),
    "outcomes": (_SPREAD, "stones of what was removed in a month"),
}
_INTRODUCTION = f"""
## In Cassandra

Derived from the same facts by `adapters/cassandra_schema.py`. There is no secondary index, no materialised view and no
`ALLOW FILTERING`. Every table of rows is there once by its key and once more, whole, for every group: a `find` reads
one partition, of a group marked *wide* {SHARDS}. A table that stays small has one partition and no copies: a `find`
reads it whole and picks. Why: [16](adr/0016-stones-instead-of-deletes.md),
[17](adr/0017-buckets-and-shards.md).

All these tables have the columns `at`, the position of the entry that wrote the row, and `row`, its bytes as the log
carried them. Nothing is deleted: a removal writes a *stone*, `row` null, which fades after {STONE_S // 86400} days.
`gc_grace_seconds` is {GRACE_S // 86400} days. Every write names its timestamp: 2p + 1 for a row of position p, 2p for a stone.

- `bucket`: the first three characters of the key, so that buckets in their order are the rows in theirs; of a table
  that stays small, such as services and endpoints, all rows lie in one.
- `g`: the values of a group as msgpack, None included; what is over a kilobyte is replaced by its SHA-256.
- `shard`: CRC-32 of the key modulo {SHARDS}.

### Tables and partitions

Sizes at {_USERS:,} users, before compression: bytes of a row as computed from the record, rows of the largest partition
under the counts that `docs/cassandra_tables.py` assumes (half of all users in one domain, one role in two grants of
three, ids of hexadecimal digits).
"""
_BOUNDED = f"""
### What bounds a bucket

A bucket is the rows whose keys begin alike, and the stones of such rows for {STONE_S // 86400} days. With more than about 50,000 stones
in one partition Cassandra gives up reading it. So what begins the key of a table that grows has to be random. Where ids
have a meaning, `record.spread` puts eight digits of a digest of the id before it: whoever makes it, and however often,
it is the same id.

| Table | Key begins with | That is | What a bucket holds more of one of these |
| --- | --- | --- | --- |"""
_LOG = f"""
### The log

| Table | Partition | Rows in it | What |
| --- | --- | --- | --- |
| `log` | `feed`, `range` | {RANGE:,} | entries by `number`; `head`, static, is the last number of the range's batches |
| `own_<site>` | `feed`, `range` | {RANGE:,} | the same for one site's own feed, written by that site alone and read by all |
| `marks` | `feed` | 1 | `applied`: in the tables up to here; `pruned`: forgotten up to here; `restoring`; `heartbeat`: the controllers' |
| `ack_<site>` | `feed` | 1 | the same, of what a site has verified in its own data centre |
| `acknowledgements` | `part` | one a site | what each site has said last |
| `unknown_rows` | `table`, `shard` | what is unknown / {SHARDS} | rows of tables that this version does not know |
| `schema_version` | `part` | 1 | which version made the schema, which tables of rows every writer keeps, what new ones still lack, who changes it |

An append is one conditional batch in one partition: `head` moves from the old number to the new one, and the entries
come with it. A batch lies wholly in the range of its first number, so entry n is in the range of n or in the one before.
Batches of 100 entries of a kilobyte make partitions of 10 MB. Entries are forgotten by a range of rows; a `head` is
never removed, since an empty partition would give its numbers out again.

### Consistency of each statement

| Statement | By | Level | Why |
| --- | --- | --- | --- |
| append | controller | {EVERYWHERE.serial}, commit {EVERYWHERE.write} | one order of all data centres; any one of them may be lost |
| read back, `head` | controller | {EVERYWHERE.serial} | ends what was half done; a {EVERYWHERE.read} read would not see it |
| rows, copies, stones | controller | {EVERYWHERE.write} | a majority has them before the mark says so |
| `applied`, `pruned` | controller | {EVERYWHERE.write} | its timestamp is the position: the higher one stays |
| `get`, `find`, `scan`, `tail` | controller | {EVERYWHERE.read} | sees every acknowledged write |
| acknowledgements | controller | {EVERYWHERE.write} | any controller must see them; the time of the last one is read first and the next lies above it, so no clock that is ahead keeps it out |
| `get`, `find`, `scan`, `tail` | site | `read_consistency` | LOCAL_QUORUM, or LOCAL_ONE with one replica: no other data centre is needed |
| whether a row has arrived | site | `read_consistency` | nobody else can know what this data centre shows |
| what has not arrived after half a second | site | QUORUM, once | read repair brings it here; cut off, the site stays at the position it has |
| first start, and a snapshot | site | QUORUM, once | makes the data centre complete up to the mark |
| append to the own feed | site | LOCAL_SERIAL, commit LOCAL_QUORUM | must work while it is cut off; nobody else writes there |
| own feed, `ack_<site>` | site | LOCAL_QUORUM | likewise |
| another site's feed | site | `read_consistency` | what has arrived here; a hole is asked for at QUORUM, which brings it here |

That holds on nodes that are set to it (`commitlog_sync`, `paxos_variant`). A process asks the nodes of its local data
centre before it serves, and refuses when one is unsafe or none of them tells:
[operating](operate.md#the-schema-in-cassandra).
"""


def section(tables: Iterable[Table]) -> str:
    """All of it, from the facts of these records."""
    tables = tuple(tables)
    lines = [
        "| Table | Partition | Rows | Bytes a row | Rows in the largest partition | Its size |",
        "| --- | --- " * 3 + "|",
    ]
    for table in tables:
        lines += ["| " + " | ".join(cells) + " |" for cells in _lines(Forms(table))]
    return f"{_INTRODUCTION}\n" + "\n".join([*lines, _BOUNDED, *_bounds(tables)]) + f"\n{_LOG}".rstrip()


def _bounds(tables: Iterable[Table]) -> Iterator[str]:
    for table in tables:
        if not table.small:
            begins, holds = _BOUNDS[table.name]
            yield f"| `{table.name}` | `{table.key[0]}` | {begins} | {holds} |"


def _lines(forms: Forms) -> Iterator[tuple[str, ...]]:
    table, rows = forms.table, _ROWS[forms.table.name]
    sample = _sample(table)
    size = len(encode(sample)) + sum(len(str(one)) for one in table.key_of(sample)) + _OVERHEAD_BYTES
    yield _line(forms.base, rows, size, rows if table.small else max(1, rows // _BUCKETS), "")
    for copy in forms.copies:
        most = 1 if copy.group in table.unique else _MOST[table.name, copy.group[0]]
        yield _line(copy.form, rows, size, -(-most // SHARDS) if copy.wide else most, _wide(copy))


def _line(form: Form, rows: int, size: int, most: int, wide: str) -> tuple[str, ...]:
    partition = ", ".join(f"`{name}`" for name, _ in form.partition)
    return f"`{form.name}`", partition + wide, f"{rows:,}", str(size), f"{most:,}", _bytes(most * size)


def _wide(copy: Copy) -> str:
    return " (wide)" if copy.wide else ""


def _bytes(size: int) -> str:
    return f"{size / 1_000_000:.1f} MB" if size >= 100_000 else f"{max(1, size // 1000)} kB"


def _sample(table: Table) -> Record:
    """A record with something in every field."""
    hints = get_type_hints(table.kind)
    return table.kind(**{field.name: _value(str(hints[field.name])) for field in msgspec.structs.fields(table.kind)})


def _value(hint: str) -> Any:
    if "dict" in hint:
        return {}
    if "tuple" in hint:
        return ()
    if "bytes" in hint:
        return b"x" * 300
    if "bool" in hint:
        return True
    if "int" in hint:
        return 1_700_000_000_000_000
    return "x" * 32
