"""The sections of the settings: frozen dataclasses with a default, a meaning and bounds for every option.

Apart from settings, which reads them from files and the environment. Names are upstream's where it has them.
"""
# ruff: noqa: RUF009  `option` is `dataclasses.field` with its facts

import dataclasses
from pathlib import Path
from typing import Any

from regional_keystone.token import DEFAULT_METHODS

HASH_ROUNDS = {"bcrypt": (4, 31), "bcrypt_sha256": (4, 31), "scrypt": (1, 31), "pbkdf2_sha512": (1, 2**32 - 1)}
"""Algorithms for passwords, and what `password_hash_rounds` can be."""
PROVIDERS = ("fernet", "jws")
"""How tokens are made."""
SCRYPT_MEMORY_BYTES = 512 * 1024 * 1024
"""What one scrypt may use; a hash that asks for more opens for nobody."""


def option(default: Any, help: str, *, least: float | None = None, most: float | None = None) -> Any:  # noqa: A002
    """One option: its default, what it means, and its bounds."""
    return dataclasses.field(default=default, metadata={"help": help, "least": least, "most": most})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Default:
    """[DEFAULT]: what every program of this kind has."""

    debug: bool = option(False, "Log what is only of interest while looking for a fault.")  # noqa: FBT003
    log_json: bool = option(False, "One JSON object a line instead of text for people.")  # noqa: FBT003
    list_limit: int | None = option(None, "Rows of a list when no limit is asked; empty: all.", least=1)
    max_db_limit: int = option(1000, "Rows of a list at most; also of users, groups, projects and domains.", least=1)
    max_project_tree_depth: int = option(5, "How deep projects may lie below their domain.", least=1, most=100)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """[site]: where this process keeps its state, and whom it belongs to."""

    state_dir: Path = option(Path("state"), "Directory, mode 0700, of the replica, the keys and the certificate.")
    join_token_file: Path | None = option(None, "File, mode 0600, with the one-time token of `rkctl region add`.")
    controllers: tuple[str, ...] = option((), "Stream addresses, https://host:port; empty: those of the join token.")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """[listen]: where the Identity API and the status are served."""

    host: str = option("127.0.0.1", "Address of the public API.")
    port: int = option(5000, "Port of the public API.", least=1, most=65535)
    tls_cert: Path | None = option(None, "Certificate chain in PEM. Needed on any address but loopback.")
    tls_key: Path | None = option(None, "The certificate's private key, mode 0600.")
    trusted_proxies: tuple[str, ...] = option(
        (),
        "Addresses or networks of proxies that speak TLS for us; their X-Forwarded headers are believed, or Forwarded.",
    )
    public_endpoint: str = option("", "Base of the links in answers, without /v3. Empty: as the client asked.")
    admin_host: str = option("127.0.0.1", "Address of /metrics, /status and the health checks.")
    admin_port: int = option(5001, "Port of /metrics, /status and the health checks.", least=1, most=65535)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """[token]: how long tokens live, as upstream's section of this name."""

    provider: str = option("fernet", f"Whether tokens are sealed or signed: {', '.join(PROVIDERS)}. Both are read.")
    expiration: int = option(3600, "Seconds until a token expires.", least=1)
    allow_expired_window: int = option(172800, "Seconds after expiry in which allow_expired still shows it.", least=0)
    strict_chain: bool = option(
        False,  # noqa: FBT003
        "Whether revoking a token that was made from another also voids all of its chain from its second on.",
    )
    allow_rescope_scoped_token: bool = option(True, "Whether a scoped token may be exchanged for another scope.")  # noqa: FBT003
    revoked_singly: int = option(
        10_000, "Own tokens that a user may revoke one by one while that is kept; then all go at once. 0: any.", least=0
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JwtTokens:
    """[jwt_tokens]: the keys of provider jws, as upstream's section of this name."""

    jws_private_key_repository: Path | None = option(
        None, "Directory of the private key, which never leaves it; default: jws-keys/private in state_dir."
    )
    jws_public_key_repository: Path | None = option(
        None, "Directory of everybody's public keys, kept for a Keystone; default: jws-keys/public in state_dir."
    )
    trusted_public_key_repository: Path | None = option(
        None, "Public keys of Keystones outside the federation whose tokens are taken as well, in a migration."
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Auth:
    """[auth]: which proofs are taken."""

    methods: tuple[str, ...] = option(
        DEFAULT_METHODS, "Names of the accepted methods; their order numbers them in tokens."
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """[identity]: passwords."""

    password_hash_algorithm: str = option("bcrypt", f"How new hashes are made: {', '.join(HASH_ROUNDS)}.")
    password_hash_rounds: int | None = option(
        None, "Cost of new hashes; empty: 12 for bcrypt, 16 for scrypt (powers of two both), 60000 for pbkdf2_sha512."
    )
    scrypt_block_size: int = option(8, "The `r` of scrypt.", least=1)
    scrypt_parallelism: int = option(1, "The `p` of scrypt.", least=1)
    salt_bytesize: int = option(16, "Bytes of salt in scrypt and pbkdf2_sha512; 0: 16.", least=0, most=96)
    list_limit: int | None = option(None, "As list_limit in [DEFAULT], for users and groups.", least=1)
    max_password_length: int = option(4096, "Bytes of the longest password that can be set.", least=1, most=4096)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SecurityCompliance:
    """[security_compliance]: rules for accounts and passwords; each is off where its option is empty or 0."""

    lockout_failure_attempts: int | None = option(None, "Failed logins, in all regions, that lock a user out.", least=1)
    lockout_duration: int | None = option(
        1800,
        "Seconds that a lock lasts from the last failure; empty: until an administrator changes the user.",
        least=1,
    )
    disable_user_account_days_inactive: int | None = option(
        None, "Days without a login after which a user counts as disabled.", least=1
    )
    change_password_upon_first_use: bool = option(
        False,  # noqa: FBT003
        "Whether a password that an administrator sets opens nothing but its own change.",
    )
    password_expires_days: int | None = option(None, "Days until a password that is set from now on expires.", least=1)
    unique_last_password_count: int = option(0, "A user's new password differs from so many before it.", least=0)
    minimum_password_age: int = option(0, "Days that a user's own new password stays before it changes again.", least=0)
    password_regex: str = option("", "What a new password has to match from its beginning.")
    password_regex_description: str = option("", "The same in words, for who is refused.")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """[keys]: the rings that tokens, auth receipts and the secrets of credentials are sealed with."""

    directory: Path | None = option(None, "Key repository in upstream's layout; default: fernet-keys in state_dir.")
    credential_directory: Path | None = option(None, "The same for credentials; default: credential-keys in state_dir.")
    receipt_directory: Path | None = option(None, "The same for auth receipts; default: receipt-keys in state_dir.")
    follow: Path | None = option(None, "Directory that a Keystone turns, whose keys are used as well; for a migration.")
    follow_seals: bool = option(True, "Whether its primary key seals tokens; else its keys only open them.")  # noqa: FBT003
    rotation_interval: int = option(0, "Seconds between rotations; 0: only when asked.", least=0)
    max_active_keys: int = option(0, "Keys that a ring is expected to have at most; 0: as many as it takes.", least=0)
    acknowledge_deadline_s: float = option(60.0, "A site that holds up a rotation longer is quarantined.", least=4)
    isolation_s: float = option(
        259_200.0,
        "A site cut off longer stops issuing; keys are kept for as long. The controllers' counts, not a site's.",
        least=1,
    )
    two_person: bool = option(False, "Whether `rkctl keys compromised` takes two people.")  # noqa: FBT003


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """[freshness]: how old a site's knowledge may be for a token of each scope; 0: until the token expires."""

    system: float = option(30.0, "Seconds for system-scoped tokens.", least=0)
    domain: float = option(0.0, "Seconds for domain-scoped tokens.", least=0)
    project: float = option(0.0, "Seconds for project-scoped tokens.", least=0)
    unscoped: float = option(0.0, "Seconds for tokens without a scope.", least=0)
    skew_s: float = option(2.0, "A site whose clock differs by more says so loudly.", least=0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """[limits]: what a request may cost."""

    body_bytes: int = option(114688, "Size of a request's body.", least=1)
    connections: int = option(1000, "Open connections.", least=1)
    connections_per_peer: int = option(100, "Open connections from one address that is no trusted proxy.", least=1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """[policy]: who may do what."""

    file: Path | None = option(None, "policy.yaml with rules in place of defaults; `rkctl policy check` reads it.")
    list_limit: int | None = option(None, "As list_limit in [DEFAULT], for policies.", least=1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """[resource]: domains and projects."""

    list_limit: int | None = option(None, "As list_limit in [DEFAULT], for domains and projects.", least=1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """[role]: roles."""

    list_limit: int | None = option(None, "As list_limit in [DEFAULT], for roles.", least=1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """[catalog]: regions, services and endpoints."""

    list_limit: int | None = option(None, "As list_limit in [DEFAULT], for regions, services, endpoints.", least=1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """[cors]: pages of other origins that may call the API from a browser, in oslo.middleware's names."""

    allowed_origin: tuple[str, ...] = option((), "Origins, scheme://host[:port]; empty: none; *: any.")
    allow_credentials: bool = option(True, "Whether browsers may send credentials.")  # noqa: FBT003
    expose_headers: tuple[str, ...] = option(
        ("X-Auth-Token", "X-Openstack-Request-Id", "X-Subject-Token", "Openstack-Auth-Receipt"),
        "Headers of answers that a page may read.",
    )
    max_age: int = option(3600, "Seconds for which a browser remembers a permission.", least=0)
    allow_methods: tuple[str, ...] = option(("GET", "PUT", "POST", "DELETE", "PATCH"), "Methods that a page may use.")
    allow_headers: tuple[str, ...] = option(
        (
            "X-Auth-Token",
            "X-Openstack-Request-Id",
            "X-Subject-Token",
            "X-Project-Id",
            "X-Project-Name",
            "X-Project-Domain-Id",
            "X-Project-Domain-Name",
            "X-Domain-Id",
            "X-Domain-Name",
            "Openstack-Auth-Receipt",
        ),
        "Headers that a page may send.",
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EndpointFilter:
    """[endpoint_filter]: which endpoints the catalog of a project has."""

    return_all_endpoints_if_no_filter: bool = option(
        True,  # noqa: FBT003
        "Whether a catalog for which nothing is chosen has all endpoints; else it has none.",
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UnifiedLimit:
    """[unified_limit]: limits of projects and domains."""

    enforcement_model: str = option(
        "flat", "How limits relate: flat, or strict_two_level (no project's above its domain's)."
    )
    list_limit: int | None = option(None, "As list_limit in [DEFAULT], for limits and registered limits.", least=1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """[trust]: what users let others do for them."""

    max_redelegation_count: int = option(3, "How many trusts may follow from one another.", least=0, most=99)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """[credential]: secrets of other protocols, EC2 keys among them."""

    user_limit: int = option(-1, "Credentials that a user may have; -1: any number.", least=-1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationCredential:
    """[application_credential]: what programs log in with."""

    user_limit: int = option(-1, "Application credentials that a user may have; -1: any number.", least=-1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Convergence:
    """[convergence]: whether rows are what the log made them; see docs/operate.md, A row that drifted."""

    interval_s: float = option(30.0, "Seconds from one comparison of replicas to the next; 0: never.", least=0)
    share: float = option(0.2, "How much of one processor's time reading may take; more rows take longer.", least=0.01)
    rows_per_s: int = option(10_000, "Rows of Cassandra, copies counted, that one process reads for it.", least=1)
    most_mended: int = option(100, "Rows of Cassandra that are put right at once unasked; more wait.", least=0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fastpath:
    """[fastpath]: remembered verdicts."""

    entries: int = option(100_000, "Verdicts kept in memory.", least=0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """[log]: the log of all changes."""

    retention_s: int = option(604_800, "Seconds that entries are kept after every site has applied them.", least=0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cassandra:
    """[cassandra]: the cluster that holds log and tables; without contact points they lie in a file each."""

    contact_points: tuple[str, ...] = option(
        (), "Addresses of nodes of this data centre; [database] cassandra_node_ips."
    )
    port: int = option(9042, "Port of CQL.", least=1, most=65535)
    local_data_centre: str = option("dc1", "The data centre of this process, the only one that a site reads.")
    keyspace: str = option("regional_keystone", "Keyspace of all tables.")
    replication: tuple[str, ...] = option(("dc1:1",), "name:replicas of each data centre, for `rkctl db sync`.")
    username: str = option("", "User of the cluster; empty: none is asked for.")
    password_file: Path | None = option(None, "File, mode 0600, with the user's password.")
    tls_ca: Path | None = option(None, "CA of the nodes' certificates in PEM; turns on TLS with host check.")
    tls_cert: Path | None = option(None, "Own certificate chain in PEM, if the nodes ask for one.")
    tls_key: Path | None = option(None, "The own certificate's private key, mode 0600.")
    connect_timeout_s: float = option(2.0, "Seconds until a node that does not answer is given up.", least=0.1, most=9)
    request_timeout_s: float = option(2.5, "Seconds until a statement that is not answered is.", least=0.1, most=9)
    read_consistency: str = option("LOCAL_QUORUM", "Of a site's reads; LOCAL_ONE suits one replica per data centre.")
    allow_unsafe: bool = option(False, "Serve although the cluster's settings can lose what was acknowledged.")  # noqa: FBT003


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Memcached:
    """[memcached]: the region's cache, shared by all its processes; without servers each remembers for itself."""

    servers: tuple[str, ...] = option((), "host:port of each, the same list in every process of the region.")
    timeout_s: float = option(0.05, "Seconds after which an answer is no longer waited for.", least=0.001, most=5)
    ttl_s: float = option(300.0, "Seconds that an entry is kept at most.", least=1)
    secret_file: Path | None = option(None, "Secret of the region, mode 0600; default: cache.secret in state_dir.")
    tls_ca: Path | None = option(None, "CA of the servers' certificates in PEM; turns on TLS with host check.")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MiddlewareCache:
    """[middleware_cache]: where services' keystonemiddleware keeps our answers, to delete what no longer holds."""

    servers: tuple[str, ...] = option((), "Their memcached_servers, host:port of each; empty: nothing is deleted.")
    strategies: tuple[str, ...] = option(
        ("none",), "Their memcache_security_strategy: none, MAC:FILE, ENCRYPT:FILE; FILE: memcache_secret_key, 0600."
    )
    token_cache_time: float = option(300.0, "The longest token_cache_time of any of them, in seconds.", least=1)
    in_flight_s: float = option(5.0, "Seconds after which is deleted again what was under way.", least=0.1, most=600)
    entries: int = option(100_000, "Tokens remembered; of more the oldest are forgotten, loudly.", least=1)
    timeout_s: float = option(1.0, "Seconds after which a server that does not answer is tried again.", least=0.01)
    tls_ca: Path | None = option(None, "CA of the servers' certificates in PEM; turns on TLS with host check.")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """[workers]: how many processes serve a site's port."""

    processes: int = option(1, "Processes that answer at the same port.", least=1, most=64)
