"""The charts as the real helm renders them: strictly valid, safe, and what our programs understand."""

import copy
import functools
import itertools
import os
import re
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from controller.settings import Settings as ControllerSettings
from regional_keystone import settings
from regional_keystone.web import Limits, admin_app
from tests.golden.derived import DERIVED

ROOT = Path(__file__).parents[2]
HELM = ROOT / "helm"
KUBERNETES = ("1.27", "1.37")  # kubeVersion of the charts, and the newest whose schemas there are
SITE, CONTROLLER = "regional-keystone-site", "regional-keystone-controller"
CHARTS = {SITE: (settings.Settings, "region.conf"), CONTROLLER: (ControllerSettings, "controller.conf")}

IMAGE = {"image": {"repository": "registry.example/regional-keystone"}}
TLS = {"tls": {"existingSecret": "oslo-tls"}}
STREAM = {"stream": {"advertise": "https://stream.example:5002"}}
CASSANDRA = {
    "contact_points": ["cassandra-0.cassandra", "cassandra-1.cassandra"],
    "local_data_centre": "oslo",
    "replication": ["oslo:3", "bergen:3"],
    "username": "site_oslo",
}
CASSANDRA_FILES = {"existingSecret": "cassandra-user", "tls": {"existingSecret": "cassandra-tls"}}
MEMCACHED = {"servers": ["memcached-0:11211", "memcached-1:11211"], "timeout_s": 0.025}
PLACED = {
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "identity", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{}]}}},
    "priorityClassName": "system-cluster-critical",
    "commonLabels": {"team": "identity"},
    "podLabels": {"tier": "api"},
    "podAnnotations": {"example.org/why": 'it "says" so: # and more'},
    "imagePullSecrets": [{"name": "pull"}],
    "serviceAccount": {"create": True, "name": "identity", "annotations": {"a": "b"}},
    "serviceMonitor": {"enabled": True, "interval": "15s", "labels": {"release": "prometheus"}},
    "networkPolicy": {
        "enabled": True,
        "clients": [{"namespaceSelector": {"matchLabels": {"openstack": "yes"}}}],
        "monitoring": [{"podSelector": {"matchLabels": {"app": "prometheus"}}}],
    },
    "persistence": {
        "size": "10Gi",
        "storageClass": "fast",
        "accessMode": "ReadWriteOncePod",
        "annotations": {"a": "b"},
    },
    "service": {"type": "LoadBalancer", "port": 443, "annotations": {"a": "b"}, "externalTrafficPolicy": "Local"},
    "policy": {"existingConfigMap": "our-policy"},
    "listenAddress": "::",
    "topologySpread": {"enabled": True, "whenUnsatisfiable": "DoNotSchedule"},
}
BARE = {
    "serviceAccount": {"create": False},
    "networkPolicy": {"enabled": False},
    "podDisruptionBudget": {"enabled": False},
    "topologySpread": {"enabled": False},
    "preStopSeconds": 0,
    "resources": {"requests": {}, "limits": {}},
}
HOSTILE = {
    "listen": {"trusted_proxies": ["10.0.0.0/8", "fd00::/8"], "public_endpoint": "{{ .Release.Name }} # %(x)s $y \"z'"},
    "token": {"expiration": 86_400_000, "allow_expired_window": 172_800},
    "freshness": {"system": 0.5, "domain": 1e-3, "project": 3_000_000.0},
    "DEFAULT": {"debug": True},
    "auth": {"methods": ["password", "token"]},
}

