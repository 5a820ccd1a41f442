"""Every method of openstacksdk's identity proxy, at the controller and at a site."""

import inspect
import itertools
import json
import re
import time
from pathlib import Path
from typing import NamedTuple

import openstack
import pytest
from openstack.exceptions import ConflictException, ForbiddenException, NotFoundException
from openstack.identity.v3._proxy import Proxy

pytestmark = [
    pytest.mark.compat,
    pytest.mark.federation,
    pytest.mark.together("stock"),
    pytest.mark.filterwarnings("ignore::openstack.warnings._RemovedInSDKWarning"),
]
PLACES = {"controller": 0, "site": 1}
RULES = [{"local": [{"user": {"name": "{0}"}}], "remote": [{"type": "REMOTE_USER"}]}]
OTHER_RULES = [{"local": [{"user": {"name": "{0}"}}], "remote": [{"type": "UPN"}]}]
ACCESS_RULE = {"method": "GET", "path": "/v2.1/servers", "service": "compute"}


class Kind(NamedTuple):
    """A collection: one of them, all of them, what one is made of, what is changed, and whether one is found by name."""

    name: str
    plural: str
    made: dict
    changed: dict
    by_name: bool = True


# `$x` is the id of what a place has already
KINDS = [
    Kind("domain", "domains", {"name": "$n-d", "description": "d"}, {"description": "e", "is_enabled": False}),
    Kind("project", "projects", {"name": "$n-p", "domain_id": "$domain", "tags": ["red"]}, {"description": "e", "is_enabled": False}),
    Kind("user", "users", {"name": "$n-u", "domain_id": "$domain", "email": "a@x", "password": "one"}, {"email": "b@x"}),
    Kind("group", "groups", {"name": "$n-g", "domain_id": "$domain"}, {"description": "e"}),
    Kind("role", "roles", {"name": "$n-r", "description": "d"}, {"description": "e"}),
    Kind("region", "regions", {"id": "$n-east", "parent_region_id": "RegionOne"}, {"description": "far"}, by_name=False),
    Kind("service", "services", {"name": "$n-s", "type": "$n-kind"}, {"type": "$n-other", "is_enabled": False}),
    Kind("endpoint", "endpoints", {"service_id": "$service", "interface": "public", "url": "http://e", "region_id": "RegionTwo"}, {"url": "http://f", "is_enabled": False}, by_name=False),
    Kind("endpoint_group", "endpoint_groups", {"name": "$n-eg", "filters": {"interface": "public"}}, {"filters": {"interface": "internal"}}),
    Kind("policy", "policies", {"blob": "{}", "type": "application/json"}, {"blob": "[]"}, by_name=False),
    Kind("credential", "credentials", {"user_id": "$user", "type": "cert", "blob": "secret"}, {"blob": "other"}, by_name=False),
    Kind("mapping", "mappings", {"id": "$n-map", "rules": RULES}, {"rules": OTHER_RULES}, by_name=False),
    Kind("identity_provider", "identity_providers", {"id": "$n-idp", "domain_id": "$domain", "remote_ids": ["a"]}, {"remote_ids": ["b"], "is_enabled": False}, by_name=False),
    Kind("service_provider", "service_providers", {"id": "$n-sp", "auth_url": "http://a", "sp_url": "http://s"}, {"auth_url": "http://b", "is_enabled": False}, by_name=False),
    Kind("trust", "trusts", {"trustor_user_id": "$admin", "trustee_user_id": "$user", "project_id": "$desk", "is_impersonation": True, "roles": [{"name": "reader"}]}, {}, by_name=False),
    Kind("registered_limit", "registered_limits", {"service_id": "$service", "resource_name": "$n-cores", "default_limit": 5}, {"default_limit": 7}, by_name=False),
    Kind("limit", "limits", {"service_id": "$service", "project_id": "$project", "resource_name": "$n-ram", "resource_limit": 3}, {"resource_limit": 4}, by_name=False),
]  # fmt: skip
NO_UPDATE, NO_FIND = {"trust"}, {"registered_limit", "limit"}
GRANTS = list(itertools.product(("domain", "project", "system"), ("user", "group")))
LEFT_OUT = {}


