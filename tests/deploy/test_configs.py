"""Every file of configs/ is one that the program it is for reads."""

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from controller.settings import Settings as ControllerSettings
from regional_keystone import settings
from regional_keystone.metrics import Metrics
from tests.processes import rkctl

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
SITES = {"one-machine/site", "one-region/site", "three-regions/site", "memcached-tls", "region"}
CONTROLLERS = {"one-machine/controller", "three-regions/controller", "zookeeper-tls", "controller"}
OTHERS = {"keystone_authtoken"}
LOADED = sorted(SITES | CONTROLLERS)
KNOWN_OPTIONS = """
from keystoneauth1.loading import get_plugin_loader
from keystonemiddleware.auth_token import _opts
names = {option.dest for group, options in _opts.list_opts() if group == "keystone_authtoken" for option in options}
print("\\n".join(names | {option.dest for option in get_plugin_loader("password").get_options()}))
"""


def kind(name):
    return settings.Settings if name in SITES else ControllerSettings


def path(name):
    return CONFIGS / f"{name}.conf"


def test_every_file_is_loaded_below():
    there = {str(file.relative_to(CONFIGS).with_suffix("")) for file in CONFIGS.rglob("*.conf")}
    assert there == SITES | CONTROLLERS | OTHERS


def test_alerts_ask_for_metrics_that_there_are():
    declared = {line.partition("{")[0] for line in Metrics().declared}
    rules = [
        rule for group in yaml.safe_load((CONFIGS / "alerts.yml").read_text())["groups"] for rule in group["rules"]
    ]
    asked = [name for rule in rules for name in re.findall(r"regional_keystone_\w+", rule["expr"])]
    assert len(asked) >= len(rules) > 0
    assert set(asked) <= declared
    assert [rule["alert"] for rule in rules if not rule["alert"].startswith("RegionalKeystone")] == []


@pytest.mark.parametrize("name", LOADED)
def test_the_program_reads_it(name):
    found = settings.load(kind(name), path(name), environ={})
    assert (found == kind(name)()) == (name in {"region", "controller"})  # these show the defaults


@pytest.mark.parametrize("name", ["one-machine/controller", "three-regions/site"])
def test_rkctl_finds_nothing_wrong_with_it(name):
    done = rkctl("config", "check", *(["--site"] if name in SITES else []), str(path(name)))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", LOADED)
def test_no_secret_is_in_it(name):
    """Secrets are files of their own, so every option whose name sounds like one ends in `_file`."""
    parser = configparser.RawConfigParser(strict=True)
    parser.read(path(name))
    options = [option for section in parser.sections() for option in parser.options(section)]
    assert [one for one in options if one.endswith(("password", "secret", "token"))] == []


@pytest.mark.parametrize("name", ["one-machine/site", "one-region/site", "three-regions/site"])
def test_a_join_token_lies_where_the_unit_may_remove_it(name):
    site = settings.load(settings.Settings, path(name), environ={}).site
    unit = configparser.RawConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(CONFIGS / "systemd" / "regional-keystone-site@.service")
    writable = Path("/var/lib") / unit["Service"]["StateDirectory"].replace("%i", site.state_dir.name)
    assert unit["Service"]["ProtectSystem"] == "strict"
    assert writable == site.state_dir == site.join_token_file.parent


def test_three_regions_are_what_they_are_called():
    site = settings.load(settings.Settings, path("three-regions/site"), environ={})
    controller = settings.load(ControllerSettings, path("three-regions/controller"), environ={})
    for one in (site, controller):
        assert one.cassandra.contact_points
        assert one.cassandra.tls_ca
        assert one.cassandra.password_file
        assert one.listen.trusted_proxies
    assert len(controller.cassandra.replication) == 3
    assert len(site.site.controllers) == 2
    assert controller.stream.advertise in site.site.controllers
    assert site.cassandra.username != controller.cassandra.username
    assert (controller.zookeeper.tls_ca is None, site.memcached.tls_ca is None) == (False, False)


def test_services_are_told_only_what_the_middleware_knows():
    done = subprocess.run([sys.executable, "-c", KNOWN_OPTIONS], capture_output=True, text=True, check=True)
    known = {name.replace("-", "_") for name in done.stdout.split()} | {"region_name", "interface"}
    parser = configparser.RawConfigParser(strict=True)
    parser.read(path("keystone_authtoken"))
    told = dict(parser["keystone_authtoken"])
    assert told.keys() <= known
    assert told["service_token_roles_required"] == "true"
    assert told["memcache_security_strategy"] == "ENCRYPT"
    assert int(told["token_cache_time"]) < 300
