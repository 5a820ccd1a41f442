"""Every route of the API, and a household with something of every kind that a path can name, to ask them about."""

import json
from pathlib import Path
from typing import NamedTuple

from tests.security.regions import Household

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"  # other tests see to it that it has every route
NOBODY = "0" * 32
RULES = [{"service": "compute", "method": "GET", "path": "/v2.1/servers"}]


class Route(NamedTuple):
    """A method of a path. `member`: what a body is wrapped in where there is a schema for it, else ""."""

    method: str
    path: str
    member: str = ""

    def __str__(self):
        return f"{self.method} {self.path}"


def routes():
    """All of them, and HEAD beside each GET."""
    found = []
    for path, methods in json.loads(DOCUMENT.read_text())["paths"].items():
        for method, about in methods.items():
            if method != "parameters":
                found.append(Route(method.upper(), path, _member(about)))
        if "get" in methods and "head" not in methods:
            found.append(Route("HEAD", path))
    return found


def further():
    """What the query or the record makes another action of."""
    role = "/v3/roles/{domain_role_id}"
    return [
        Route("GET", role),
        Route("PATCH", role, "role"),
        Route("DELETE", role),
        Route("POST", "/v3/roles?of=domain", "role"),
        Route("GET", "/v3/roles?domain_id={domain_id}"),
        Route("GET", "/v3/OS-TRUST/trusts?trustor_user_id={user_id}"),
        Route("GET", "/v3/OS-TRUST/trusts?trustee_user_id={friend}"),
        Route("GET", "/v3/role_assignments?include_subtree&scope.project.id={project_id}"),
        Route("GET", "/v3/credentials?user_id={user_id}"),
    ]


def _member(about):
    if "requestBody" not in about:
        return ""
    return next(iter(about["requestBody"]["content"]["application/json"]["schema"]["properties"]))


class Estate(NamedTuple):
    """Somebody's household, the ids of its things by the argument of a path, and a token of its user."""

    home: Household
    ids: dict
    token: str

    def path(self, route):
        """The path, about these things."""
        ec2 = {"credential_id": self.ids["access"]} if "OS-EC2" in route.path else {}
        return route.path.format(**{**self.ids, **ec2})

    def body(self, route):
        """What the route would take, None where it takes nothing."""
        known = _bodies(self.ids)
        if str(route) in known:
            return known[str(route)]
        if not route.member:
            return None
        assert route.method == "PATCH", f"no body for {route}"
        return {route.member: _CHANGES.get(route.member, {"description": "changed"})}


_CHANGES = {
    "credential": {"blob": "changed"},
    "endpoint": {"url": "http://changed"},
    "policy": {"blob": "changed"},
    "protocol": {"mapping_id": NOBODY},
    "registered_limit": {"default_limit": 1},
    "limit": {"resource_limit": 1},
}