class Place(NamedTuple):
    """A proxy at one place, a second user's connection to it, and by name the ids of what is there already."""

    url: str
    identity: Proxy
    connection: openstack.connection.Connection
    ids: dict

    def filled(self, value):
        text = json.dumps(value)
        for name in sorted(self.ids, key=len, reverse=True):
            text = text.replace(f"${name}", self.ids[name])
        return json.loads(text)


@pytest.fixture(scope="module", params=PLACES)
def place(request, federation):
    """A domain with a user, a group, a project and more, made there by the proxy."""
    member = federation.members()[PLACES[request.param]]
    word = f"sdk{request.param}"
    connection = connect(member, "admin", federation.password(), "Default", project_name="admin")
    identity = connection.identity
    domain = identity.create_domain(name=word)
    ids = {
        "n": word,
        "domain": domain.id,
        "user": identity.create_user(name=f"{word}-user", domain_id=domain.id, password="first").id,
        "group": identity.create_group(name=f"{word}-group", domain_id=domain.id).id,
        "project": identity.create_project(name=f"{word}-project", domain_id=domain.id).id,
        "role": identity.create_role(name=f"{word}-role").id,
        "service": identity.create_service(name=f"{word}-service", type=f"{word}-type").id,
        "admin": connection.current_user_id,
        "desk": connection.current_project_id,
    }
    identity.create_registered_limit(service_id=ids["service"], resource_name=f"{word}-ram", default_limit=1)
    yield Place(member.url, identity, connection, ids)
    for limit in identity.registered_limits(service_id=ids["service"]):
        identity.delete_registered_limit(limit)
    identity.delete_service(ids["service"], ignore_missing=False)
    identity.delete_role(ids["role"], ignore_missing=False)
    identity.update_domain(domain, is_enabled=False)
    identity.delete_domain(domain, ignore_missing=False)
    connection.close()


def connect(member, name, secret, domain, **scope):
    """openstacksdk as a user has it, without any file or variable of this machine."""
    if scope:
        scope["project_domain_name"] = domain
    return openstack.connect(
        load_yaml_config=False,
        load_envvars=False,
        auth_url=member.url,
        username=name,
        password=secret,
        user_domain_name=domain,
        region_name=member.region,
        identity_api_version="3",
        **scope,
    )


def has(resource, wanted):
    found = {name: getattr(resource, name) for name in wanted}
    return found == wanted


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_each_collection_is_made_read_found_listed_changed_and_emptied(place, kind):
    def method(verb):
        return getattr(place.identity, f"{verb}_{kind.name}")

    wanted = place.filled(kind.made)
    made = method("create")(**wanted)
    shown = {name: value for name, value in wanted.items() if name not in ("password", "roles")}
    assert has(made, shown)
    assert has(method("get")(made.id), shown)
    assert [has(one, shown) for one in getattr(place.identity, kind.plural)() if one.id == made.id] == [True]
    if kind.name not in NO_FIND:
        assert method("find")(made.id, ignore_missing=False).id == made.id
    if kind.by_name:
        assert method("find")(wanted["name"], ignore_missing=False).id == made.id
    if kind.name not in NO_UPDATE:
        changed = place.filled(kind.changed)
        assert has(method("update")(made.id, **changed), changed)
        assert has(method("get")(made.id), shown | changed)
    method("delete")(made.id, ignore_missing=False)
    with pytest.raises(NotFoundException):
        method("get")(made.id)
    with pytest.raises(NotFoundException):
        method("delete")(made.id, ignore_missing=False)
    assert method("delete")(made.id) is None
    if kind.name not in NO_FIND:
        assert method("find")(made.id) is None


def grant_methods(scope, actor):
    return (
        f"assign_{scope}_role_to_{actor}",
        f"validate_{actor}_has_{scope}_role",
        f"unassign_{scope}_role_from_{actor}",
    )


