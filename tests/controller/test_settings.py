"""What is configured means one thing, or is refused with the place and the nearest name."""

import re
from pathlib import Path

import pytest

from controller import up
from controller.federation import Home, Member
from controller.launch import Options
from controller.settings import Settings as ControllerSettings
from controller.settings import checked
from regional_keystone import settings
from regional_keystone.settings import ConfigurationError, Settings, load
from tests.golden.derived import DERIVED

ROOT = Path(__file__).parents[2]


def written(path, text):
    path.write_text(text)
    return path


def test_an_empty_file_is_the_embedded_mode(tmp_path):
    assert load(Settings, written(tmp_path / "empty.conf", ""), environ={}) == Settings()


def test_each_place_replaces_the_one_before(tmp_path):
    file = written(tmp_path / "a.conf", "[token]\nexpiration = 10\n[listen]\nport = 10\nadmin_port = 10\n")
    environ = {"RK_LISTEN__PORT": "20", "RK_LISTEN__ADMIN_PORT": "20", "HOME": "/root"}
    found = load(Settings, file, ["listen.admin_port=30"], environ)
    assert (found.token.expiration, found.listen.port, found.listen.admin_port) == (10, 20, 30)


def test_every_type_is_read():
    sets = ["DEFAULT.debug=yes", "auth.methods=password, token", "freshness.system=1.5", "site.state_dir=/var/x"]
    found = load(Settings, None, sets, {})
    assert found.default.debug is True
    assert found.auth.methods == ("password", "token")
    assert found.freshness.system == 1.5
    assert found.site.state_dir == Path("/var/x")
    assert load(Settings, None, ["policy.file="], {}).policy.file is None


def test_an_older_name_of_an_option_means_the_same_everywhere(tmp_path):
    file = written(tmp_path / "a.conf", "[database]\ncassandra_node_ips = 10.0.0.1, 10.0.0.2\n")
    named = "database.cassandra_node_ips=10.0.0.1,10.0.0.2"
    environ = {"RK_DATABASE__CASSANDRA_NODE_IPS": "10.0.0.1,10.0.0.2"}
    for found in (
        load(Settings, file, environ={}),
        load(Settings, None, [named], {}),
        load(Settings, None, environ=environ),
        load(Settings, None, settings.environment(environ), {}),
        load(Settings, written(tmp_path / "b.conf", "[cassandra]\ncontact_points = 10.0.0.3\n"), [named], {}),
    ):
        assert found.cassandra.contact_points == ("10.0.0.1", "10.0.0.2")
    assert settings.knows(Settings, named)  # else a federation on one machine would not pass it on
    assert not settings.knows(Settings, "database.connection=x")


def test_two_names_of_one_option_with_different_values_are_refused(tmp_path):
    text = "[database]\ncassandra_node_ips = 10.0.0.1\n[cassandra]\ncontact_points = "
    assert load(Settings, written(tmp_path / "a.conf", text + "10.0.0.1\n"), environ={}).cassandra.contact_points
    names = r"\[database\] cassandra_node_ips and \[cassandra\] contact_points .* leave one away"
    with pytest.raises(ConfigurationError, match=rf"b\.conf: {names}"):
        load(Settings, written(tmp_path / "b.conf", text + "10.0.0.2\n"), environ={})
    with pytest.raises(ConfigurationError, match=names):
        load(Settings, None, ["database.cassandra_node_ips=a", "cassandra.contact_points=b"], {})
    with pytest.raises(ConfigurationError, match=names):
        load(Settings, None, environ={"RK_DATABASE__CASSANDRA_NODE_IPS": "a", "RK_CASSANDRA__CONTACT_POINTS": "b"})
    assert load(Settings, None, ["cassandra.contact_points=a", "cassandra.contact_points=b"], {})


