"""What a small Cassandra node is started with: its configuration files and its command line (Java 17)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CQL_PORT, STORAGE_PORT = 9042, 7000
FOLDERS = ("conf", "data", "commitlog", "hints", "saved_caches", "cdc_raw", "scratch", "log")
_NOT_OURS = ("osx", "windows", "riscv64")  # native libraries of other machines

_YAML = """\
cluster_name: {cluster}
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: GossipingPropertyFileSnitch
num_tokens: 1
initial_token: {token}
auto_bootstrap: false
seed_provider: [{{class_name: org.apache.cassandra.locator.SimpleSeedProvider, parameters: [{{seeds: "{seeds}"}}]}}]
listen_address: {address}
rpc_address: {address}
storage_port: 7000
native_transport_port: 9042
start_native_transport: true
data_file_directories: ["{folder}/data"]
commitlog_directory: "{folder}/commitlog"
hints_directory: "{folder}/hints"
saved_caches_directory: "{folder}/saved_caches"
cdc_raw_directory: "{folder}/cdc_raw"
commitlog_sync: batch  # periodic loses acknowledged writes when all replicas fail at once
commitlog_segment_size: 8MiB
commitlog_total_space: 64MiB
commitlog_disk_access_mode: legacy
memtable_heap_space: 64MiB
memtable_offheap_space: 32MiB
memtable_allocation_type: heap_buffers
file_cache_size: 32MiB
networking_cache_size: 16MiB
key_cache_size: 2MiB
row_cache_size: 0MiB
counter_cache_size: 0MiB
disk_access_mode: standard
auto_snapshot: false
cdc_enabled: false
concurrent_reads: 8
concurrent_writes: 8
concurrent_counter_writes: 2
concurrent_materialized_view_writes: 2
concurrent_compactors: 1
native_transport_max_threads: 16
paxos_variant: v2
authenticator: PasswordAuthenticator
authorizer: CassandraAuthorizer
role_manager: CassandraRoleManager
"""
_IMPATIENT = """\
phi_convict_threshold: 5
write_request_timeout: 1s
read_request_timeout: 1s
cas_contention_timeout: 1s
"""
_TLS = """\
client_encryption_options:
  enabled: true
  optional: true  # both kinds of clients at one port
  require_client_auth: false
  ssl_context_factory: {{class_name: org.apache.cassandra.security.PEMBasedSslContextFactory}}
  keystore: "{pem}"
"""
_LOGBACK = """\
<configuration>
  <appender name="FILE" class="ch.qos.logback.core.FileAppender">
    <file>${cassandra.logdir}/system.log</file>
    <encoder><pattern>%-5level [%thread] %date{ISO8601} %F:%L - %msg%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="FILE"/></root>
  <logger name="org.apache.cassandra" level="INFO"/>
</configuration>
"""
_OPENED: Mapping[str, Sequence[str]] = {
    "java.base": [
        *["java.lang", "java.lang.module", "java.lang.reflect", "java.util", "java.util.concurrent"],
        *["java.util.concurrent.atomic", "java.io", "java.net", "java.nio", "sun.nio.ch"],
        *["jdk.internal.loader", "jdk.internal.ref", "jdk.internal.reflect", "jdk.internal.math"],
        *["jdk.internal.module", "jdk.internal.util.jar"],
    ],
    "jdk.management": ["com.sun.management.internal"],
    "jdk.compiler": ["com.sun.tools.javac"],
}
_EXPORTED: Mapping[str, Sequence[str]] = {
    "java.base": ["jdk.internal.misc", "jdk.internal.ref", "java.lang.ref", "sun.nio.ch"],
    "java.sql": ["java.sql"],
    "java.management": ["com.sun.jmx.remote.security"],
    "java.management.rmi": ["com.sun.jmx.remote.internal.rmi"],
    "java.rmi": ["sun.rmi.registry", "sun.rmi.server", "sun.rmi.transport.tcp"],
    "jdk.unsupported": ["sun.misc"],
    "jdk.compiler": ["com.sun.tools.javac.file"],
    "jdk.attach": ["sun.tools.attach"],
}
JAVA_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Djava.net.preferIPv4Stack=true")
"""For servers that start often and do little; without the file that Java else leaves in /tmp when it is killed."""


@dataclass(frozen=True, slots=True)
class Placed:
    """One node of a cluster. `impatient`: gives up on others early, for tests of faults."""

    cluster: str
    number: int
    addresses: Sequence[str]
    data_centre: str
    impatient: bool
    tls_pem: Path | None


def write(placed: Placed, folder: Path) -> None:
    """All its files, into folder/conf."""
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    text = _YAML.format(
        cluster=placed.cluster,
        token=-(2**63) + placed.number * 2**64 // len(placed.addresses),
        seeds=",".join(placed.addresses),  # itself among them: else it would refuse to start while it is cut off
        address=placed.addresses[placed.number],
        folder=folder,
    )
    text += _IMPATIENT if placed.impatient else ""
    text += _TLS.format(pem=placed.tls_pem) if placed.tls_pem else ""
    (folder / "conf" / "cassandra.yaml").write_text(text)
    (folder / "conf" / "cassandra-rackdc.properties").write_text(f"dc={placed.data_centre}\nrack=r1\n")
    (folder / "conf" / "logback.xml").write_text(_LOGBACK)


def command(java: Path, jars: Path, folder: Path, *, nodes: int, heap_mb: int) -> list[str]:
    """The command line of a node whose files are in `folder`."""
    libraries = sorted(one for one in jars.glob("*.jar") if not any(word in one.name for word in _NOT_OURS))
    return [
        str(java),
        "-Xms64m",
        f"-Xmx{heap_mb}m",
        "-Xss512k",
        "-XX:MaxDirectMemorySize=128m",
        *JAVA_OPTIONS,
        "-Djdk.attach.allowAttachSelf=true",
        "-Dio.netty.tryReflectionSetAccessible=true",
        "-Dio.netty.allocator.maxOrder=11",
        "-Dio.netty.eventLoopThreads=2",
        "-Dchronicle.analytics.disable=true",
        *(f"--add-opens={module}/{one}=ALL-UNNAMED" for module, all_ in _OPENED.items() for one in all_),
        *(f"--add-exports={module}/{one}=ALL-UNNAMED" for module, all_ in _EXPORTED.items() for one in all_),
        *(f"-D{name}={value}" for name, value in _properties(folder, nodes).items()),
        "-cp",
        ":".join(map(str, libraries)),
        "org.apache.cassandra.service.CassandraDaemon",
    ]


def _properties(folder: Path, nodes: int) -> dict[str, str]:
    return {
        "java.io.tmpdir": f"{folder}/scratch",
        "jna.tmpdir": f"{folder}/scratch",
        "logback.configurationFile": f"{folder}/conf/logback.xml",
        "cassandra.config": f"file://{folder}/conf/cassandra.yaml",
        "cassandra-rackdc.properties": f"file://{folder}/conf/cassandra-rackdc.properties",
        "cassandra.storagedir": str(folder),
        "cassandra.logdir": f"{folder}/log",
        "cassandra-foreground": "yes",
        "cassandra.skip_wait_for_gossip_to_settle": "0",
        "cassandra.load_ring_state": "false",
        "cassandra.superuser_setup_delay_ms": "0",
        "cassandra.system_auth.default_rf": str(nodes),  # the superuser is made once, and on every node
        "cassandra.consistent.rangemovement": "false",
        "cassandra.available_processors": "2",
    }