@pytest.mark.parametrize(("scope", "actor"), GRANTS)
def test_roles_are_given_on_each_scope_to_each_kind_of_holder(place, scope, actor):
    assign, validate, unassign = (getattr(place.identity, name) for name in grant_methods(scope, actor))
    ids = place.ids
    here = {scope: "all" if scope == "system" else ids[scope], actor: ids[actor]}
    ways = [{}] if scope == "system" else [{}, {"inherited": True}]
    for way in ways:
        assert validate(**here, role=ids["role"], **way) is False
        assign(**here, role=ids["role"], **way)
        assert validate(**here, role=ids["role"], **way) is True
        listed = [one.id for one in place.identity.role_assignments_filter(**here)]
        assert listed == ([] if way else [ids["role"]])
        everywhere = [one.role["id"] for one in place.identity.role_assignments(**{f"{actor}_id": ids[actor]})]
        assert everywhere == [ids["role"]]
        unassign(**here, role=ids["role"], **way)
        assert validate(**here, role=ids["role"], **way) is False


def test_members_of_a_group(place):
    identity, ids = place.identity, place.ids
    assert identity.check_user_in_group(ids["user"], ids["group"]) is False
    identity.add_user_to_group(ids["user"], ids["group"])
    assert identity.check_user_in_group(ids["user"], ids["group"]) is True
    assert [one.id for one in identity.group_users(ids["group"])] == [ids["user"]]
    assert [one.id for one in identity.user_groups(ids["user"])] == [ids["group"]]
    identity.remove_user_from_group(ids["user"], ids["group"])
    assert list(identity.group_users(ids["group"])) == []


def test_projects_of_a_user(place):
    identity, ids = place.identity, place.ids
    given = {"project": ids["project"], "user": ids["user"], "role": ids["role"]}
    identity.assign_project_role_to_user(**given)
    assert [one.id for one in identity.user_projects(ids["user"])] == [ids["project"]]
    identity.unassign_project_role_from_user(**given)
    assert list(identity.user_projects(ids["user"])) == []


def test_endpoints_of_projects_and_of_groups(place):
    identity, ids = place.identity, place.ids
    endpoint = identity.create_endpoint(service_id=ids["service"], interface="admin", url="http://e")
    group = identity.create_endpoint_group(name=f"{ids['n']}-admin", filters={"service_id": ids["service"]})
    assert [one.id for one in identity.endpoint_group_endpoints(group)] == [endpoint.id]

    identity.associate_endpoint_with_project(ids["project"], endpoint)
    assert [one.id for one in identity.project_endpoints(ids["project"])] == [endpoint.id]
    assert [one.id for one in identity.endpoint_projects(endpoint)] == [ids["project"]]
    identity.disassociate_endpoint_from_project(ids["project"], endpoint)
    assert list(identity.endpoint_projects(endpoint)) == []

    identity.associate_project_with_endpoint_group(group.id, ids["project"])
    assert [one.id for one in identity.endpoint_group_projects(group)] == [ids["project"]]
    assert [one.id for one in identity.project_endpoint_groups(ids["project"])] == [group.id]
    assert [one.id for one in identity.project_endpoints(ids["project"])] == [endpoint.id]
    identity.disassociate_project_from_endpoint_group(group.id, ids["project"])
    assert list(identity.endpoint_group_projects(group)) == []
    identity.delete_endpoint_group(group)
    identity.delete_endpoint(endpoint)


def test_the_configuration_of_a_domain(place):
    identity, domain = place.identity, place.ids["domain"]
    made = identity.create_domain_config(domain, identity={"driver": "ldap"}, ldap={"url": "ldap://one"})
    assert (made.identity.driver, made.ldap.url) == ("ldap", "ldap://one")
    assert identity.get_domain_config(domain).ldap.url == "ldap://one"
    identity.update_domain_config(domain, ldap={"url": "ldap://two"})
    found = identity.get_domain_config(domain)
    assert (found.identity.driver, found.ldap.url) == ("ldap", "ldap://two")
    identity.delete_domain_config(domain, ignore_missing=False)
    with pytest.raises(NotFoundException):
        identity.get_domain_config(domain)