SETS = {
    (SITE, "least"): IMAGE | TLS,
    (SITE, "cassandra"): IMAGE
    | TLS
    | {"cassandra": CASSANDRA_FILES | {"tls": {"existingSecret": "cassandra-tls", "clientCertificate": True}}}
    | {"config": {"cassandra": CASSANDRA, "memcached": MEMCACHED, "workers": {"processes": 2}}},
    (SITE, "memcached"): IMAGE
    | TLS
    | {"memcached": {"existingSecret": "region-cache", "tls": {"existingSecret": "memcached-ca"}}}
    | {"config": {"memcached": MEMCACHED}},
    (SITE, "workers"): IMAGE | TLS | {"replicas": 2, "config": {"workers": {"processes": 4}}},
    (SITE, "proxied"): IMAGE | BARE | {"config": {"listen": {"trusted_proxies": ["10.244.0.0/16"]}}},
    (SITE, "everything"): IMAGE
    | TLS
    | PLACED
    | {"replicas": 3, "joinTokens": {"existingSecret": "oslo-join"}}
    | {"memcached": {"existingSecret": "region-cache", "tls": {"existingSecret": "memcached-ca"}}}
    | {"config": {"memcached": MEMCACHED, "workers": {"processes": 2}}},
    (SITE, "hostile"): IMAGE | {"config": HOSTILE},
    (CONTROLLER, "least"): IMAGE | TLS | {"config": STREAM},
    (CONTROLLER, "several"): IMAGE
    | TLS
    | {"replicas": 2, "authority": {"existingSecret": "authority"}, "cassandra": CASSANDRA_FILES}
    | {"zookeeper": {"existingSecret": "zookeeper-user", "tls": {"existingSecret": "zookeeper-ca"}}}
    | {"config": STREAM | {"cassandra": CASSANDRA, "zookeeper": {"hosts": ["zk-0:2181"], "username": "rk"}}},
    (CONTROLLER, "everything"): IMAGE
    | TLS
    | PLACED
    | {"replicas": 3, "authority": {"existingSecret": "authority"}, "bootstrap": {"existingSecret": "first-admin"}}
    | {"zookeeper": {"existingSecret": "zookeeper-user", "tls": {"existingSecret": "zookeeper-ca"}}}
    | {"cassandra": CASSANDRA_FILES | {"tls": {"existingSecret": "cassandra-tls", "clientCertificate": True}}}
    | {"image": {"repository": "registry.example:5000/rk", "tag": "x", "digest": f"sha256:{'0' * 64}"}}
    | {"streamService": {"type": "NodePort", "port": 443, "annotations": {"a": "b"}, "externalTrafficPolicy": "Local"}}
    | {"config": STREAM | {"cassandra": CASSANDRA, "zookeeper": {"hosts": ["zk-0:2181"], "username": "rk"}}},
    (CONTROLLER, "bare"): IMAGE | BARE | {"config": STREAM | {"listen": {"trusted_proxies": ["10.244.0.0/16"]}}},
    (CONTROLLER, "hostile"): IMAGE | {"config": HOSTILE | STREAM | {"keys": {"rotation_interval": 31_536_000}}},
}


