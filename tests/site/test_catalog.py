"""What a catalog shows: all regions, in order, literally substituted, bounded."""

import json

import pytest

from regional_keystone.catalog import MAX_BYTES, Catalog
from regional_keystone.model import Service
from tests.site.realm import endpoint

S = Service(id="s" * 32, type="identity", name="keystone")


def urls(*given, project="p", names=None):
    found = Catalog([S], [endpoint("R", url, interface=f"i{place:03}") for place, url in enumerate(given)], names=names)
    return [one["url"] for one in found.visible("u", project)[0]["endpoints"]]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://x/v3", "http://x/v3"),
        ("http://x/$(project_id)s", "http://x/p"),
        ("http://x/%(tenant_id)s/$(user_id)s", "http://x/p/u"),
        ("http://x/100%%", "http://x/100%"),
        ("$(public_endpoint)s/v3", "http://front/v3"),
    ],
)
def test_the_allowed_names_are_replaced(url, shown):
    assert urls(url, names={"public_endpoint": "http://front"}) == [shown]


@pytest.mark.parametrize(
    "url",
    [
        "http://x/$(admin_token)s",
        "http://x/$(project_id)",
        "http://x/$(project_id)d",
        "http://x/$(project_id)5000000s",
        "http://x/%s",
        "http://x/50%",
        "http://x/%(project_id",
        "http://x/$(project_id",
        "http://x/$(compute_host)s",
        "http://x/$(__class__)s",
        "http://x/$(project_id)s/%5000000d",
        "",
    ],
)
def test_what_cannot_be_completed_is_left_out(url):
    assert urls(url, "http://good") == ["http://good"]


def test_without_a_project_what_asks_for_one_is_left_out():
    assert urls("http://x/$(project_id)s", "http://x/%(tenant_id)s", "http://x", project=None) == ["http://x"]


def test_a_value_is_never_read_as_a_template():
    catalog = Catalog([S], [endpoint("R", "http://x/$(project_id)s")])
    assert catalog.visible("u", "$(user_id)s%(user_id)s")[0]["endpoints"][0]["url"].endswith("$(user_id)s%(user_id)s")


def test_all_regions_are_listed_in_a_fixed_order_and_each_with_its_own_endpoint():
    rows = [
        endpoint(region, f"http://{region}/", interface=one)
        for region in ("B", "A", "C")
        for one in ("public", "admin")
    ]
    found = [Catalog([S], given).visible("u", "p") for given in (rows, rows[::-1])]
    assert found[0] == found[1]
    places = [(one["region"], one["interface"], one["url"]) for one in found[0][0]["endpoints"]]
    assert places == [(region, one, f"http://{region}/") for region in "ABC" for one in ("admin", "public")]
    assert all(one["region"] == one["region_id"] for one in found[0][0]["endpoints"])


def test_what_is_disabled_is_not_shown_and_a_service_without_endpoints_is():
    off = Service(id="t" * 32, type="off", enabled=False)
    bare = Service(id="v" * 32, type="volume")
    rows = [endpoint("R", "http://x", enabled=False), endpoint("R", "http://y", service_id=off.id)]
    assert Catalog([S, off, bare], rows).visible("u", "p") == [
        {"endpoints": [], "id": S.id, "type": "identity", "name": "keystone"},
        {"endpoints": [], "id": bare.id, "type": "volume", "name": ""},
    ]


def test_equal_catalogs_are_one_object_and_others_are_not():
    plain = Catalog([S], [endpoint("R", "http://x")])
    assert plain.rendered("u", "p") is plain.rendered("v", "q")
    own = Catalog([S], [endpoint("R", "http://x/$(project_id)s")])
    assert own.rendered("u", "p") != own.rendered("u", "q")
    assert json.loads(own.rendered("u", "p")) == own.visible("u", "p")


def test_a_catalog_has_a_largest_size():
    services = [Service(id=f"{number:032}", type=f"t{number:05}", name="n" * 250) for number in range(5000)]
    assert len(Catalog(services, []).rendered("u", "p")) <= MAX_BYTES + 2


def test_further_attributes_of_an_endpoint_are_shown_and_cannot_hide_its_own():
    row = endpoint("R", "http://x", extra={"note": "n", "url": "http://evil", "id": "evil"})
    shown = Catalog([S], [row]).visible("u", "p")[0]["endpoints"][0]
    assert (shown["note"], shown["url"], shown["id"]) == ("n", "http://x", row.id)
