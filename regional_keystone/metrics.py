"""Every metric this project exports, with unit and help text, on a registry of its own.

One place, so that names and labels are an interface (tests/golden/metrics.txt), never user, project or token.
"""

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Final, NamedTuple, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Info, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from regional_keystone import __version__

PREFIX: Final = "regional_keystone_"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.00001, 0.000025, 0.0001, 0.00025, 0.001, 0.0025, 0.01, 0.025, 0.1, 0.25, 1.0)
_REQUESTS: Final = ("requests", "HTTP requests answered on the public port", ("method", "route", "status"))
_VALIDATIONS: Final = ("validations", "Token validations answered", ("result", "path"))
L = TypeVar("L", bound=tuple[str, ...])
_DURATION: Final = ("validation_duration_seconds", "From the request's head to its answer", ("path",))


# What somebody else counts or knows, asked at each scrape: kind, help, labels (at most one).
_TOLD: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = {
    "log_position": ("gauge", "Last entry of the log that is applied here", ()),
    "log_head": ("gauge", "Last entry of the log that is known to exist", ()),
    "lag_entries": ("gauge", "Entries of the log that are not applied here yet", ()),
    "age_seconds": ("gauge", "Time since this replica was known to be complete", ()),
    "too_old_for": ("gauge", "1 while what is known is too old to decide about tokens of this class", ("class",)),
    "waiting_for_position": ("gauge", "Requests that wait for a change that has not arrived here yet", ()),
    "waiting_refused": ("counter", "Requests that found no place to wait in", ("full",)),
    "sealing_left_seconds": ("gauge", "For how long tokens may still be issued here if nothing more is heard", ()),
    "drift_rows": ("counter", "Rows of this replica that no entry of the log made so, put right", ("how",)),
    "drift_unmended": ("gauge", "Rows found here that differ from the log and were not put right", ()),
    "drift_waiting": ("gauge", "Rows of Cassandra found wrong at once, too many to be put right unasked", ()),
    "drift_doubted_leaves": ("gauge", "Parts of this controller's tables that changed without an entry", ()),
    "convergence_age_seconds": ("gauge", "Time since all rows were compared last and, at a site, equal", ()),
    "convergence_bytes": ("counter", "What comparing rows took on the stream", ("direction",)),
    "convergence_rows": ("gauge", "Rows that the last whole reading found", ()),
    "revocations_live": ("gauge", "Revocations that can still meet a token", ()),
    "ring_epoch": ("gauge", "Epoch of the key ring in use", ("ring",)),
    "bundle_left_seconds": (
        "gauge",
        "Time until the bundle of the ring in use is too old to be installed again",
        ("ring",),
    ),
    "certificate_left_seconds": ("gauge", "Time until it ends; negative after that", ("certificate",)),
    "bundles_refused": ("counter", "Bundles of key rings that were not installed", ("reason",)),
    "key_damage": ("gauge", "Files of the key directory that are damaged and not mended", ("ring",)),
    "key_directories_mended": ("counter", "Times that a damaged key directory was written again", ("ring",)),
    "follows_keystone": ("gauge", "1 while keys are used that a Keystone turns, for which nothing is guaranteed", ()),
    "tokens_beyond_signer": ("counter", "Tokens signed by a place for what it may not sign for", ("signer",)),
    "sealed_tokens_read": (
        "gauge",
        "1 while tokens sealed with the shared keys are taken, 0 once they are refused",
        (),
    ),
    "sealed_tokens_refused": ("counter", "Tokens sealed with a good key that came after they were to be refused", ()),
    "password_hash_queue": ("gauge", "Password hashes waiting or at work", ()),
    "cache_lookups": ("counter", "Facts asked of the region's cache; all results but hit are misses", ("result",)),
    "cache_failures": ("counter", "Requests to the region's cache that came to nothing", ("reason",)),
    "cache_up": ("gauge", "1 while a server of the region's cache is asked", ("server",)),
    "middleware_cache_tokens": ("gauge", "Tokens answered 200 that services may still have in their caches", ()),
    "middleware_cache_purged": ("counter", "Tokens whose entries in services' caches were to be deleted", ("cause",)),
    "middleware_cache_lost": (
        "counter",
        "Tokens, deletions and writes given up; an entry may have been used to its end",
        ("reason",),
    ),
    "middleware_cache_up": ("gauge", "1 while a server of the services deletes what it is asked to", ("server",)),
    "middleware_cache_failures": ("counter", "Requests to delete that came to nothing", ("server",)),
    "middleware_cache_owed": ("gauge", "Entries still to be deleted", ("server",)),
    "middleware_cache_lag_seconds": ("gauge", "For how long the oldest of these has been", ()),
    "cassandra_requests": ("counter", "Requests sent to Cassandra", ()),
    "cassandra_errors": ("counter", "Requests to Cassandra that came to nothing or were not sent", ("reason",)),
    "cassandra_duration_seconds": ("histogram", "From a request to Cassandra to its answer, good or bad", ()),
    "cassandra_breaker_open": ("gauge", "1 while Cassandra is silent and asked nothing but whether it lives", ()),
    "cassandra_breaker_opened": ("counter", "Times that Cassandra fell silent", ()),
    "tokens_issued": ("gauge", "Tokens issued here in the last 72 hours, by the id of the key", ("key",)),
    "condemned_keys": ("gauge", "Keys that were condemned, ever", ()),
    "own_feed_pending": ("gauge", "Own entries not seen in the log yet", ()),
    "peer_feed_rows": ("gauge", "Rows of another site's feed that count here and are not in the log", ("site",)),
    "peer_feed_unread": ("gauge", "1 while another site's feed is not read, or not to its end", ("site",)),
    "feed_share": ("gauge", "How much of its share of the log a site has used for revocations; all is 1", ("site",)),
    "stream_up": ("gauge", "1 while the stream to a controller is open", ()),
    "stream_connects": ("counter", "Times the stream was opened", ()),
    "forwarded": ("counter", "Changes forwarded to a controller", ("result",)),
    "commits": ("counter", "Transactions committed", ()),
    "commit_batches": ("counter", "Appends to the log, each of one or more transactions", ()),
    "collisions": ("counter", "Transactions that had to be run again", ()),
    "sites": ("gauge", "Enrolled sites by state", ("state",)),
    "clock_ahead_seconds": ("gauge", "How far this controller's clock is ahead of most of its sites'", ()),
    "clock_wrong": ("gauge", "1 while this controller's clock is so wrong that it writes and forgets nothing", ()),
    "deletions_pending": ("gauge", "Deletions that go on in steps", ()),
    "log_backlog_bytes": (
        "gauge",
        "Memory taken by changes that are not in the tables yet; new ones wait from 64 MB on",
        (),
    ),
    "primary_key_age_seconds": ("gauge", "Time since the key that seals became the primary", ("ring",)),
    "active_keys": ("gauge", "Keys of a ring", ("ring",)),
    "next_turn_seconds": ("gauge", "Time until the next turn of the keys is due; below 0 it is overdue", ()),
    "turn_waits_for": ("gauge", "Active sites that have not acknowledged the newest keys", ()),
    "rotations": ("counter", "Turns of a key ring", ("ring",)),
}


