"""How a session with Cassandra begins, and what its failures say: TLS, login, profiles, refusals with their cures.

Names the libev reactor, because the driver takes whichever it finds. Blocking: `cassandra_driver` calls it on a thread.
Source: https://docs.datastax.com/en/developer/python-driver/latest/
"""

import ssl
from collections.abc import Iterable, Mapping
from logging import CRITICAL, getLogger
from pathlib import Path
from typing import Any

from cassandra import (
    AuthenticationFailed,
    ConsistencyLevel,
    DependencyException,
    DriverException,
    InvalidRequest,
    OperationTimedOut,
    ReadTimeout,
    RequestExecutionException,
    RequestValidationException,
    Unauthorized,
    WriteTimeout,
)
from cassandra import Unavailable as TooFewReplicas

from regional_keystone import secret_file
from regional_keystone.errors import StoreRefused, Unavailable
from regional_keystone.settings import Cassandra

no_libev = ""
try:  # one without the other dies at import, and the cure belongs to whoever configured Cassandra
    from cassandra.auth import PlainTextAuthProvider
    from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable, ResultSet
    from cassandra.connection import ConnectionException
    from cassandra.io.libevreactor import LibevConnection
    from cassandra.policies import (
        ConstantReconnectionPolicy,
        DCAwareRoundRobinPolicy,
        FallthroughRetryPolicy,
        TokenAwarePolicy,
    )
    from cassandra.protocol import ErrorMessage
    from cassandra.query import SimpleStatement, dict_factory, tuple_factory
except (ImportError, DependencyException) as missing:
    no_libev = str(missing).partition(".")[0]
    LibevConnection, ConnectionException = object, OSError
    NoHostAvailable = ErrorMessage = ConnectionException


RECONNECT_S = 0.5
_HEARTBEAT_S = 2.0  # a silent node of several is given up soon after


class Missed(Exception):
    """No answer within our own deadline."""


class Refused(Unavailable):
    """The cluster understood and will not: a right or a table is missing, and to try again is of no use."""


class _LoginRefused(ConnectionException):  # type: ignore[misc]
    """As AuthenticationFailed, after which the driver would never try again; a node that starts refuses for a while."""


class _Connection(LibevConnection):  # type: ignore[misc]
    """The libev reactor, named: the driver would otherwise take whichever it finds."""

    @classmethod
    def factory(cls, *args: Any, **kwargs: Any) -> Any:
        """A ready connection."""
        try:
            return super().factory(*args, **kwargs)
        except AuthenticationFailed as error:
            raise _LoginRefused(str(error)) from None


def connect(section: Cassandra, keyspace: bool) -> tuple[Any, Any]:  # noqa: FBT001
    """(cluster, session) within the local data centre. Raises StoreRefused, naming the cure, or Unavailable."""
    if not section.contact_points:
        raise StoreRefused("[cassandra] contact_points is empty: name nodes of the local data centre")
    if no_libev:
        cure = "install cassandra-driver from its wheel, or libev and a C compiler and build it again"
        raise StoreRefused(f"the Cassandra driver has no libev event loop here ({no_libev}); {cure}")
    getLogger("cassandra").setLevel(CRITICAL)  # it prints traces of what is told here in one line
    level(section.read_consistency)
    given = {"auth_provider": _login(section), "ssl_context": _tls(section)}
    cluster: Any = None
    try:
        cluster = _cluster(section, given)
        session = cluster.connect()
        if keyspace:
            _use(session, section)
    except DRIVERS as error:
        refusal = _refused_at_open(error, section, cluster.metadata.all_hosts() if cluster else [])
        _end(cluster)
        raise refusal from None
    except StoreRefused:
        _end(cluster)
        raise
    return cluster, session


def next_page(sent: Any, rows: Any) -> Any:
    """Where the rows of this response go on; None where they do not."""
    return ResultSet(sent, rows).paging_state if sent.has_more_pages else None


def explained(error: Any, data_centre: str) -> tuple[str, str]:
    """(kind, sentence) of any failure that the driver tells."""
    match error:
        case Missed() | OperationTimedOut():
            return "deadline", "The store did not answer in time."
        case NoHostAvailable() | ConnectionException() | OSError():
            return "unreachable", f"No node of data centre {data_centre} can be reached."
        case TooFewReplicas():
            level = ConsistencyLevel.value_to_name.get(error.consistency, "?")
            return "replicas", f"{error.alive_replicas} of {error.required_replicas} replicas are up for {level}."
        case WriteTimeout() | ReadTimeout():
            level = ConsistencyLevel.value_to_name.get(error.consistency, "?")
            got = f"{error.received_responses} of {error.required_responses}"
            kind = "write_timeout" if isinstance(error, WriteTimeout) else "read_timeout"
            return kind, f"{got} replicas answered in time for {level}."
        case Unauthorized() if "Unable to perform" in str(error):
            return "rights", "The store cannot look up now what its user may do."
        case Unauthorized():
            return "unauthorized", f"The store's user lacks a right: {said(error)}; `rkctl db roles` gives them."
        case InvalidRequest() | RequestValidationException():
            return "invalid", f"The store refuses a statement: {said(error)}; `rkctl db check` compares its schema."
        case _:
            return "failure", f"The store failed: {type(error).__name__}."


