"""Every metric this project exports, with unit and help text, on a registry of its own.

One place, so that names and labels are an interface (tests/golden/metrics.txt), never user, project or token.
"""

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from regional_keystone import __version__

PREFIX: Final = "regional_keystone_"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.00001, 0.000025, 0.0001, 0.00025, 0.001, 0.0025, 0.01, 0.025, 0.1, 0.25, 1.0)
_REQUESTS: Final = ("requests", "HTTP requests answered on the public port", ("method", "route", "status"))
_VALIDATIONS: Final = ("validations", "Token validations answered", ("result", "path"))
L = TypeVar("L", bound=tuple[str, ...])
_DURATION: Final = ("validation_duration_seconds", "From the request's head to its answer", ("path",))


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
        self._declare_traffic()
        self._declare_log()
        self._declare_keys()
        self._declare_dependencies()
        self._declare("info", "build", "What is running", ("version",))
        Info(PREFIX + "build", "What is running", registry=self.registry).info({"version": __version__})

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

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _took(self, path: str, seconds: float) -> None:
        hot = self._hot
        hot.sums[path] += seconds
        hot.buckets[path][bisect_left(_SECONDS, seconds)] += 1

    def _declare_traffic(self) -> None:
        self.connections = self._gauge("connections", "Open connections on the public port")
        self.connections_refused = self._counter("connections_refused", "Connections over a limit", "reason")
        self.issued = self._counter("tokens_issued", "Tokens asked for by authentication", "method", "result")
        self.issue_duration = self._histogram("issue_duration_seconds", "Duration of an authentication", _SECONDS)
        self.forwarded = self._counter("forwarded", "Changes forwarded to a controller", "result")
        self.password_hash_queue = self._gauge("password_hash_queue", "Password hashes waiting or at work")

    def _declare_log(self) -> None:
        self.log_position = self._gauge("log_position", "Last entry of the log that is applied here")
        self.log_head = self._gauge("log_head", "Last entry of the log that is known to exist")
        self.lag_entries = self._gauge("lag_entries", "Entries of the log that are not applied here yet")
        self.age = self._gauge("age_seconds", "Time since this replica was known to be complete")
        self.revocations_live = self._gauge("revocations_live", "Revocations that can still meet a token")
        self.own_feed_pending = self._gauge("own_feed_pending", "Own entries not seen in the log yet")
        self.commits = self._counter("commits", "Transactions by outcome", "result")
        self.commit_batch = self._histogram("commit_batch_size", "Transactions per append", (1, 2, 4, 8, 16, 32, 64))
        self.collisions = self._counter("collisions", "Transactions that had to be run again")
        self.sites = self._gauge("sites", "Enrolled sites by state", "state")

    def _declare_keys(self) -> None:
        self.ring_epoch = self._gauge("ring_epoch", "Epoch of the key ring in use", "ring")
        self.key_age = self._gauge("key_age_seconds", "Age of the key that signs", "ring")
        self.rotations = self._counter("rotations", "Turns of a key ring by outcome", "ring", "result")

    def _declare_dependencies(self) -> None:
        self.stream_up = self._gauge("stream_up", "1 while the stream to a controller is open")
        self.stream_reconnects = self._counter("stream_reconnects", "Times the stream was opened again")
        self.store_up = self._gauge("store_up", "1 while the store answers", "store")
        self.cache_requests = self._counter("cache_requests", "Look-ups in a cache", "layer", "result")
        self.lock_held = self._gauge("lock_held", "1 while this process holds the lock", "name")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        self._declare("counter", name, text, labels)
        return Counter(PREFIX + name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        self._declare("gauge", name, text, labels)
        return Gauge(PREFIX + name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        self._declare("histogram", name, text, ())
        return Histogram(PREFIX + name, text, buckets=buckets, registry=self.registry)

    def _declare(self, kind: str, name: str, text: str, labels: tuple[str, ...]) -> None:
        name += {"counter": "_total", "info": "_info"}.get(kind, "")
        self.declared.append(f"{PREFIX}{name}{{{','.join(labels)}}} {kind}: {text}")