def test_application_credentials_and_their_access_rules(place):
    identity, user = place.identity, place.ids["admin"]
    name = f"{place.ids['n']}-robot"
    made = identity.create_application_credential(user, name, access_rules=[ACCESS_RULE], roles=[{"name": "reader"}])
    assert made.secret
    with pytest.raises(ConflictException):
        identity.create_application_credential(user, name)
    shown = identity.get_application_credential(user, made.id)
    assert (shown.name, shown.secret, shown.roles[0]["name"]) == (name, None, "reader")
    assert identity.find_application_credential(user, name).id == made.id
    assert [one.name for one in identity.application_credentials(user) if one.id == made.id] == [name]

    number = shown.access_rules[0]["id"]
    rule = identity.get_access_rule(user, number)
    assert {"method": rule.method, "path": rule.path, "service": rule.service} == ACCESS_RULE
    assert number in [one.id for one in identity.access_rules(user)]
    with pytest.raises(ForbiddenException):
        identity.delete_access_rule(user, number)
    identity.delete_application_credential(user, made, ignore_missing=False)
    assert identity.find_application_credential(user, name) is None
    identity.delete_access_rule(user, number, ignore_missing=False)
    with pytest.raises(NotFoundException):
        identity.get_access_rule(user, number)


def test_protocols_of_an_identity_provider(place):
    identity, word = place.identity, place.ids["n"]
    idp = identity.create_identity_provider(id=f"{word}-web", domain_id=place.ids["domain"])
    one = identity.create_mapping(id=f"{word}-one", rules=RULES)
    two = identity.create_mapping(id=f"{word}-two", rules=RULES)
    made = identity.create_federation_protocol(idp, id="openid", mapping_id=one.id)
    assert (made.id, made.mapping_id) == ("openid", one.id)
    assert identity.get_federation_protocol(idp, "openid").mapping_id == one.id
    assert identity.find_federation_protocol(idp, "openid").id == "openid"
    assert [found.id for found in identity.federation_protocols(idp)] == ["openid"]
    identity.update_federation_protocol(idp, "openid", mapping_id=two.id)
    assert identity.get_federation_protocol(idp, "openid").mapping_id == two.id
    identity.delete_federation_protocol(idp, "openid", ignore_missing=False)
    assert list(identity.federation_protocols(idp)) == []
    for mapping in (one, two):
        identity.delete_mapping(mapping)
    identity.delete_identity_provider(idp)


def test_tokens_and_ones_own_password(place, federation):
    identity, ids, word = place.identity, place.ids, place.ids["n"]
    member = next(one for one in federation.members() if one.url == place.url)
    time.sleep(1.1)  # what is issued in the second in which the tests before changed the user is void
    with connect(member, f"{word}-user", "first", word) as own:
        token = own.auth_token
        shown = identity.validate_token(token, nocatalog=True, allow_expired=True)
        assert (shown.user["id"], shown.methods, shown.project) == (ids["user"], ["password"], None)
        assert identity.check_token(token) is True
        identity.revoke_token(token)
        assert identity.check_token(token) is False
        with pytest.raises(NotFoundException):
            identity.validate_token(token)
    with connect(member, f"{word}-user", "first", word) as own:
        own.identity.update_password(ids["user"], "first", "second")
    with connect(member, f"{word}-user", "second", word) as own:
        assert own.current_user_id == ids["user"]


def test_waiting_for_what_becomes_of_a_record(place):
    identity = place.identity
    region = identity.create_region(id=f"{place.ids['n']}-slow", description="rising")
    identity.update_region(region.id, description="up")
    assert identity.wait_for_status(region, "up", attribute="description", interval=0.1, wait=10).description == "up"
    identity.delete_region(region.id)
    identity.wait_for_delete(region, interval=0.1, wait=10)
    assert identity.find_region(region.id) is None


def test_every_method_of_the_installed_proxy_is_used_or_left_out_for_a_reason():
    there = {name for name, value in vars(Proxy).items() if inspect.isfunction(value) and not name.startswith("_")}
    used = set(re.findall(r"\bidentity\.(\w+)\(", Path(__file__).read_text()))
    for kind in KINDS:
        verbs = ["create", "get", "delete"]
        verbs += ["find"] if kind.name not in NO_FIND else []
        verbs += ["update"] if kind.name not in NO_UPDATE else []
        used |= {kind.plural, *(f"{verb}_{kind.name}" for verb in verbs)}
    used |= {name for scope, actor in GRANTS for name in grant_methods(scope, actor)}
    assert len(there) > 150
    assert used | LEFT_OUT.keys() == there
    assert not used & LEFT_OUT.keys()