@pytest.mark.parametrize(
    ("text", "place", "cure"),
    [
        ("[tokn]\nexpiration = 1\n", "a.conf: there is no section [tokn]", "did you mean token?"),
        ("[token]\nexpirations = 1\n", "a.conf: there is no option expirations in [token]", "did you mean expiration?"),
        ("[database]\nconnection = x\n", "no option connection in [database]", "; there is cassandra_node_ips"),
        ("[stream]\nport = 1\n", "a.conf: there is no section [stream]", ""),
        ("[token\n", "a.conf:1", "Invalid section"),
        ("expiration = 1\n", "a.conf:1", "Section must be started"),
    ],
)
def test_what_is_unknown_in_a_file_is_refused_with_the_nearest_name(tmp_path, text, place, cure):
    with pytest.raises(ConfigurationError) as refused:
        load(Settings, written(tmp_path / "a.conf", text), environ={})
    assert place in str(refused.value)
    assert cure in str(refused.value)


@pytest.mark.parametrize("name", ["RK_TOKEN__EXPIRATON", "RK_TOKN__EXPIRATION", "RK_TOKEN_EXPIRATION"])
def test_what_is_unknown_in_the_environment_is_refused(name):
    with pytest.raises(ConfigurationError, match=name):
        load(Settings, None, environ={name: "1"})


@pytest.mark.parametrize(
    "assignment",
    [
        "token.expiration",
        "expiration=1",
        "token.x=1",
        "token.expiration=soon",
        "token.expiration=0",
        "listen.port=65536",
    ],
)
def test_what_cannot_be_meant_on_the_command_line_is_refused(assignment):
    with pytest.raises(ConfigurationError):
        load(Settings, None, [assignment], {})


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"none\.conf: No such file"):
        load(Settings, tmp_path / "none.conf", environ={})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "identity.example"])
def test_passwords_never_cross_a_network_in_clear(host):
    with pytest.raises(ConfigurationError, match="is not loopback"):
        load(Settings, None, [f"listen.host={host}"], {})
    load(Settings, None, [f"listen.host={host}", "listen.tls_cert=/c", "listen.tls_key=/k"], {})
    load(Settings, None, [f"listen.host={host}", "listen.trusted_proxies=10.0.0.0/8"], {})


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_loopback_needs_no_certificate(host):
    assert load(Settings, None, [f"listen.host={host}"], {}).listen.host == host


def test_half_a_certificate_is_refused():
    with pytest.raises(ConfigurationError, match="together"):
        load(Settings, None, ["listen.tls_cert=/c"], {})


def test_a_controller_has_what_a_site_has_and_sections_of_its_own():
    site, controller = settings.options(Settings), settings.options(ControllerSettings)
    assert site.keys() < controller.keys()
    assert {section for section, _ in controller.keys() - site.keys()} == {
        "controller",
        "stream",
        "bootstrap",
        "zookeeper",
    }


def test_the_effective_settings_are_a_file_that_means_the_same(tmp_path):
    found = load(ControllerSettings, None, ["stream.port=7", "auth.methods=password", "DEFAULT.debug=true"], {})
    again = load(ControllerSettings, written(tmp_path / "b.conf", settings.effective(found)), environ={})
    assert again == found


def test_the_sample_uncommented_means_the_defaults(tmp_path):
    text = re.sub(r"(?m)^#(\w+ =)", r"\1", settings.sample(ControllerSettings, "A sample."))
    assert load(ControllerSettings, written(tmp_path / "c.conf", text), environ={}) == ControllerSettings()


@pytest.mark.parametrize("name", DERIVED)
def test_what_is_derived_is_as_it_was_reviewed(name):
    assert (ROOT / name).read_text() == DERIVED[name](), "changed on purpose? make golden"


def test_every_option_is_read_by_something():
    """By its section's name in a file that takes the section from the settings."""
    paths = [path for package in ("regional_keystone", "controller") for path in (ROOT / package).rglob("*.py")]
    sources = [path.read_text() for path in paths if path.name not in {"settings.py", "sections.py"}]

    def is_read(section, name):
        used = re.compile(rf"\b({section}|settings|_?section|rules)\.{name}\b")
        kind = section.title().replace("_", "")
        taken = re.compile(rf"settings\.{section}\b|(?:settings|sections) import [^\n]*\b{kind}\b")
        return any(used.search(one) and taken.search(one) for one in sources)

    assert [
        f"{section}.{name}" for section, name in settings.options(ControllerSettings) if not is_read(section, name)
    ] == []


