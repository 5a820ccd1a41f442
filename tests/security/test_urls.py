"""The URLs that administrators store: what is filled into them, what they may be, and that nobody here ever asks them."""

import contextlib
import socket
from urllib.parse import quote

import pytest

from regional_keystone.catalog import MAX_BYTES, Catalog
from regional_keystone.model import Service
from tests.security.regions import NAMES
from tests.security.rows import HOLDS, row
from tests.site.realm import endpoint

NAMES_OF_OURS = (
    "admin_token",
    "password",
    "user_domain_id",
    "__class__",
    "project_id.__class__",
    "project_id[0]",
    "project_id!r",
    "0",
    "",
    " project_id",
    "PROJECT_ID",
    "(project_id)",
)
FORMS = ("$({})s", "%({})s")
WIDTHS = ("{}5000000s", "{}-5000000s", "{}05000000s", "{}.5000000s", "{}5000000d", "{}10s", "{}10000000000s", "{}*s")
BROKEN = (
    "http://x/%",
    "http://x/%s",
    "http://x/%5000000d",
    "http://x/$(project_id",
    "http://x/$(project_id)",
    "http://x/%%%",
)
GOOD = {
    "http://x/v3": "http://x/v3",
    "https://x/$(project_id)s": "https://x/{project}",
    "http://x/%(tenant_id)s/$(user_id)s": "http://x/{project}/{user}",
    "wss://x/100%%": "wss://x/100%",
    "HTTP://x/$project_id": "HTTP://x/$project_id",
}
SCHEMES = (
    "file:///etc/shadow",
    "FILE:///etc/shadow",
    "gopher://127.0.0.1:11211/_stats",
    "javascript:alert(1)",
    "JavaScript://x/%0aalert(1)",
    "data:text/html,x",
    "ftp://x/",
    "ldap://x/",
    "dict://x:11211/stats",
    "jar:http://x!/",
    "http+unix://%2Fvar%2Frun/",
    "httpx://x/",
    "a.http://x/",
)
SERVICES = "/v3/OS-FEDERATION/service_providers"


@contextlib.contextmanager
def service(regions):
    """A service of the catalog that is gone afterwards, with what it has."""
    made = regions.make("service", type="tried", name="tried")
    yield made
    regions.expect(204, "DELETE", f"/v3/services/{made['id']}")


def create(regions, at, service_id, url):
    body = {"endpoint": {"service_id": service_id, "interface": "public", "url": url}}
    return regions.ask("POST", "/v3/endpoints", body, at=at)


def change(regions, at, made, url):
    return regions.ask("PATCH", f"/v3/endpoints/{made['id']}", {"endpoint": {"url": url}}, at=at)


def refused(regions, urls):
    """Each of these is refused, as a new endpoint and as a change of one, in every region; nothing is stored."""
    with service(regions) as made:
        one = create(regions, "Global", made["id"], "http://good/").body["endpoint"]
        for url in urls:
            for at in NAMES:
                for answer in (create(regions, at, made["id"], url), change(regions, at, one, url)):
                    assert answer.status == 400, (url, at, answer.body)
                    assert len(str(answer.body)) < 2000
        for at in NAMES:
            found = regions.expect(200, "GET", f"/v3/endpoints?service_id={made['id']}", at=at)["endpoints"]
            assert [(one["id"], one["url"]) for one in found] == [(one["id"], "http://good/")]


def catalog_of(regions, home, at):
    """What a new token of this user shows of the service that is tried."""
    body = regions.log_in(home.auth(), at).body
    return [one for one in body["token"]["catalog"] if one["type"] == "tried"]


