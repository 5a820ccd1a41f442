"""Revocations, and the records by which the federation of regions runs itself.

Source: keystone/revoke/backends/sql.py for the former.
"""

from typing import Annotated

from regional_keystone.record import SECRET, Id, Record, table


@table("revocations")
class RevocationEvent(Record, frozen=True, kw_only=True):
    """Upstream's revocation event: tokens issued up to `issued_before` whose traits equal every field set are void.

    Instants are microseconds since 1970 UTC. Kept until `keep_until`, when no token it covers can be accepted.
    `id` is random, or `spread` from the place in a site's own feed where it was made.
    """

    id: str
    issued_before: int
    revoked_at: int
    keep_until: int
    user_id: str | None = None
    domain_id: str | None = None
    project_id: str | None = None
    role_id: str | None = None
    trust_id: str | None = None
    consumer_id: str | None = None
    access_token_id: str | None = None
    audit_id: str | None = None
    audit_chain_id: str | None = None
    expires_at: int | None = None


@table("sites", small=True)
class Site(Record, frozen=True, kw_only=True):
    """A region's site as the controllers know it. `id` is its region's name.

    `join_instance` is the instance that used the join token: only it may use it again, after a lost answer.
    States: `invited` (a join token is out), `active`, `quarantined` (rotation no longer waits for it), `removed`.
    """

    id: Id
    state: str
    join_digest: Annotated[str | None, SECRET] = None
    join_expires_at: int | None = None
    join_instance: str | None = None
    instance: str | None = None
    box_key: bytes | None = None
    since: int = 0


@table("rings", small=True)
class Ring(Record, frozen=True, kw_only=True):
    """A key ring as it stands: who holds which bundle of it. No key is in it in clear.

    `ceased` tells when a former primary sealed its last token, by key number; `checks` are key check values.
    `sealed_at` is later than `turned_at` when the same keys were sealed again: for a new site, or before bundles age.
    """

    id: Id
    epoch: int
    fingerprint: str
    checks: dict[int, str]
    sealed: dict[str, bytes]
    turned_at: int
    sealed_at: int = 0
    ceased: dict[int, int] = {}


@table("taken", key="feed", small=True)
class Taken(Record, frozen=True, kw_only=True):
    """How far a site's own feed has been taken over into the log."""

    feed: str
    number: int


@table("outcomes")
class Outcome(Record, frozen=True, kw_only=True):
    """What a forwarded change was answered, so that its retry after a lost answer finds it instead of doing it twice.

    `id` is `spread` from the request's. `request_digest` binds it to what was asked; `answer` is a `messages.Response`,
    sealed so that only the same request opens it (`api/outcomes.py`).
    """

    id: str
    request_digest: bytes
    answer: Annotated[bytes, SECRET]
    at: int


@table("deletions", small=True)
class Deletion(Record, frozen=True, kw_only=True):
    """What still refers to a row that is gone, because it was too much for one transaction; taken away in steps.

    `id` is `table/key` of that row, which nobody may use again meanwhile. `removed` rows went so far. `voids`: members
    of a group that goes lose their tokens, because it gave them roles.
    """

    id: str
    table: str
    key: str
    began_at: int
    removed: int = 0
    voids: bool = True