def _bodies(ids):
    """Bodies that mean something, by route: about the household where they say whom they are about."""
    domain, user, project, service = (ids[f"{one}_id"] for one in ("domain", "user", "project", "service"))
    trust = {"trustor_user_id": user, "trustee_user_id": ids["friend"], "impersonation": True, "project_id": project}
    limit = {"service_id": service, "resource_name": "volumes"}
    driver = {"driver": "ldap"}
    wrong = {"methods": ["password"], "password": {"user": {"id": user, "password": "wrong"}}}
    sites = {"auth_url": "http://sp/auth", "sp_url": "http://sp"}
    federation, config = "/v3/OS-FEDERATION", "/v3/domains/{domain_id}/config"
    return {
        "POST /v3/OS-EP-FILTER/endpoint_groups": {"endpoint_group": {"name": "new", "filters": {"interface": "admin"}}},
        "POST /v3/OS-OAUTH1/consumers": {"consumer": {"description": "new"}},
        "POST /v3/OS-TRUST/trusts": {"trust": {**trust, "roles": [{"id": ids["role_id"]}]}},
        "POST /v3/auth/tokens": {"auth": {"identity": wrong}},
        "POST /v3/credentials": {"credential": {"type": "cert", "blob": "b", "user_id": user, "project_id": project}},
        "POST /v3/domains": {"domain": {"name": "new"}},
        "POST /v3/endpoints": {"endpoint": {"service_id": service, "interface": "admin", "url": "http://new"}},
        "POST /v3/groups": {"group": {"name": "new", "domain_id": domain}},
        "POST /v3/limits": {"limits": [{**limit, "project_id": project, "resource_limit": 1}]},
        "POST /v3/policies": {"policy": {"type": "text/plain", "blob": "new"}},
        "POST /v3/projects": {"project": {"name": "new", "domain_id": domain}},
        "POST /v3/regions": {"region": {"description": "new"}},
        "POST /v3/registered_limits": {"registered_limits": [{**limit, "default_limit": 1}]},
        "POST /v3/roles": {"role": {"name": "new"}},
        "POST /v3/roles?of=domain": {"role": {"name": "new", "domain_id": domain}},
        "POST /v3/services": {"service": {"type": "new"}},
        "POST /v3/users": {"user": {"name": "new", "domain_id": domain, "password": "new"}},
        "POST /v3/users/{user_id}/application_credentials": {"application_credential": {"name": "new"}},
        "POST /v3/users/{user_id}/credentials/OS-EC2": {"tenant_id": project},
        "POST /v3/users/{user_id}/password": {"user": {"password": "new", "original_password": "wrong"}},
        "PUT /v3/projects/{project_id}/tags": {"tags": ["new"]},
        "PUT /v3/regions/{region_id}": {"region": {"description": "new"}},
        f"PUT {federation}/identity_providers/{{idp_id}}": {"identity_provider": {"description": "new"}},
        f"PUT {federation}/identity_providers/{{idp_id}}/protocols/{{protocol_id}}": {
            "protocol": {"mapping_id": ids["mapping_id"]}
        },
        f"PUT {federation}/mappings/{{mapping_id}}": _mapping(),
        f"PATCH {federation}/mappings/{{mapping_id}}": _mapping(),
        f"PUT {federation}/service_providers/{{service_provider_id}}": {"service_provider": sites},
        f"PUT {config}": {"config": {"identity": driver}},
        f"PATCH {config}": {"config": {"identity": driver}},
        f"PATCH {config}/{{group}}": {"config": {"identity": driver}},
        f"PATCH {config}/{{group}}/{{option}}": {"config": driver},
    }


def _mapping():
    rules = [{"local": [{"user": {"name": "{0}"}}], "remote": [{"type": "UserName"}]}]
    return {"mapping": {"rules": rules}}


def settle(regions):
    """A household with something of every kind, made by its user where users make it, else by the administrator."""
    home = regions.household()
    friend = regions.household(domain=home.domain).user["id"]
    token = regions.login(home.auth())
    ids = {"friend": friend, "domain_id": home.domain["id"], "project_id": home.project["id"], "group": "identity"}
    ids |= {
        "name": home.user["name"],
        "user_id": home.user["id"],
        "role_id": home.role["id"],
        "option": "driver",
        "value": "blue",
    }
    _services(regions, ids)
    _shared(regions, ids)
    _federation(regions, ids)
    _own(regions, ids, token)
    return Estate(home, ids, token)


