"""Revocations, and the records by which the federation of regions runs itself.

Source: keystone/revoke/backends/sql.py for the former.
"""

from typing import Annotated

import msgspec

from regional_keystone.record import SECRET, Id, Record, table


@table("revocations")
class RevocationEvent(Record, frozen=True, kw_only=True):
    """Upstream's revocation event: tokens issued up to `issued_before` whose traits equal every field set are void.

    Instants are microseconds since 1970 UTC. Kept until `keep_until`, when no token it covers can be accepted.
    With `issued_from`, which upstream does not have, tokens issued in that second or later, and `issued_before` is 0.
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
    issued_from: int | None = None


@table("sites", small=True)
class Site(Record, frozen=True, kw_only=True):
    """A region's site as the controllers know it. `id` is its region's name.

    `join_instance` is the instance that used the join token: only it may use it again, after a lost answer.
    `tls_key`: the SHA-256 of the public key that joined, by which the site can prove itself without a certificate.
    States: `invited` (a join token is out), `active`, `quarantined` (rotation no longer waits for it), `removed`.
    `drained`: it seals no tokens; `by_operator`: an operator quarantined it and takes it back. `why` tells of either.
    `left_in`: the epochs of the rings when it was removed; keys that are newer it never had. Of `signing` as well, if
    it signed its tokens then.
    """

    id: Id
    state: str
    join_digest: Annotated[str | None, SECRET] = None
    join_expires_at: int | None = None
    join_instance: str | None = None
    instance: str | None = None
    box_key: bytes | None = None
    tls_key: str | None = None
    since: int = 0
    drained: bool = False
    by_operator: bool = False
    why: str = ""
    left_in: dict[str, int] = {}


class KeyTimes(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When a key became what; microseconds since 1970 UTC, 0 for not yet or not known.

    From `seal_until` on nobody can seal with a former primary, from `keep_until` on nothing that it sealed is accepted
    anywhere. Both are fixed when it ceases, by the most that was promised while it was the primary: `isolation_us`, how
    long who hears nothing may seal with it, `lifetime_us`, how long a token may live, and `allow_expired_us`, how long
    after that it may be shown. `staged_in`, `primary_in` and `ceased_in` are the epochs of the rings that made it so.
    """

    staged_at: int = 0
    primary_at: int = 0
    ceased_at: int = 0
    seal_until: int = 0
    keep_until: int = 0
    retired_at: int = 0
    isolation_us: int = 0
    lifetime_us: int = 0
    allow_expired_us: int = 0
    staged_in: int = 0
    primary_in: int = 0
    ceased_in: int = 0


@table("rings", small=True)
class Ring(Record, frozen=True, kw_only=True):
    """A key ring as it stands: who holds which bundle of it. No key is in it in clear.

    `checks` are key check values, by number; `times` tells of the same keys, `retired` of the last that are gone, by
    check value. `sealed_at` is later than `turned_at` when the same keys were sealed again: for a new site, or before
    bundles age. `lifetime_us` is how long a token may live that is sealed with it, 0 where nothing is said.
    `lineage`: the fingerprints of the epochs before this one, newest first.
    Before `settles_at` nobody seals with the primary: it was never staged, so there may be sites that do not hold it.
    """

    id: Id
    epoch: int
    fingerprint: str
    checks: dict[int, str]
    sealed: dict[str, bytes]
    turned_at: int
    sealed_at: int = 0
    times: dict[int, KeyTimes] = {}
    retired: dict[str, KeyTimes] = {}
    lifetime_us: int = 0
    lineage: tuple[str, ...] = ()
    settles_at: int = 0


@table("condemned", small=True)
class Condemned(Record, frozen=True, kw_only=True):
    """A key that may be in other hands: whatever it sealed is refused from now on, and it seals nothing any more.

    `id` is the key's, `ring` where it was; `place` is the site at which it was condemned, empty for a controller;
    `by` who did it there, and `confirmed_by` the second of two people. It never becomes untrue and is never removed.
    """

    id: Id
    ring: str
    at: int
    by: str
    why: str = ""
    place: str = ""
    confirmed_by: str = ""


@table("proposals", small=True)
class Proposal(Record, frozen=True, kw_only=True):
    """What one person wants to be done about stolen keys and another has to confirm; `keys` are key id -> ring.

    `by` and `confirmed_by` are ids of users who proved who they are. It can be confirmed once, before `expires_at`.
    Where `all` keys are meant, or those of a `site` (with `rings` the shared ones too), that is what is done at the
    confirmation; `removes` the site as well.
    """

    id: Id
    keys: dict[str, str]
    site: str = ""
    all: bool = False
    rings: bool = False
    removes: bool = False
    by: str
    at: int
    expires_at: int
    why: str = ""
    confirmed_by: str = ""
    confirmed_at: int = 0


class SigningKey(msgspec.Struct, frozen=True, kw_only=True):
    """The public half of a key that signs tokens, and its life. `owner` is a site's name, or a controller's.

    `epoch` is that of the record in which it came: who holds that or a later one holds it. `signs_from`: since when it
    may sign, None until every site holds it; `keep_until`: when, long after it has ceased, nothing it signed can live.
    That is fixed when it ceases, by the most that was promised while it signed: `isolation_us`, `lifetime_us` and
    `allow_expired_us`, as in KeyTimes.
    """

    owner: str
    public: bytes
    epoch: int
    offered_at: int
    signs_from: int | None = None
    ceased_at: int | None = None
    keep_until: int | None = None
    isolation_us: int = 0
    lifetime_us: int = 0
    allow_expired_us: int = 0


class MaySign(msgspec.Struct, frozen=True, kw_only=True):
    """What an owner of a signing key may sign tokens for. `domains` None: any."""

    domains: tuple[str, ...] | None = None
    system: bool = False


@table("signing", small=True)
class Signing(Record, frozen=True, kw_only=True):
    """Who signs tokens, with which keys, for what: one row. `keys` by id; `may` by owner, where one was told.

    `renew` tells by owner when it was asked last to make itself a new key. `refuses_sealed`: tokens that were sealed,
    with keys that all sites have, are worth nothing; `sealed_told_at` is when that, or its end, was said last.
    """

    id: Id
    epoch: int
    keys: dict[str, SigningKey] = {}
    may: dict[str, MaySign] = {}
    renew: dict[str, int] = {}
    refuses_sealed: bool = False
    sealed_told_at: int = 0


@table("signers", small=True)
class SignerChain(Record, frozen=True, kw_only=True):
    """Whose signatures on bundles of rings count: all statements that there were, each signed by an older signer."""

    id: Id
    number: int
    chain: tuple[bytes, ...]


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