class Durations(NamedTuple):
    """How long things took: so many `within` each bound in seconds, so many in `all`, in so many `seconds`."""

    within: Mapping[float, int]
    all: int
    seconds: float


Told = float | Mapping[str, float] | Durations
Counts = tuple[tuple[str, tuple[tuple[str, str], ...], float], ...]  # name, labels, value of each that adds up
# gauges of a process, not a region
_ADDED: Final = {PREFIX + name for name in ("connections", "password_hash_queue", "waiting_for_position")}


class _Known(Collector):
    """The metrics of `_TOLD`, by what this process was told to ask."""

    def __init__(self, told: Mapping[str, Callable[[], Told]]) -> None:
        self._told = told

    def collect(self) -> Iterable[Metric]:
        for name, (kind, text, labels) in _TOLD.items():
            told = self._told[name]() if name in self._told else {}
            if kind == "histogram" or isinstance(told, Durations):
                yield _durations(name, text, told)
                continue
            make = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            family = make(PREFIX + name, text, labels=labels)
            for label, value in (told if isinstance(told, Mapping) else {"": told}).items():
                family.add_metric([label] if labels else [], value)
            yield family


def _durations(name: str, text: str, told: Told) -> HistogramMetricFamily:
    family = HistogramMetricFamily(PREFIX + name, text)
    if isinstance(told, Durations):
        bounds = [(str(bound), count) for bound, count in told.within.items()]
        family.add_metric([], [*bounds, ("+Inf", told.all)], told.seconds)
    return family


class _Hot(Collector):
    """What is counted for each request: plain numbers, turned into metrics only when somebody asks."""

    def __init__(self) -> None:
        self.requests: Tally[tuple[str, str, str]] = Tally()
        self.validations: Tally[tuple[str, str]] = Tally()
        self.gets = 0
        self.heads = 0
        self.buckets: dict[str, list[int]] = {path: [0] * (len(_SECONDS) + 1) for path in ("fast", "long")}
        self.sums = {"fast": 0.0, "long": 0.0}

    def collect(self) -> Iterable[Metric]:
        yield _family(_REQUESTS, self.all_requests())
        yield _family(_VALIDATIONS, self.validations + Tally({("valid", "fast"): self.gets + self.heads}))
        durations = HistogramMetricFamily(PREFIX + _DURATION[0], _DURATION[1], labels=_DURATION[2])
        for path, counts in self.buckets.items():
            bounds = [*map(str, _SECONDS), "+Inf"]
            durations.add_metric([path], list(zip(bounds, accumulate(counts), strict=True)), self.sums[path])
        yield durations

    def all_requests(self) -> Tally[tuple[str, str, str]]:
        fast = {("GET", "auth/tokens", "200"): self.gets, ("HEAD", "auth/tokens", "200"): self.heads}
        return self.requests + Tally(fast)