class Strict(yaml.SafeLoader):
    """YAML in which no key is there twice."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"twice: {keys}"
        return super().construct_mapping(node, deep=deep)


def run(program, chart, values, directory):
    file = directory / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory)}
    command = [program, "template", "oslo", HELM / chart, "--namespace", "identity", "-f", file]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


@pytest.fixture(scope="session")
def render(helm_program, tmp_path_factory):
    """What helm makes of one of SETS; each is rendered once."""

    @functools.cache
    def rendered(chart, name):
        done = run(helm_program, chart, SETS[chart, name], tmp_path_factory.mktemp("values"))
        assert done.returncode == 0, done.stderr
        return [one for one in yaml.load_all(done.stdout, Strict) if one]

    return lambda chart, name: copy.deepcopy(rendered(chart, name))


@pytest.mark.parametrize(("chart", "name"), SETS, ids=[f"{chart}-{name}" for chart, name in SETS])
def test_both_versions_of_helm_render_the_same(render, newest_helm, chart, name, tmp_path):
    done = run(newest_helm, chart, SETS[chart, name], tmp_path)
    assert done.returncode == 0, done.stderr
    assert [one for one in yaml.load_all(done.stdout, Strict) if one] == render(chart, name)


@pytest.fixture(params=list(SETS), ids="-".join)
def manifests(request, render):
    return render(*request.param)


def one(manifests, kind):
    (found,) = [manifest for manifest in manifests if manifest["kind"] == kind]
    return found


def pods(manifests):
    return [one(manifests, "StatefulSet")["spec"]["template"]["spec"], one(manifests, "Pod")["spec"]]


def containers(manifests):
    for pod in pods(manifests):
        yield from (*pod.get("initContainers", []), *pod["containers"])


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_knows_every_field(manifests, version):
    for manifest in manifests:
        if manifest["kind"] != "ServiceMonitor":  # a resource of somebody else's
            kubernetes_validate.validate(manifest, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_would_be_found(render):
    manifests = render(SITE, "least")
    one(manifests, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(one(manifests, "StatefulSet"), KUBERNETES[-1], strict=True)


def test_names_are_unique_and_selectors_select_the_pods(manifests):
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name) for _, name in names)
    labels = one(manifests, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    selectors = [one(manifests, "StatefulSet")["spec"]["selector"]["matchLabels"]]
    selectors += [manifest["spec"]["selector"] for manifest in manifests if manifest["kind"] == "Service"]
    assert len(selectors) > 2
    assert all(selector.items() <= labels.items() for selector in selectors)


def test_services_lead_to_ports_of_the_container(manifests):
    (container,) = pods(manifests)[0]["containers"]
    ports = {port["name"] for port in container["ports"]}
    services = [manifest["spec"] for manifest in manifests if manifest["kind"] == "Service"]
    assert {port["targetPort"] for service in services for port in service["ports"]} == ports
    headless = {
        manifest["metadata"]["name"]
        for manifest in manifests
        if manifest["kind"] == "Service" and manifest["spec"].get("clusterIP") == "None"
    }
    assert {one(manifests, "StatefulSet")["spec"]["serviceName"]} == headless


def test_no_container_can_do_more_than_it_must(manifests):
    for pod in pods(manifests):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
    for container in containers(manifests):
        assert container["securityContext"] == {
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }


def test_what_is_written_is_written_to_volumes(manifests):
    pod = pods(manifests)[0]
    claims = {claim["metadata"]["name"] for claim in one(manifests, "StatefulSet")["spec"]["volumeClaimTemplates"]}
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert not claims & volumes
    for container in (*pod["initContainers"], *pod["containers"]):
        assert {mount["name"] for mount in container["volumeMounts"]} <= claims | volumes
    writable = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/var/lib/regional-keystone", "/run/regional-keystone", "/tmp"}


def test_secrets_are_named_mounted_for_nobody_else_and_seen_by_the_first_container_only(manifests):
    pod = pods(manifests)[0]
    secrets = {volume["name"]: volume["secret"] for volume in pod["volumes"] if "secret" in volume}
    assert all(secret["defaultMode"] == 0o400 for secret in secrets.values())
    assert not secrets.keys() & {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert not [manifest for manifest in manifests if manifest["kind"] == "Secret"]
    assert not [value for container in containers(manifests) for value in container.get("env", []) if "secret" in value]


def config(manifests):
    """The program's file, its text, and the settings that its loader reads."""
    ((name, text),) = one(manifests, "ConfigMap")["data"].items()
    return name, text


@pytest.mark.parametrize(("chart", "name"), SETS, ids=[f"{chart}-{name}" for chart, name in SETS])
def test_the_program_reads_what_was_rendered(render, chart, name, tmp_path):
    manifests = render(chart, name)
    kind, file = CHARTS[chart]
    title, text = config(manifests)
    assert title == file
    (tmp_path / file).write_text(text)
    found = settings.load(kind, tmp_path / file, environ={})
    told = SETS[chart, name].get("config", {})
    for section, options in told.items():
        for option, value in options.items():
            expected = tuple(value) if isinstance(value, list) else value
            assert getattr(getattr(found, section.lower() if section == "DEFAULT" else section), option) == expected
    check_paths(found, manifests)
    (container,) = pods(manifests)[0]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert (found.listen.port, found.listen.admin_port) == (ports["public"], ports["admin"])
    assert f"/etc/regional-keystone/{file}" in container["command"]


