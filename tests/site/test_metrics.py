"""What is exported is an interface: names, labels, kinds."""

import os
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from regional_keystone import __version__
from regional_keystone.metrics import Metrics
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