@row("SEC-78", "an endpoint's URL is filled in with nothing but what is on the list", HOLDS)
def test_sec_78_only_listed_names_are_filled_in(regions):
    refused(regions, [f"http://x/{form.format(name)}" for form in FORMS for name in NAMES_OF_OURS] + list(BROKEN))
    home = regions.household()
    values = {"project": home.project["id"], "user": home.user["id"]}
    with service(regions) as made:
        for url in GOOD:
            assert create(regions, "RegionTwo", made["id"], url).status == 201, url
        region = "$(user_id)s%(user_id)s%s{user_id}"
        regions.make("region", id=region)
        body = {"service_id": made["id"], "interface": "admin", "url": "http://y/", "region_id": region}
        named = regions.make("endpoint", **body)
        for at in NAMES:
            [shown] = catalog_of(regions, home, at)
            found = {one["url"] for one in shown["endpoints"]}
            assert found == {url.format(**values) for url in GOOD.values()} | {"http://y/"}
            assert region in [one["region_id"] for one in shown["endpoints"]], "only URLs are filled in"
        regions.expect(204, "DELETE", f"/v3/endpoints/{named['id']}")
        regions.expect(204, "DELETE", f"/v3/regions/{quote(region, safe='')}")


@row("SEC-79", "no endpoint's URL makes a catalog long", "")
def test_sec_79_no_url_makes_a_catalog_long(regions):
    """A row that came another way, as by an import, is left out of catalogs; and no catalog is longer than is said."""
    wide = [f"http://x/{width.format(form.format('project_id')[:-1])}" for form in FORMS for width in WIDTHS]
    refused(regions, wide)
    identity = Service(id="s" * 32, type="identity", name="keystone")
    stored = [endpoint("R", url) for url in wide]
    [shown] = Catalog([identity], [*stored, endpoint("R", "http://good/")]).visible("u", "p" * 32)
    assert [one["url"] for one in shown["endpoints"]] == ["http://good/"]
    many = [Service(id=f"{number:032}", type="t", name=f"n{number}") for number in range(200)]
    long = [
        endpoint("R", f"http://x/{'y' * 200}", service_id=one.id, interface=f"i{n}") for one in many for n in range(50)
    ]
    assert 0 < len(Catalog(many, long).rendered("u", "p")) <= MAX_BYTES


@row("SEC-80", "addresses that are stored are of the web, and nobody here follows them", "weaker: takes any scheme")
def test_sec_80_nothing_that_is_stored_is_asked(regions):
    """Providers' own metadata, whose fetching is a matter of its own, comes with them."""
    refused(regions, SCHEMES)
    good, home = {"auth_url": "https://a/", "sp_url": "https://b/"}, regions.household()
    regions.expect(201, "PUT", f"{SERVICES}/tried", {"service_provider": good | {"enabled": True}})
    for url in SCHEMES:
        for at in NAMES:
            for name in good:
                for method, path in (("PUT", f"{SERVICES}/bad"), ("PATCH", f"{SERVICES}/tried")):
                    answer = regions.ask(method, path, {"service_provider": good | {name: url}}, at=at)
                    assert answer.status == 400, (url, at, method, answer.body)
    with socket.create_server(("127.0.0.1", 0)) as trap, service(regions) as made:
        trap.setblocking(False)
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/"
        assert create(regions, "RegionOne", made["id"], url).status == 201
        regions.expect(200, "PATCH", f"{SERVICES}/tried", {"service_provider": {"auth_url": url, "sp_url": url}})
        provider = {"identity_provider": {"enabled": True, "remote_ids": [url]}}
        regions.expect(201, "PUT", "/v3/OS-FEDERATION/identity_providers/tried", provider, at="RegionTwo")
        for at in NAMES:
            token = regions.login(home.auth(), at)
            assert url in str(catalog_of(regions, home, at))
            assert regions.validate(token, at).status == 200
            for path in ("/v3/auth/catalog", "/v3/endpoints", SERVICES, "/v3/OS-FEDERATION/identity_providers"):
                regions.expect(200, "GET", path, token=token if "auth" in path else None, at=at)
        for path in (f"{SERVICES}/tried", "/v3/OS-FEDERATION/identity_providers/tried"):
            regions.expect(204, "DELETE", path)
        with pytest.raises(BlockingIOError):
            trap.accept()