def check_paths(found, manifests):
    """Every file that is told lies in a volume whose Secret is copied there."""
    pod = pods(manifests)[0]
    copied = {volume["name"] for volume in pod["volumes"] if "secret" in volume}
    for section, option in settings.options(type(found)):
        value = getattr(getattr(found, section), option)
        match value.parts if isinstance(value, Path) else ():
            case ("/", "run", "regional-keystone", "join", _):
                assert "own-join" in copied
            case ("/", "run", "regional-keystone", volume, _):
                assert volume in copied
            case ("/", "etc", "regional-keystone-policy", _):
                assert "policy" in {one["name"] for one in pod["volumes"]}
            case ("/", "var", "lib", "regional-keystone", *_) | ():
                pass
            case other:
                pytest.fail(f"{section}.{option}: {other}")


def test_probes_ask_pages_that_there_are(manifests):
    (container,) = pods(manifests)[0]["containers"]
    app = admin_app(status=dict, metrics=None, ready=lambda: None, digest=None)
    pages = {route.resource.canonical for route in app.router.routes()}
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {probe["path"] for probe in probes.values()} == {"/livez", "/readyz"} <= pages
    assert probes["readiness"]["path"] == "/readyz"
    assert {probe["port"] for probe in probes.values()} == {"admin"}
    monitors = [manifest for manifest in manifests if manifest["kind"] == "ServiceMonitor"]
    assert {endpoint["path"] for monitor in monitors for endpoint in monitor["spec"]["endpoints"]} <= pages


def test_running_requests_can_end(manifests):
    pod = pods(manifests)[0]
    stop = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
    assert pod["terminationGracePeriodSeconds"] > int(stop[1]) + Limits().drain_s


def test_a_change_of_the_configuration_starts_pods_anew(helm_program, tmp_path):
    sums = set()
    for lifetime in (3600, 7200):
        values = SETS[SITE, "least"] | {"config": {"token": {"expiration": lifetime}}}
        manifests = list(yaml.load_all(run(helm_program, SITE, values, tmp_path).stdout, Strict))
        template = one(manifests, "StatefulSet")["spec"]["template"]
        sums.add(template["metadata"]["annotations"]["checksum/config"])
    assert len(sums) == 2


@pytest.mark.parametrize(("name", "several"), [("least", False), ("everything", True)])
@pytest.mark.parametrize("chart", CHARTS)
def test_a_budget_for_disruption_is_made_when_there_are_several(render, chart, name, several):
    manifests = render(chart, name)
    assert bool([one for one in manifests if one["kind"] == "PodDisruptionBudget"]) == several


def test_a_digest_counts_more_than_a_tag(render):
    images = {container["image"] for container in containers(render(CONTROLLER, "everything"))}
    assert images == {f"registry.example:5000/rk@sha256:{'0' * 64}"}


