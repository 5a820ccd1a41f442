"""HAProxy as configs/haproxy.cfg tells it, before real sites: what a client notices when one of them is lost."""

import contextlib
import http.client
import itertools
import json
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest

from controller import ask, haproxy_config
from controller.haproxy_config import Proxy, Server
from controller.probe import password
from regional_keystone.settings import ConfigurationError, Limits
from tests.processes import admin_token, ended, free_port, until, up

pytestmark = pytest.mark.federation

ROOT = Path(__file__).parents[2]
SOURCES = [f"127.0.0.{last}" for last in range(2, 18)]  # many clients: which server one gets goes by its address
PATIENCE_S = 20


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A controller and two sites that take an instant to hash a password, behind proxies on this machine."""
    with ended(tmp_path_factory.mktemp("proxied") / "federation") as home:
        settings = {
            "identity.password_hash_rounds": 14,
            "listen.trusted_proxies": "127.0.0.0/8",
            "listen.public_endpoint": "",
        }
        sets = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        done = up(home, "--port", str(free_port()), "--sites", "RegionOne,RegionTwo", *sets)
        assert done.returncode == 0, done.stderr
        yield home


def sites(home):
    return [one for one in home.members() if not one.is_controller]


def signal(home, name, number):
    return ask.control(home.control, command="signal", name=name, signal=number)


def served(member):
    return member.page("/status", PATIENCE_S)["requests"]


def metrics(member):
    connection = http.client.HTTPConnection("127.0.0.1", member.admin, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()


@contextlib.contextmanager
def proxied(program, directory, *proxies):
    """HAProxy, serving."""
    file = directory / "haproxy.cfg"
    file.write_text(haproxy_config.render(proxies))
    with (directory / "haproxy.log").open("wb") as output:
        process = subprocess.Popen([program, "-W", "-db", "-f", file], stdout=output, stderr=output)
    try:
        end = time.monotonic() + PATIENCE_S
        while not all(takes_connections(one.host, one.port) for one in proxies):
            assert process.poll() is None, (directory / "haproxy.log").read_text()
            assert time.monotonic() < end
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def takes_connections(host, port):
    with contextlib.suppress(OSError), contextlib.closing(http.client.HTTPConnection(host, port, timeout=1)) as one:
        one.connect()
        return True
    return False


@pytest.fixture
def proxy(home):
    servers = [Server(name=one.name, host="127.0.0.1", port=one.public, admin_port=one.admin) for one in sites(home)]
    return Proxy(name="region", purpose="Sites.", host="127.0.0.1", port=free_port() + 11, servers=servers)


@pytest.fixture
def region(haproxy_program, home, proxy, tmp_path):
    """The port of a proxy before both sites, which serve."""
    assert up(home).returncode in {0, 5}  # 5: both run
    with proxied(haproxy_program, tmp_path, proxy):
        yield proxy.port


class Load:
    """Clients that validate without a pause, each from an address of its own."""

    def __init__(self, port, token):
        self.answers, self.failures = 0, []
        self._port, self._token = port, token
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(source,)) for source in SOURCES[::2]]

    def __enter__(self):
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for one in self._threads:
            one.join(PATIENCE_S)

    def _run(self, source):
        for _ in itertools.takewhile(lambda _: not self._over.is_set(), itertools.count()):
            connection = http.client.HTTPConnection(
                "127.0.0.1", self._port, timeout=PATIENCE_S, source_address=(source, 0)
            )
            with contextlib.closing(connection):
                for method in ("GET", "GET", "HEAD", "GET"):
                    self._validate(connection, method)

    def _validate(self, connection, method):
        try:
            headers = {"X-Auth-Token": self._token, "X-Subject-Token": self._token}
            connection.request(method, "/v3/auth/tokens", headers=headers)
            answer = connection.getresponse()
            answer.read()
            said = answer.status
        except (OSError, http.client.HTTPException) as error:
            said = repr(error)
            connection.close()
        self.answers += 1
        if said != 200:
            self.failures.append(said)


@pytest.mark.parametrize("lost", ["RegionOne", pytest.param("RegionTwo", marks=pytest.mark.long)])
def test_no_validation_fails_when_a_site_is_killed_under_load(home, region, lost):
    with Load(region, admin_token(home, sites(home)[0])) as load:
        for one in sites(home):
            before = served(one)
            until(lambda one=one, before=before: served(one) > before + 20, "both to have their share")
        signal(home, lost, "KILL")
        killed_after = load.answers
        until(lambda: load.answers > killed_after + 200, "the other to take over")
    assert load.failures == []


def test_a_site_that_freezes_delays_validations_and_fails_none(home, region):
    with Load(region, admin_token(home, sites(home)[0])) as load:
        until(lambda: load.answers > 100, "load")
        signal(home, "RegionOne", "STOP")
        time.sleep(1)  # clients end when they have their answers; they would give up before [timeout server]
    try:
        assert load.failures == []
    finally:
        signal(home, "RegionOne", "CONT")


def login(port, source, answers, home):
    auth = json.dumps({"auth": password("admin", home.password(), "default")})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S, source_address=(source, 0))
    with contextlib.closing(connection):
        connection.request("POST", "/v3/auth/tokens", auth, {"Content-Type": "application/json"})
        answers.append(connection.getresponse().status)


def test_a_change_whose_site_died_after_it_was_sent_is_sent_to_nobody_else(home, region):
    """A login takes most of a second here; the site is killed in the middle of it."""
    first, second = sites(home)
    source = source_of(first, region)
    before, answers = served(second), []
    client = threading.Thread(target=login, args=(region, source, answers, home))
    client.start()
    until(lambda: "password_hash_queue 1" in metrics(first), "the password to be hashed")
    signal(home, first.name, "KILL")
    client.join(PATIENCE_S)
    assert answers == [502]
    assert served(second) == before


def test_a_change_that_no_site_has_seen_goes_to_another(home, region):
    """The site has just died and nobody has noticed yet: its port refuses."""
    first, second = sites(home)
    source = source_of(first, region)
    signal(home, first.name, "KILL")
    until(lambda: not takes_connections("127.0.0.1", first.public), "it to have died")
    before, answers = served(second), []
    login(region, source, answers, home)
    assert answers == [201]
    assert served(second) == before + 1


def source_of(member, port):
    """An address whose clients are sent to this site."""
    for source in SOURCES:
        before = served(member)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S, source_address=(source, 0))
        with contextlib.closing(connection):
            connection.request("GET", "/v3")
            connection.getresponse().read()
        if served(member) > before:
            return source
    raise AssertionError(f"nobody is sent to {member.name}")


def test_what_a_site_is_told_of_the_client_is_the_proxys_word(haproxy_program, home, proxy, tmp_path):
    make_certificate(tmp_path)
    secure = Proxy(
        name="region",
        purpose="Sites.",
        host="127.0.0.1",
        port=proxy.port,
        servers=proxy.servers[1:],
        certificate=tmp_path / "identity.pem",
    )
    assert up(home).returncode in {0, 5}
    context = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    with proxied(haproxy_program, tmp_path, secure):
        connection = http.client.HTTPSConnection("localhost", secure.port, timeout=PATIENCE_S, context=context)
        with contextlib.closing(connection):
            lies = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "http", "X-Forwarded-Prefix": "/evil"}
            connection.request("GET", "/v3", headers=lies)
            links = json.load(connection.getresponse())["version"]["links"]
    assert [one["href"] for one in links] == [f"https://localhost:{secure.port}/v3/"]


def make_certificate(directory):
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    files = ["-keyout", directory / "key.pem", "-out", directory / "cert.pem"]
    subprocess.run(["openssl", "req", "-x509", *kind, *names, *files], check=True, capture_output=True)
    whole = (directory / "cert.pem").read_text() + (directory / "key.pem").read_text()
    (directory / "identity.pem").write_text(whole)


def test_the_sample_is_a_configuration(haproxy_program, tmp_path):
    make_certificate(tmp_path)
    file = tmp_path / "haproxy.cfg"
    sample = (ROOT / "configs/haproxy.cfg").read_text()
    assert sample.count("/etc/haproxy/identity.pem") == 2
    file.write_text(sample.replace("/etc/haproxy", str(tmp_path)))
    done = subprocess.run([haproxy_program, "-c", "-f", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower()


def test_a_proxy_without_a_certificate_serves_the_loopback_only(proxy):
    haproxy_config.render([proxy])
    with pytest.raises(ConfigurationError, match="certificate"):
        haproxy_config.render([Proxy(name="a", purpose="", host="10.0.0.1", port=5000, servers=proxy.servers)])


def test_a_server_never_has_to_refuse_what_the_proxy_sends():
    assert haproxy_config.CONNECTIONS < Limits().connections


def test_addresses_of_version_6_are_written_in_brackets(proxy):
    server = Server(name="six", host="fd00::1", port=5000, admin_port=5001)
    text = haproxy_config.render([Proxy(name="a", purpose="", host="::1", port=5000, servers=[server])])
    assert "bind [::1]:5000\n" in text
    assert "server six [fd00::1]:5000 check port 5001\n" in text