def _family(declared: tuple[str, str, tuple[str, ...]], counts: Mapping[L, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(PREFIX + declared[0], declared[1], labels=declared[2])
    for labels, count in sorted(counts.items()):
        family.add_metric(labels, count)
    return family


class _Sum(CollectorRegistry):
    """A registry whose counts are those of several processes; what is no count is the first one's."""

    def __init__(self, first: CollectorRegistry, others: Iterable[Counts]) -> None:
        super().__init__()
        self._first = first
        self._others: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        for name, labels, value in add_counts(*others):
            self._others.setdefault(name, {})[labels] = value

    def collect(self) -> Iterable[Metric]:
        for family in self._first.collect():
            if self._others and _adds_up(family):
                family.samples = list(self._summed(family))
            yield family

    def _summed(self, family: Metric) -> Iterable[Sample]:
        names = {family.name, f"{family.name}_total"} | {sample.name for sample in family.samples}
        rest = {name: dict(self._others[name]) for name in names if name in self._others}
        for sample in family.samples:
            more = rest.get(sample.name, {}).pop(tuple(sample.labels.items()), 0.0)
            yield sample._replace(value=sample.value + more)
        for name, values in rest.items():
            for labels, value in values.items():
                yield Sample(name, dict(labels), value)


def _adds_up(family: Metric) -> bool:
    return family.type in {"counter", "histogram"} or family.name in _ADDED


def add_counts(*counted: Counts) -> Counts:
    """The sum of what several processes have counted."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for name, labels, value in (one for counts in counted for one in counts):
        found[name, labels] = found.get((name, labels), 0.0) + value
    return tuple((name, labels, value) for (name, labels), value in found.items())


class Metrics:
    """The metrics of one process. Labels are bounded; facts that grow by themselves are set as functions."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.declared: list[str] = []
        self._hot = _Hot()
        self._declare("counter", *_REQUESTS)
        self._declare("counter", *_VALIDATIONS)
        self._declare("histogram", *_DURATION)
        self.registry.register(self._hot)
        self.connections = self._gauge("connections", "Open connections on the public port")
        self.connections_refused = self._counter("connections_refused", "Connections over a limit", "reason")
        self._told: dict[str, Callable[[], Told]] = {}
        for name, (kind, text, labels) in _TOLD.items():
            self._declare(kind, name, text, labels)
        self.registry.register(_Known(self._told))
        self._declare("info", "build", "What is running", ("version",))
        Info(PREFIX + "build", "What is running", registry=self.registry).info({"version": __version__})

    def tell(self, name: str, now: Callable[[], Told]) -> None:
        """Ask `now` for this metric at every scrape: a number, numbers by the value of its label, or durations."""
        if name not in _TOLD:
            raise LookupError(f"{name} is not declared")
        self._told[name] = now

    @property
    def requests_served(self) -> int:
        """Requests answered on the public port since the start, refused ones included."""
        return self._hot.requests.total() + self._hot.gets + self._hot.heads

    def request(self, method: str, route: str, status: int) -> None:
        """One request was answered. `route` is a class of paths, never a path."""
        self._hot.requests[method, route, str(status)] += 1

    def validation(self, result: str, seconds: float) -> None:
        """The long road answered a validation: valid, refused or undecided."""
        self._hot.validations[result, "long"] += 1
        self._took("long", seconds)

    def hit(self, *, head: bool, seconds: float) -> None:
        """The fast path answered a validation; this is its request as well."""
        if head:
            self._hot.heads += 1
        else:
            self._hot.gets += 1
        self._took("fast", seconds)

    def text(self, others: Iterable[Counts] = ()) -> bytes:
        """All metrics in Prometheus' text format, with what other processes of the same site have counted."""
        return generate_latest(_Sum(self.registry, others))

    def counts(self) -> Counts:
        """What this process has counted: what adds up over the processes of a site."""
        return tuple(
            (sample.name, tuple(sample.labels.items()), float(sample.value))
            for family in self.registry.collect()
            if _adds_up(family)
            for sample in family.samples
        )

    def _took(self, path: str, seconds: float) -> None:
        hot = self._hot
        hot.sums[path] += seconds
        hot.buckets[path][bisect_left(_SECONDS, seconds)] += 1

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        self._declare("counter", name, text, labels)
        return Counter(PREFIX + name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        self._declare("gauge", name, text, labels)
        return Gauge(PREFIX + name, text, labels, registry=self.registry)

    def _declare(self, kind: str, name: str, text: str, labels: tuple[str, ...]) -> None:
        name += {"counter": "_total", "info": "_info"}.get(kind, "")
        self.declared.append(f"{PREFIX}{name}{{{','.join(labels)}}} {kind}: {text}")
