"""The doctor tells from a service's configuration whether a site can delete what its middleware keeps."""

import asyncio
import json

import msgspec
import pytest

from controller.doctor import examine
from regional_keystone.enrol import Membership
from regional_keystone.settings import Settings, load
from tests.processes import free_port, rkctl

SECRET = "of all services in this region"
SERVERS = "cache1.oslo.example:11211,cache2.oslo.example:11211"
NOVA = f"""\
[DEFAULT]
transport_url = rabbit://nova:pw%25@mq:5672
debug
[keystone_authtoken]
auth_url = https://identity.oslo.example:5000
memcached_servers = {SERVERS}
memcache_security_strategy = encrypt
memcache_secret_key = {SECRET}
[wsgi]
api_paste_config = /etc/nova/api-paste.ini
"""
SWIFT = """\
[pipeline:main]
pipeline = catch_errors cache authtoken keystoneauth proxy-server
[filter:cache]
use = egg:swift#memcache
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
auth_url = https://identity.oslo.example:5000
cache = swift.cache
"""
PASTE = """\
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
"""


@pytest.fixture
def told(tmp_path):
    """A site's configuration and a service's, in files."""
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)

    def write(service, strategies="none,ENCRYPT:{secret}", servers=SERVERS):
        site, file = tmp_path / "site.conf", tmp_path / "service.conf"
        listed = strategies.format(secret=secret)
        site.write_text(
            f"[site]\nstate_dir = {tmp_path}/state\n[middleware_cache]\nservers = {servers}\nstrategies = {listed}\n"
        )
        file.write_text(service)
        return site, file

    return write


@pytest.fixture
def doctor(told):
    def ask(service, **options):
        site, file = told(service, **options)
        found = asyncio.run(examine(load(Settings, site), [file]))
        assert SECRET not in str(found)
        return [(*one[1:2], one.detail.partition(": ")[2], one.cure) for one in found if one.check == "service"]

    return ask


def test_a_service_that_is_reached_and_what_keeps_others_from_it(doctor):
    assert doctor(NOVA) == [("OK", "what it keeps is deleted when a token ends", "")]
    for text, options, detail, cure in (
        (NOVA.replace("memcached_servers", "#"), {}, "without memcached_servers", f"memcached_servers = {SERVERS}"),
        (NOVA.replace("cache2", "cache3"), {}, "cache3.oslo.example:11211, which", "[middleware_cache] servers"),
        (NOVA, {"servers": ""}, "told of no server", f"servers = {SERVERS}"),
        (NOVA, {"strategies": "none"}, "memcache_security_strategy = ENCRYPT", "add ENCRYPT:FILE"),
        (NOVA.replace(SECRET, "another"), {}, "memcache_secret_key is none", "FILE with this secret"),
        (NOVA.replace("[wsgi]", "token_cache_time = 900\n[wsgi]"), {}, "remembers for 300 s only", "= 900"),
        (NOVA.replace("[wsgi]", "memcache_sasl_enabled = true\n[wsgi]"), {}, "cannot log in", "memcache_tls_enabled"),
        (NOVA.replace("[wsgi]", "memcache_tls_enabled = 1\n[wsgi]"), {}, "speaks TLS", "tls_ca"),
        (SWIFT, {}, "cache = swift.cache", f"remove it and set memcached_servers = {SERVERS}"),
    ):
        ((state, said, told),) = doctor(text, **options)
        assert state == "WARN"
        assert detail in said
        assert cure in told


def test_a_service_that_may_ask_another_region_is_told_which_is_the_sites(doctor, tmp_path):
    identity = tmp_path / "state" / "identity"
    identity.mkdir(mode=0o700, parents=True)
    member = Membership(cluster="c", name="Oslo", instance="i", controllers=(), signers=())
    (identity / "membership").write_bytes(msgspec.json.encode(member))
    for region, said in (("", "without region_name"), ("region_name = Rome\n", "region_name = Rome")):
        ((state, detail, cure),) = doctor(NOVA.replace("[wsgi]", f"{region}[wsgi]"))
        assert (state, cure) == ("WARN", "set region_name = Oslo")
        assert said in detail
    assert [state for state, *_ in doctor(NOVA.replace("[wsgi]", "region_name = Oslo\n[wsgi]"))] == ["OK"]


def test_a_server_that_is_not_there_is_told(told):
    site, file = told(NOVA, servers=f"127.0.0.1:{free_port()}")
    found = asyncio.run(examine(load(Settings, site), [file]))
    assert [one.state for one in found if one.check == "middleware_cache"] == ["WARN"]


def test_a_service_that_keeps_nothing_and_a_port_that_is_not_written_are_no_fault(doctor):
    nothing = NOVA.replace("memcached_servers", "token_cache_time = -1\n#")
    for text in (nothing, NOVA.replace(":11211", "")):
        assert [state for state, *_ in doctor(text)] == ["OK"]


def test_a_file_that_says_nothing_or_cannot_be_read_is_told(doctor):
    assert [doctor(text)[0][0] for text in (PASTE, "no section")] == ["WARN", "FAIL"]


@pytest.mark.parametrize(("strategies", "code"), [("none,ENCRYPT:{secret}", 0), ("ENCRYPT:/nowhere", 1)])
def test_the_command_fails_only_for_what_it_cannot_read(told, strategies, code):
    site, file = told(NOVA, strategies=strategies)
    done = rkctl("doctor", "--site", "--json", "--config", str(site), "--service", str(file))
    assert done.returncode == code
    assert {one["check"] for one in json.loads(done.stdout)["checks"]} >= {"middleware_cache" if code else "service"}