BASE = {SITE: SETS[SITE, "least"], CONTROLLER: SETS[CONTROLLER, "least"]}
REFUSED = {
    "no image": {"image": None},
    "a typo": {"replica": 2},
    "a typo in config": {"config": {"token": {"expires": 3600}}},
    "a section that there is not": {"config": {"tokens": {"expiration": 3600}}},
    "a type": {"config": {"token": {"expiration": "1h"}}},
    "a fraction of an integer": {"config": {"token": {"expiration": 1.5}}},
    "a bound": {"config": {"token": {"expiration": 0}}},
    "a line break": {"config": {"listen": {"public_endpoint": "https://a\n[policy]\nfile = /etc/shadow"}}},
    "a comma in a list": {"config": {"auth": {"methods": ["password,external"]}}},
    "a string for a list": {"config": {"auth": {"methods": "password"}}},
    "a path": {"config": {"keys": {"directory": "/tmp"}}},
    "a password's path": {"config": {"cassandra": {"password_file": "/etc/shadow"}}},
    "a port that the chart sets": {"config": {"listen": {"port": 1}}},
    "a password": {"cassandra": {"password": "open sesame"}},
    "a key": {"tls": {"key": "-----BEGIN PRIVATE KEY-----"}},
    "a secret's text for its name": {"tls": {"existingSecret": "-----BEGIN PRIVATE KEY-----"}},
    "a name that is none": {"tls": {"existingSecret": "Our_Secret"}},
    "a list for a name": {"tls": {"existingSecret": ["a"]}},
    "more of the environment": {"env": [{"name": "RK_LISTEN__PORT", "value": "1"}]},
    "a privileged user": {"podSecurityContext": {"user": 0}},
    "a negative count": {"replicas": -1},
    "a bad digest": {"image": {"repository": "a", "digest": "sha256:abc"}},
    "a bad repository": {"image": {"repository": "a b"}},
    "a bad label": {"commonLabels": {"a": "b c"}},
    "a number for a label": {"podLabels": {"a": 1}},
    "a bad size": {"persistence": {"size": "much"}},
    "many writers": {"persistence": {"accessMode": "ReadWriteMany"}},
    "an address of one interface": {"listenAddress": "10.0.0.1"},
    "a port of root's": {"ports": {"public": 443}},
    "a service that there is not": {"service": {"type": "ExternalName"}},
    "too little time to end": {"terminationGracePeriodSeconds": 5},
    "no time to end": {"terminationGracePeriodSeconds": 20, "preStopSeconds": 15},
    "passwords in clear": {"tls": {"existingSecret": ""}},
    "a user without a password": {"config": {"cassandra": {"username": "rk"}}},
}
REFUSED_BY = {
    SITE: {
        "a token": {"joinTokens": {"token": "rk1.xyz"}},
        "keys of a cache of one's own": {"replicas": 2, "config": {"memcached": {"servers": ["m:11211"]}}},
        "several sites with one role in Cassandra": {
            "replicas": 2,
            "cassandra": CASSANDRA_FILES,
            "config": {"cassandra": CASSANDRA},
        },
        "a controller's option": {"config": {"controller": {"region": "Global"}}},
        "too many workers": {"config": {"workers": {"processes": 65}}},
    },
    CONTROLLER: {
        "nowhere to join": {"config": {"stream": {"advertise": ""}}},
        "several without a store that they share": {"replicas": 2, "authority": {"existingSecret": "a"}},
        "several authorities": {"replicas": 2, "config": {"cassandra": {"contact_points": ["c"]}}},
        "an administrator's password": {"bootstrap": {"password": "open sesame"}},
        "a lock's user without a password": {"config": {"zookeeper": {"username": "rk"}}},
        "workers": {"config": {"workers": {"processes": 2}}},
    },
}
CASES = [(chart, name) for chart in CHARTS for name in itertools.chain(REFUSED, REFUSED_BY[chart])]


def merged(base, more):
    """As helm merges: None removes, mappings are merged."""
    found = dict(base)
    for name, value in more.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name) or {}, value) if isinstance(value, dict) else value
    return found


@pytest.mark.parametrize(("chart", "name"), CASES, ids=[f"{chart}: {name}" for chart, name in CASES])
def test_what_cannot_be_meant_is_refused(helm_program, chart, name, tmp_path):
    values = merged(BASE[chart], (REFUSED | REFUSED_BY[chart])[name])
    done = run(helm_program, chart, values, tmp_path)
    assert done.returncode != 0, done.stdout
    assert re.search(r"values don't meet the specifications of the schema|execution error at .*: \w+", done.stderr)


@pytest.mark.parametrize("chart", CHARTS)
def test_what_was_made_wrong_above_is_all_that_is_wrong(helm_program, chart, tmp_path):
    assert run(helm_program, chart, BASE[chart], tmp_path).returncode == 0