def _cluster(section: Cassandra, given: Mapping[str, Any]) -> Any:
    return Cluster(
        contact_points=section.contact_points,
        port=section.port,
        protocol_version=4,  # unknown outcomes are WriteTimeout in it
        connection_class=_Connection,
        execution_profiles=_profiles(section),
        reconnection_policy=ConstantReconnectionPolicy(RECONNECT_S, max_attempts=None),
        connect_timeout=section.connect_timeout_s,
        control_connection_timeout=section.request_timeout_s,
        idle_heartbeat_interval=_HEARTBEAT_S,
        idle_heartbeat_timeout=max(_HEARTBEAT_S, section.request_timeout_s),
        schema_metadata_enabled=False,
        max_schema_agreement_wait=0,  # `agreed` waits once, for many
        monitor_reporting_enabled=False,
        **given,
    )


def _end(cluster: Any) -> None:
    if cluster:
        cluster.shutdown()


def _profiles(section: Cassandra) -> Mapping[Any, Any]:
    policy = TokenAwarePolicy(DCAwareRoundRobinPolicy(local_dc=section.local_data_centre))

    def profile(row_factory: Any) -> Any:
        return ExecutionProfile(
            load_balancing_policy=policy,
            retry_policy=FallthroughRetryPolicy(),
            consistency_level=ConsistencyLevel.LOCAL_QUORUM,
            request_timeout=section.request_timeout_s,
            row_factory=row_factory,
        )

    rows = profile(tuple_factory)
    return {EXEC_PROFILE_DEFAULT: rows, "rows": rows, "decisions": profile(dict_factory)}


def _use(session: Any, section: Cassandra) -> None:
    """Every pool of the session in the keyspace, and its replicas known, by which statements find their nodes."""
    name = section.keyspace
    known = "SELECT keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = %s"
    if not session.execute(SimpleStatement(known, consistency_level=ConsistencyLevel.ONE), (name,)).one():
        raise StoreRefused(f"there is no keyspace {name} in this cluster; run `rkctl db sync`")
    session.set_keyspace(name)
    session.cluster.refresh_keyspace_metadata(name)


def _refused_at_open(error: Any, section: Cassandra, hosts: Iterable[Any]) -> Exception:
    causes = list(error.errors.values()) if isinstance(getattr(error, "errors", None), dict) else []
    login = next((str(one) for one in (error, *causes) if isinstance(one, _LoginRefused)), "")
    looked_up = "Unable to perform" not in login  # its roles may be out of reach
    if login and section.username and looked_up:
        given = f"username and the password in {section.password_file}"
        return StoreRefused(f"the cluster does not let {section.username} in: check [cassandra] {given}")
    if "requires authentication" in str(error) + str(causes):
        return StoreRefused("the cluster asks who we are: set [cassandra] username and password_file")
    known = {host.datacenter for host in hosts if host.datacenter}
    if known and section.local_data_centre not in known:
        there = ", ".join(sorted(known))
        return StoreRefused(
            f"[cassandra] local_data_centre = {section.local_data_centre}: the cluster has {there}; set one of them"
        )
    cause = next((text.rpartition("Last error: ")[2] for text in map(str, causes)), "")
    _, why = explained(error, section.local_data_centre)
    why = f"TLS: {cause}." if section.tls_ca and "SSL" in cause + str(causes) else f"{why} {cause}".strip()
    return Unavailable(f"{', '.join(section.contact_points)} port {section.port}: {why}")


def said(error: Any) -> str:
    """The server's own words of the driver's sentence."""
    return str(error).partition('message="')[2].rpartition('"')[0] or str(error)


def level(name: str) -> int:
    """The number of a consistency level. Raises StoreRefused for a name that is none."""
    try:
        return int(ConsistencyLevel.name_to_value[name])
    except KeyError:
        known = ", ".join(ConsistencyLevel.name_to_value)
        raise StoreRefused(f"{name} is no consistency level; there are {known}") from None


def _login(section: Cassandra) -> Any:
    if not section.username:
        return None
    if section.password_file is None:
        raise StoreRefused("[cassandra] username is set: name the file with the password in password_file")
    password = secret_file.read(section.password_file, "password")
    if not password:
        raise StoreRefused(f"{section.password_file} is empty; write the password into it")
    return PlainTextAuthProvider(section.username, password)


def _tls(section: Cassandra) -> ssl.SSLContext | None:
    """The host's name is checked, as each node's address, against its certificate."""
    if section.tls_ca is None:
        return None
    place: Path = section.tls_ca
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=section.tls_ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if section.tls_cert:
            place = section.tls_cert
            if section.tls_key:
                secret_file.read(section.tls_key, "key")
            context.load_cert_chain(section.tls_cert, section.tls_key)
    except OSError as error:
        raise StoreRefused(f"{place}: {error.strerror or 'no PEM that can be used'}") from None
    return context


FROM_SERVER = (RequestExecutionException, RequestValidationException, ErrorMessage)
DRIVERS = (DriverException, NoHostAvailable, ConnectionException, ErrorMessage, OSError)