def _services(regions, ids):
    """Things of the cloud."""
    name = ids["name"]
    ids["region_id"] = regions.make("region", description=name)["id"]
    ids["service_id"] = service = regions.make("service", type="compute", name=name)["id"]
    ids["endpoint_id"] = regions.make("endpoint", service_id=service, interface="admin", url="http://c")["id"]
    ids["policy_id"] = regions.make("policy", "/v3/policies", type="text/plain", blob="b")["id"]
    groups = "/v3/OS-EP-FILTER/endpoint_groups"
    ids["endpoint_group_id"] = regions.make("endpoint_group", groups, name=name, filters={"service_id": service})["id"]
    ids["consumer_id"] = regions.make("consumer", "/v3/OS-OAUTH1/consumers", description=name)["id"]
    ids["access_token_id"] = NOBODY  # made by steps that are not served yet
    what = {"service_id": service, "resource_name": "servers"}
    made = {"registered_limits": [{**what, "default_limit": 5}]}
    ids["registered_limit_id"] = _first(regions, "registered_limits", made)
    made = {"limits": [{**what, "resource_limit": 5, "project_id": ids["project_id"]}]}
    ids["limit_id"] = _first(regions, "limits", made)


def _first(regions, collection, made):
    return regions.expect(201, "POST", f"/v3/{collection}", made)[collection][0]["id"]


def _shared(regions, ids):
    """Things of its domain and project, and roles."""
    domain, project = f"/v3/domains/{ids['domain_id']}", f"/v3/projects/{ids['project_id']}"
    ids["group_id"] = group = regions.make("group", name="crew", domain_id=ids["domain_id"])["id"]
    regions.expect(204, "PUT", f"/v3/groups/{group}/users/{ids['user_id']}")
    for place in (domain, project):
        regions.expect(204, "PUT", f"{place}/groups/{group}/roles/{ids['role_id']}")
    regions.expect(201, "PUT", f"{project}/tags/{ids['value']}")
    regions.expect(201, "PUT", f"{domain}/config", {"config": {"identity": {"driver": "sql"}}})
    for name in ("prior", "implied"):
        ids[f"{name}_role_id"] = regions.make("role", name=f"{name} {ids['name']}")["id"]
    ids["domain_role_id"] = regions.make("role", name="local", domain_id=ids["domain_id"])["id"]
    regions.expect(201, "PUT", f"/v3/roles/{ids['prior_role_id']}/implies/{ids['implied_role_id']}")


def _federation(regions, ids):
    """Things that are known by names; nobody can log in by them."""
    name, base = ids["name"], "/v3/OS-FEDERATION"
    ids |= dict.fromkeys(("idp_id", "mapping_id", "service_provider_id"), name) | {"protocol_id": "saml2"}
    about = {"identity_provider": {"domain_id": ids["domain_id"], "enabled": False}}
    regions.expect(201, "PUT", f"{base}/identity_providers/{name}", about)
    regions.expect(201, "PUT", f"{base}/mappings/{name}", _mapping())
    protocol = {"protocol": {"mapping_id": name}}
    regions.expect(201, "PUT", f"{base}/identity_providers/{name}/protocols/saml2", protocol)
    sites = {"auth_url": "http://sp/auth", "sp_url": "http://sp", "enabled": False}
    regions.expect(201, "PUT", f"{base}/service_providers/{name}", {"service_provider": sites})


def _own(regions, ids, token):
    """Things that the user makes."""
    user = f"/v3/users/{ids['user_id']}"
    about = {"type": "cert", "blob": "a secret", "user_id": ids["user_id"], "project_id": ids["project_id"]}
    ids["credential_id"] = regions.make("credential", token=token, **about)["id"]
    key = regions.expect(201, "POST", f"{user}/credentials/OS-EC2", {"tenant_id": ids["project_id"]}, token=token)
    ids["access"] = key["credential"]["access"]
    about = {"name": "program", "access_rules": RULES}
    made = regions.make("application_credential", f"{user}/application_credentials", token=token, **about)
    ids |= {"application_credential_id": made["id"], "access_rule_id": made["access_rules"][0]["id"]}
    trust = {"trustor_user_id": ids["user_id"], "trustee_user_id": ids["friend"], "project_id": ids["project_id"]}
    trust |= {"impersonation": False, "roles": [{"id": ids["role_id"]}]}
    ids["trust_id"] = regions.make("trust", "/v3/OS-TRUST/trusts", token=token, **trust)["id"]