@pytest.mark.parametrize("chart", CHARTS)
def test_helm_has_nothing_to_say(helm_program, chart, tmp_path):
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(BASE[chart]))
    command = [helm_program, "lint", "--strict", HELM / chart, "-f", tmp_path / "values.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


def objects(schema):
    """Every part of a schema that describes an object."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for part in schema.values():
            yield from objects(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from objects(part)


@pytest.mark.parametrize("chart", CHARTS)
def test_the_schema_lets_nothing_through_that_it_does_not_know(chart):
    schema = yaml.safe_load(DERIVED[f"helm/{chart}/values.schema.json"]())
    kubernetes_own = ({"type": "object"},)  # peers, tolerations, affinity
    loose = [part for part in objects(schema) if "additionalProperties" not in part and part not in kubernetes_own]
    assert loose == []
    assert len(list(objects(schema))) > 40


@pytest.mark.parametrize("chart", CHARTS)
def test_every_value_has_a_default_or_is_asked_for(chart):
    schema = yaml.safe_load(DERIVED[f"helm/{chart}/values.schema.json"]())
    values = yaml.load((HELM / chart / "values.yaml").read_text(), Strict)
    assert values.keys() == schema["properties"].keys() - {"global"}


def test_both_charts_share_what_both_have():
    site, controller = (HELM / chart / "templates/_common.tpl" for chart in CHARTS)
    assert site.read_text() == controller.read_text()


@pytest.mark.parametrize("chart", CHARTS)
def test_the_chart_is_of_this_version(chart):
    from regional_keystone import __version__

    facts = yaml.safe_load((HELM / chart / "Chart.yaml").read_text())
    assert (facts["name"], str(facts["appVersion"])) == (chart, __version__)


def script(manifests, root):
    """The first container's script, with its places below `root`."""
    (container,) = pods(manifests)[0]["initContainers"]
    (text,) = container["args"]
    return container["command"], re.sub(
        r"(/secrets|/run/regional-keystone|/var/lib/regional-keystone)\b", rf"{root}\1", text
    )


def copy_secrets(manifests, root, pod):
    command, text = script(manifests, root)
    subprocess.run([*command, text], check=True, env={"PATH": os.environ["PATH"], "POD_NAME": pod}, timeout=20)


def laid(root, files):
    for name, text in files.items():
        path = root / "secrets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o440)  # as Kubernetes shows them to a group
    (root / "run/regional-keystone").mkdir(parents=True)
    (root / "var/lib/regional-keystone").mkdir(parents=True)


def found(root):
    return {
        str(path.relative_to(root)): (path.stat().st_mode & 0o777, path.read_text())
        for path in root.rglob("*")
        if path.is_file()
    }


def test_a_pod_of_a_site_gets_its_own_join_token_and_no_other(render, tmp_path):
    laid(tmp_path, {"own-join/oslo-0": "first", "own-join/oslo-1": "second", "tls/tls.crt": "c", "tls/tls.key": "k"})
    copy_secrets(render(SITE, "everything"), tmp_path, "oslo-1")
    expected = {"join/token": (0o400, "second"), "tls/tls.crt": (0o400, "c"), "tls/tls.key": (0o400, "k")}
    assert found(tmp_path / "run/regional-keystone") == expected
    copy_secrets(render(SITE, "everything"), tmp_path, "oslo-1")  # a container may be started again
    assert found(tmp_path / "run/regional-keystone") == expected


def test_a_pod_without_a_token_of_its_own_starts_all_the_same(render, tmp_path):
    laid(tmp_path, {"own-join/oslo-0": "first"})
    copy_secrets(render(SITE, "everything"), tmp_path, "oslo-7")
    assert found(tmp_path / "run/regional-keystone") == {}


def test_a_controller_gets_the_authority_once(render, tmp_path):
    laid(tmp_path, {"own-authority/ca.key": "key", "own-authority/cluster": "c"})
    state = tmp_path / "var/lib/regional-keystone/state/authority"
    copy_secrets(render(CONTROLLER, "several"), tmp_path, "oslo-0")
    assert found(state) == {"ca.key": (0o400, "key"), "cluster": (0o400, "c")}
    assert state.stat().st_mode & 0o777 == 0o700
    assert state.parent.stat().st_mode & 0o777 == 0o700
    (tmp_path / "secrets/own-authority/ca.key").write_text("another")
    copy_secrets(render(CONTROLLER, "several"), tmp_path, "oslo-0")
    assert found(state)["ca.key"] == (0o400, "key")
