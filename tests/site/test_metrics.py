"""What is exported is an interface: names, labels, kinds."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

from prometheus_client.parser import text_string_to_metric_families

from regional_keystone import __version__
from regional_keystone.adapters.cassandra_driver import Counters
from regional_keystone.freshness import Limits
from regional_keystone.metrics import Metrics
from regional_keystone.report import export
from regional_keystone.sections import Freshness
from tests.site.wire import Verdicts, ask, request, served, validate

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.txt"


def test_the_metrics_are_those_that_are_written_down():
    declared = "".join(f"{line}\n" for line in sorted(Metrics().declared))
    if os.environ.get("GOLDEN"):
        GOLDEN.write_text(declared)
    assert declared == GOLDEN.read_text(), "changed on purpose? GOLDEN=1 pytest tests/site/test_metrics.py"


def test_all_that_is_exported_is_declared_and_named_as_prometheus_wants():
    metrics = Metrics()
    declared = {line.partition("{")[0] for line in metrics.declared}
    exported = {
        family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        for family in metrics.registry.collect()
        if not (family.type == "gauge" and family.name.endswith("_created"))
    }
    assert exported == declared
    for line in metrics.declared:
        assert re.fullmatch(
            r"regional_keystone_[a-z_]+\{[a-z,]*\} (counter|gauge|histogram|info): [A-Z0-9].+[^.]", line
        )
        name, kind = re.match(r"(\w+)\{.*\} (\w+):", line).groups()
        assert name.endswith("_total") == (kind == "counter")


async def test_each_request_is_counted_once_on_whichever_road():
    async with served(fast=Verdicts()) as site:
        await ask(site.port, validate("subject1"))
        await ask(site.port, validate("subject1", method="HEAD"), head=True)
        await ask(site.port, validate("stranger"))
        await ask(site.port, request("POST", "/v3/users/17", body=b"{}"))
        await ask(site.port, request("GET", "/made/up"))
        await ask(site.port, b"rubbish\r\n\r\n")
        metrics = site.web.metrics
        assert metrics.requests_served == 6
        found = {
            (sample.name.removeprefix("regional_keystone_"), *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(metrics.text().decode())
            for sample in family.samples
        }
    assert found["requests_total", "200", "GET", "auth/tokens"] == 1
    assert found["requests_total", "200", "HEAD", "auth/tokens"] == 1
    assert found["requests_total", "401", "GET", "auth/tokens"] == 1
    assert found["requests_total", "200", "POST", "users"] == 1
    assert found["requests_total", "404", "GET", "other"] == 1
    assert found["requests_total", "400", "other", "other"] == 1
    assert found["validations_total", "fast", "valid"] == 2
    assert found["validations_total", "long", "refused"] == 1
    assert found["validation_duration_seconds_count", "fast"] == 2
    assert found["validation_duration_seconds_bucket", "+Inf", "long"] == 1
    assert found["build_info", __version__] == 1


async def test_labels_stay_few_whatever_clients_send():
    async with served() as site:
        for n in range(50):
            await ask(site.port, request("GET", f"/v3/{n}"))
            await ask(site.port, request("GET", f"/v3/users/{n}?{n}"))
            await ask(site.port, request("PROPFIND", f"/{n}"))
        assert site.web.metrics.text().count(b"regional_keystone_requests_total{") == 3


def exported(store):
    """What a process says of its store."""
    metrics = Metrics()
    seen, leave = {"token": SimpleNamespace(epoch=1)}, SimpleNamespace(left_s=lambda: 1.0)
    known = {"position": 1, "head": 1, "index": (), "condemned": (), "holders": {}}
    follower = SimpleNamespace(
        **known, age_s=lambda: 0.0, seen=seen, leave=leave, signers=SimpleNamespace(reads_sealed=True), signatory=None
    )
    limits = Limits(Freshness(), lambda: 0.0)
    export(
        SimpleNamespace(store=store, follower=follower, clock=None),
        SimpleNamespace(metrics=metrics, validator=SimpleNamespace(limits=limits)),
    )
    return metrics


def of_cassandra(metrics, others=()):
    return {
        (sample.name.removeprefix("regional_keystone_cassandra_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.text(others).decode())
        for sample in family.samples
        if "cassandra" in sample.name
    }


def test_what_a_session_with_cassandra_counts_is_exported_and_added_up_over_workers():
    counters = Counters(requests=5, breaker_opened=2, breaker_open=True)
    for seconds in (0.0015, 0.003, 7.0):
        counters.answered(seconds)
    counters.errors["silent"] += 1
    metrics = exported(SimpleNamespace(counters=counters))
    found = of_cassandra(metrics)
    assert (found["requests_total",], found["errors_total", "silent"]) == (5, 1)
    assert (found["breaker_open",], found["breaker_opened_total",]) == (1, 2)
    bounds = ("0.001", "0.002", "0.005", "5.0", "+Inf")
    assert [found["duration_seconds_bucket", bound] for bound in bounds] == [0, 1, 2, 2, 3]
    assert (found["duration_seconds_count",], found["duration_seconds_sum",]) == (3, 7.0045)
    both = of_cassandra(metrics, [metrics.counts()])
    assert (both["requests_total",], both["duration_seconds_bucket", "0.005"]) == (10, 4)
    assert both["breaker_open",] == 1


def test_a_store_in_a_file_says_nothing_of_cassandra():
    assert of_cassandra(exported(SimpleNamespace())) == {}