@pytest.mark.parametrize(
    ("most", "interval", "least"),
    [(3, 86_400, 8), (7, 86_400, 8), (2, 0, 3), (4, 432_000, None), (8, 86_400, None), (0, 1, None)],
)
def test_fewer_keys_than_tokens_need_are_refused_with_the_sum(tmp_path, most, interval, least):
    sets = (f"keys.max_active_keys={most}", f"keys.rotation_interval={interval}")
    if least is None:
        assert load(ControllerSettings, None, sets).keys.max_active_keys == most
        return
    with pytest.raises(settings.ConfigurationError, match=f"set {least} or more") as refusal:
        load(ControllerSettings, None, sets)
    if interval:
        assert f"ceil((3600 + 172800 + 259200) / {interval}) + 2 = {least}" in str(refusal.value)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "", "  "])
@pytest.mark.parametrize("option", ["freshness.system", "keys.isolation_s", "token.expiration", "listen.port"])
def test_a_number_is_there_and_finite(option, text):
    with pytest.raises(ConfigurationError, match=rf"{option} = .*(finite number|no number is there; give a number)"):
        load(Settings, None, [f"{option}={text}"], {})


def test_what_may_be_none_may_be_empty():
    assert load(Settings, None, ["DEFAULT.list_limit="], {}).default.list_limit is None
    with pytest.raises(ConfigurationError, match="finite"):
        load(Settings, None, ["identity.password_hash_rounds=nan"], {})


def test_a_file_of_the_other_kind_is_refused_with_what_to_do(tmp_path):
    controllers = written(tmp_path / "a.conf", "[controller]\nregion = Global\n")
    with pytest.raises(ConfigurationError, match=r"a controller's settings; leave --site away"):
        checked(controllers, (), site=True)
    assert isinstance(checked(controllers, (), site=False), ControllerSettings)
    for line in ("join_token_file = /t", "controllers = https://10.0.0.1:5002"):
        sites = written(tmp_path / "b.conf", f"[site]\n{line}\n")
        with pytest.raises(ConfigurationError, match=r"b\.conf: only a site has .*; check it with --site"):
            checked(sites, (), site=False)
        assert not isinstance(checked(sites, (), site=True), ControllerSettings)
    broken = written(tmp_path / "c.conf", "[nothing]\n")
    with pytest.raises(ConfigurationError) as refused:
        checked(broken, (), site=True)
    assert "leave --site away" not in str(refused.value)  # it would not help


def test_a_members_file_says_all_that_was_set(tmp_path):
    home = Home.at(tmp_path / "federation")
    home.prepare()
    members = [Member("controller", 5000, 5001, 5002), Member("Oslo", 5003, 5004)]
    sets = (
        "DEFAULT.debug=true",
        "freshness.system=7.5",
        "policy.file='odd'",
        "database.cassandra_node_ips=10.0.0.1, 10.0.0.2",
        "stream.certificate_lifetime_s=600",
        "site.controllers=https://10.0.0.9:5002",
    )
    options = Options(home, sets=sets)
    own = ["listen.port=5003", "listen.admin_port=5004", "listen.public_endpoint=http://127.0.0.1:5003"]
    own.append(f"site.state_dir={home.state('Oslo')}")
    as_told = [one for one in sets if settings.knows(Settings, one)]
    oslo = checked(up._write_config(options, members, members[1], {}), (), site=True)
    assert oslo == load(Settings, None, [*own, *as_told], {})
    assert (oslo.freshness.system, str(oslo.policy.file)) == (7.5, "'odd'")
    controller = checked(up._write_config(options, members, members[0], {}), (), site=False)
    assert (controller.stream.certificate_lifetime_s, controller.default.debug) == (600, True)
    assert "--set" not in up._command(options, home.config("Oslo"), members[1], 3, 4)
