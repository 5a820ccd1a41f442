"""The tables of all resources, section by section."""

from dataclasses import replace

from tests.differential.tables import ADMIN, FEW, Case, Edge, Table, everywhere
from tests.differential.world import LIMITED, WORD, Made

LAST = "last"  # the section that comes after all others
_PAGE = "limit=1 limit=0 limit=x marker=<gone> sort_key=name"
_NAMES = (
    "name=world-user name__contains=world name__icontains=WORLD name__startswith=wor name__endswith=x name= name__x=y"
    " name__equals=world-user name__iequals=World-User"
)
_SWITCH = "enabled=true enabled=0 enabled= enabled__equals=true enabled__iequals=false enabled__contains=t enabled__x=y"

TABLES = (
    Table(
        section="domains",
        path="/domains",
        member="domain",
        create={"name": "#", "description": "d", "enabled": True},
        update={"description": "changed"},
        attributes="name description enabled options tags explicit_domain_id",
        required="name",
        queries=f"{_NAMES} {_PAGE} {_SWITCH} id=<alpha> x=y",
    ),
    Table(
        section="projects",
        path="/projects",
        member="project",
        create={"name": "#", "domain_id": "<alpha>", "description": "d"},
        update={"description": "changed"},
        attributes="name description enabled domain_id parent_id is_domain options tags",
        required="name domain_id",
        queries=f"{_NAMES} {_PAGE} enabled=true domain_id=<alpha> domain_id=<gone> domain_id=<beta> parent_id=<project>"
        " is_domain=true is_domain=x tags=blue tags=blue,green tags-any=blue not-tags=blue not-tags-any=green,red tags=",
    ),
    Table(
        section="users",
        path="/users",
        member="user",
        create={"name": "#", "domain_id": "<alpha>", "password": WORD, "email": "a@example.org"},
        update={"email": "b@example.org"},
        attributes="name description enabled domain_id password default_project_id options federated email",
        required="name password domain_id",
        queries=f"{_NAMES} {_PAGE} enabled=false domain_id=<alpha> domain_id=<beta> domain_id=<gone> idp_id=x"
        " protocol_id=x unique_id=x password_expires_at=lt:2030-01-01T00:00:00Z password_expires_at=x",
    ),
    Table(
        section="groups",
        path="/groups",
        member="group",
        create={"name": "#", "domain_id": "<alpha>", "description": "d"},
        update={"description": "changed"},
        attributes="name description domain_id",
        required="name domain_id",
        queries=f"{_NAMES} {_PAGE} domain_id=<alpha> domain_id=<beta> domain_id=<gone>",
    ),
    Table(
        section="roles",
        path="/roles",
        member="role",
        create={"name": "#", "description": "d"},
        update={"description": "changed"},
        attributes="name description domain_id options",
        required="name",
        queries=f"{_NAMES} {_PAGE} domain_id=<alpha> domain_id=<gone> domain_id=",
    ),
    Table(
        section="regions",
        path="/regions",
        member="region",
        create={"description": "d"},
        update={"description": "changed"},
        attributes="id description parent_region_id",
        queries="parent_region_id=<region> parent_region_id=",
    ),
    Table(
        section="services",
        path="/services",
        member="service",
        create={"name": "#", "type": "volume", "description": "d"},
        update={"description": "changed"},
        attributes="name type description enabled",
        required="type",
        queries="type=compute type=x name=world-service name__contains=world type__contains=o",
    ),
    Table(
        section="endpoints",
        path="/endpoints",
        member="endpoint",
        create={"service_id": "<service>", "interface": "internal", "url": "http://e/v1", "region_id": "<region>"},
        update={"url": "http://changed/"},
        attributes="service_id interface url region region_id enabled name description legacy_endpoint_id",
        required="service_id interface url",
        queries="interface=public interface=x service_id=<service> service_id=<gone> region_id=<region> region_id=x",
    ),
    Table(
        section="credentials",
        path="/credentials",
        member="credential",
        create={"type": "cert", "blob": "words", "user_id": "<user>", "project_id": "<project>"},
        update={"blob": "others"},
        attributes="type blob user_id project_id id",
        required="type blob user_id",
        queries="type=cert type=x user_id=<user> user_id=<other> user_id=<gone>",
    ),
    Table(
        section="trusts",
        path="/OS-TRUST/trusts",
        member="trust",
        create={
            "trustor_user_id": "<user>",
            "trustee_user_id": "<other>",
            "impersonation": False,
            "project_id": "<project>",
            "roles": [{"id": "<r_member>"}],
        },
        update={},
        patch=False,
        by="owner",
        attributes="trustor_user_id trustee_user_id impersonation project_id roles expires_at remaining_uses"
        " allow_redelegation redelegation_count redelegated_trust_id",
        required="trustor_user_id trustee_user_id impersonation project_id roles",
        queries="trustor_user_id=<user> trustee_user_id=<other> trustor_user_id=<gone>"
        " trustor_user_id=<user>&trustee_user_id=<other>",
    ),
    Table(
        section="application_credentials",
        path="/users/<user>/application_credentials",
        member="application_credential",
        create={"name": "#", "description": "d", "secret": "s3cr3t", "roles": [{"id": "<r_member>"}]},
        update={},
        patch=False,
        by="owner",
        attributes="name description secret expires_at project_id access_rules unrestricted roles id system",
        required="name secret roles",
        queries="name=x name__contains=made",
    ),
    Table(
        section="ec2",
        path="/users/<user>/credentials/OS-EC2",
        member="ec2",
        create={},
        update={},
        patch=False,
        showing=False,
        remove=False,
        listing=False,
    ),
    Table(
        section="consumers",
        path="/OS-OAUTH1/consumers",
        member="consumer",
        create={"description": "d"},
        update={"description": "changed"},
        attributes="description secret",
        queries="description=d",
    ),
    Table(
        section="policies",
        path="/policies",
        member="policy",
        create={"type": "application/json", "blob": "{}"},
        update={"blob": "{1}"},
        attributes="type blob",
        required="type blob",
        queries="type=application/json type=x",
    ),
    Table(
        section="endpoint_groups",
        path="/OS-EP-FILTER/endpoint_groups",
        member="endpoint_group",
        create={"name": "#", "description": "d", "filters": {"interface": "public"}},
        update={"description": "changed"},
        attributes="name description filters",
        required="name filters",
        queries="name=x",
    ),
    Table(
        section="registered_limits",
        path="/registered_limits",
        member="registered_limit",
        listed="registered_limits",
        create={"service_id": "<service>", "resource_name": "#", "default_limit": 5, "region_id": "<region>"},
        update={"default_limit": 7},
        attributes="service_id region_id resource_name default_limit description",
        required="service_id resource_name default_limit",
        queries="service_id=<service> service_id=<gone> region_id=<region> resource_name=x",
    ),
    Table(
        section="limits",
        path="/limits",
        member="limit",
        listed="limits",
        create={**LIMITED, "resource_limit": 3, "project_id": "<project>"},
        update={"resource_limit": 2},
        attributes="service_id region_id resource_name resource_limit description project_id domain_id",
        required="service_id resource_name resource_limit project_id",
        queries="service_id=<service> project_id=<project> domain_id=<alpha> resource_name=x region_id=<region>",
    ),
    Table(
        section="identity_providers",
        path="/OS-FEDERATION/identity_providers",
        member="identity_provider",
        put=True,
        create={"description": "d", "enabled": True, "domain_id": "<alpha>"},
        update={"description": "changed"},
        attributes="description enabled domain_id remote_ids authorization_ttl",
        queries="enabled=true id=x enabled=x",
    ),
    Table(
        section="mappings",
        path="/OS-FEDERATION/mappings",
        member="mapping",
        put=True,
        create={"rules": [{"local": [{"user": {"name": "{0}"}}], "remote": [{"type": "UserName"}]}]},
        update={"rules": [{"local": [{"user": {"name": "{0}"}}], "remote": [{"type": "Email"}]}]},
        attributes="rules schema_version",
        required="rules",
    ),
    Table(
        section="protocols",
        path="/OS-FEDERATION/identity_providers/<new:identity_provider>/protocols",
        member="protocol",
        put=True,
        create={"mapping_id": "<new:mapping>"},
        update={"mapping_id": "<new:mapping>"},
        attributes="mapping_id remote_id_attribute",
        required="mapping_id",
    ),
    Table(
        section="service_providers",
        path="/OS-FEDERATION/service_providers",
        member="service_provider",
        put=True,
        create={"auth_url": "https://a.example/auth", "sp_url": "https://a.example/sp", "enabled": True},
        update={"description": "changed"},
        attributes="auth_url sp_url description enabled relay_state_prefix",
        required="auth_url sp_url",
        queries="enabled=true id=x",
    ),
)


def _grants():
    for holder, where in (("projects", "<project>"), ("domains", "<alpha>")):
        for kind, actor in (("users", "<new:user>"), ("groups", "<new:group>")):
            base = f"/{holder}/{where}/{kind}/{actor}/roles"
            yield Edge(section="grants", path=f"{base}/<role>", listing=base)
            inherited = f"/OS-INHERIT{base}"
            listing = f"{inherited}/inherited_to_projects" if holder == "domains" else ""
            yield Edge(section="inherited", path=f"{inherited}/<role>/inherited_to_projects", listing=listing)
    for kind, actor in (("users", "<new:user>"), ("groups", "<new:group>")):
        base = f"/system/{kind}/{actor}/roles"
        yield Edge(section="system_grants", path=f"{base}/<role>", listing=base)


_POLICY = "/policies/<new:policy>/OS-ENDPOINT-POLICY"
EDGES = (
    *_grants(),
    Edge(section="grants", path="/projects/<foreign>/users/<new:user>/roles/<role>"),
    Edge(section="grants", path="/domains/<beta>/users/<new:user>/roles/<role>"),
    Edge(section="grants", path="/projects/<project>/users/<new:user>/roles/<r_admin>"),
    Edge(section="grants", path="/projects/<project>/users/<new:user>/roles/<r_reader>"),
    Edge(section="grants", path="/projects/<project>/users/<stranger>/roles/<role>"),
    Edge(section="grants", path="/projects/<project>/users/<new:user>/roles/<domain_role>"),
    Edge(section="grants", path="/projects/<foreign>/users/<new:user>/roles/<domain_role>"),
    Edge(section="members", path="/groups/<group>/users/<new:user>", listing="/groups/<group>/users"),
    Edge(section="members", path="/groups/<strangers>/users/<new:user>", listing="/groups/<strangers>/users"),
    Edge(section="members", path="/groups/<group>/users/<stranger>"),
    Edge(section="implied", path="/roles/<new:role>/implies/<role>", listing="/roles/<new:role>/implies"),
    Edge(section="implied", path="/roles/<domain_role>/implies/<new:role>"),
    Edge(section="implied", path="/roles/<new:role>/implies/<domain_role>"),
    Edge(section="implied", path="/roles/<new:role>/implies/<r_admin>"),
    Edge(section="tags", path="/projects/<new:project>/tags/red", listing="/projects/<new:project>/tags"),
    Edge(section="tags", path="/projects/<new:project>/tags/a,b"),
    Edge(section="tags", path="/projects/<new:project>/tags/" + 256 * "x"),
    Edge(
        section="endpoint_filter",
        path="/OS-EP-FILTER/projects/<project>/endpoints/<new:endpoint>",
        listing="/OS-EP-FILTER/projects/<project>/endpoints",
    ),
    Edge(
        section="endpoint_filter",
        path="/OS-EP-FILTER/endpoint_groups/<new:endpoint_group>/projects/<project>",
        listing="/OS-EP-FILTER/endpoint_groups/<new:endpoint_group>/projects",
    ),
    Edge(section="endpoint_policy", path=f"{_POLICY}/endpoints/<new:endpoint>", listing=f"{_POLICY}/endpoints"),
    Edge(section="endpoint_policy", path=f"{_POLICY}/services/<new:service>"),
    Edge(section="endpoint_policy", path=f"{_POLICY}/services/<new:service>/regions/<region>"),
)


def _login(user, scope=None):
    identity = {"methods": ["password"], "password": {"user": user}}
    return {"auth": {"identity": identity, **({"scope": scope} if scope else {})}}


MAKERS = {
    **{one.new: one.maker for one in TABLES},
    **{one.new: one.maker for one in EDGES},
    "token": Made("POST", "/auth/tokens", _login({"id": "<new:user>", "password": WORD}), "header:x-subject-token"),
    "ec2": Made(
        "POST",
        "/users/<user>/credentials/OS-EC2",
        {"tenant_id": "<project>"},
        "credential.access",
        "/users/<user>/credentials/OS-EC2/<new:ec2>",
    ),
    "limit": Made(
        "POST",
        "/limits",
        {"limits": [{**LIMITED, "resource_limit": 3, "project_id": "<new:project>"}]},
        "limits.0.id",
        "/limits/<new:limit>",
    ),
    "config": Made(
        "PUT",
        "/domains/<new:domain>/config",
        {"config": {"identity": {"driver": "ldap"}, "ldap": {"url": "ldap://x", "password": "p"}}},
        remove="/domains/<new:domain>/config",
    ),
    "access_rule": Made(
        "POST",
        "/users/<user>/application_credentials",
        {
            "application_credential": {
                "name": "#",
                "access_rules": [{"service": "compute", "method": "GET", "path": "/v2.1/#"}],
            }
        },
        "application_credential.access_rules.0.id",
        by="owner",
    ),
}


def _one(section, method, path, *, kind="single", **more):
    return Case(section=section, kind=kind, method=method, path=path, **more)


def _gets(section, *paths, **more):
    return [_one(section, "GET", path, **more) for path in paths]


def _auth():
    subject = {"X-Subject-Token": "<new:token>"}
    for method in ("GET", "HEAD", "DELETE"):
        yield _one("auth", method, "/auth/tokens", headers=subject)
        yield _one("auth", method, "/auth/tokens", kind="garbage", headers={"X-Subject-Token": "x"}, personas=FEW)
        yield _one("auth", method, "/auth/tokens", kind="no subject", personas=FEW)
    for query in ("nocatalog", "allow_expired=1", "x=y"):
        yield _one("auth", "GET", f"/auth/tokens?{query}", headers=subject, personas=FEW)
    for persona in ("cloud-admin", "owner", "system-reader", "domain-member", "unscoped"):
        own = {"X-Subject-Token": f"<token:{persona}>"}
        yield _one("auth", "GET", "/auth/tokens", kind="own", headers=own, personas=(persona, "project-reader"))
    yield from _gets("auth", "/auth/catalog", "/auth/projects", "/auth/domains", "/auth/system")
    yield from _gets("auth", "/OS-FEDERATION/projects", "/OS-FEDERATION/domains", "/auth/tokens/OS-PKI/revoked")
    yield from _gets("auth", "/OS-REVOKE/events", "/OS-SIMPLE-CERT/ca", "/OS-SIMPLE-CERT/certificates")
    yield from _gets("auth", "/", "", personas=("anonymous",))


def _logins():
    user = {"id": "<user>", "password": WORD}
    scopes = {
        "project": {"project": {"id": "<project>"}},
        "child": {"project": {"id": "<child>"}},
        "foreign": {"project": {"id": "<foreign>"}},
        "gone": {"project": {"id": "<gone>"}},
        "domain": {"domain": {"id": "<alpha>"}},
        "default": {"domain": {"id": "default"}},
        "system": {"system": {"all": True}},
        "no system": {"system": {"all": False}},
        "unscoped": "unscoped",
        "text": "x",
        "empty": {},
        "two": {"project": {"id": "<project>"}, "domain": {"id": "<alpha>"}},
        "by name": {"project": {"name": "world-project", "domain": {"id": "<alpha>"}}},
        "no domain": {"project": {"name": "world-project"}},
        "number": {"project": {"id": 5}},
        "trust": {"OS-TRUST:trust": {"id": "<gone>"}},
    }
    for name, scope in scopes.items():
        yield _one(
            "login", "POST", "/auth/tokens", kind=name, body=_login(user, scope), personas=("anonymous", "owner")
        )
        body = {"auth": {"identity": {"methods": ["token"], "token": {"id": "<token:owner>"}}, "scope": scope}}
        yield _one("login", "POST", "/auth/tokens", kind=f"by token, {name}", body=body, personas=("anonymous",))
    named = {"name": "world-user", "password": WORD}
    users = {
        "wrong": {**user, "password": "x"},
        "gone": {"id": "<gone>", "password": WORD},
        "domain name": {**named, "domain": {"name": "world-alpha"}},
        "no domain": named,
        "wrong domain": {**named, "domain": {"id": "<beta>"}},
        "no password": {"id": "<user>"},
        "nobody": {"password": WORD},
        "number": {"id": 5, "password": WORD},
        "null": {"id": "<user>", "password": None},
        "both": {**named, "id": "<user>"},
    }
    for name, who in users.items():
        yield _one("login", "POST", "/auth/tokens", kind=f"user {name}", body=_login(who), personas=("anonymous",))
    bodies = {
        "empty": {},
        "null": {"auth": None},
        "text": {"auth": "x"},
        "no identity": {"auth": {}},
        "no methods": {"auth": {"identity": {}}},
        "none": {"auth": {"identity": {"methods": []}}},
        "unknown": {"auth": {"identity": {"methods": ["x"], "x": {}}}},
        "no data": {"auth": {"identity": {"methods": ["password"]}}},
        "totp": {"auth": {"identity": {"methods": ["totp"], "totp": {"user": {"id": "<user>", "passcode": "1"}}}}},
        "credential": {
            "auth": {
                "identity": {
                    "methods": ["application_credential"],
                    "application_credential": {"id": "<gone>", "secret": "x"},
                }
            }
        },
    }
    for name, body in bodies.items():
        yield _one("login", "POST", "/auth/tokens", kind=f"body {name}", body=body, personas=("anonymous",))


def _assignments():
    yield _one("assignments", "GET", "/role_assignments")
    yield _one("assignments", "HEAD", "/role_assignments", personas=FEW)
    everybody = ("", "?include_names", "?effective", "?scope.project.id=<project>")
    for query in everybody[1:]:
        yield _one("assignments", "GET", f"/role_assignments{query}")
    for query in (
        "user.id=<user>", "group.id=<group>", "role.id=<role>", "scope.system=all", "scope.domain.id=<alpha>",
        "scope.OS-INHERIT:inherited_to=projects", "user.id=<user>&effective", "user.id=<user>&include_names",
        "scope.project.id=<project>&include_subtree", "scope.project.id=<project>&scope.domain.id=<alpha>",
        "user.id=<user>&group.id=<group>", "group.id=<group>&effective", "include_subtree", "user.id=<gone>",
        "scope.project.id=<gone>", "role.id=<gone>", "x=y",
    ):  # fmt: skip
        yield _one("assignments", "GET", f"/role_assignments?{query}", kind="query", personas=FEW)
    yield _one("assignments", "GET", "/role_inferences")


def _people():
    for who in ("user", "new:user", "stranger"):
        yield from _gets("people", f"/users/<{who}>/groups", f"/users/<{who}>/projects")
    yield from _gets("people", "/users/<user>", "/projects/<project>", "/domains/<alpha>", "/groups/<group>")
    yield from _gets("people", "/users/<stranger>", "/projects/<foreign>", "/domains/<beta>", "/groups/<strangers>")
    yield from _gets("people", "/users?domain_id=<alpha>", "/users?domain_id=<beta>", "/groups?domain_id=<alpha>")
    yield from _gets("people", "/projects?domain_id=<alpha>", "/projects?domain_id=<beta>")
    yield from _gets("people", "/roles?domain_id=<alpha>", "/roles/<domain_role>")
    yield _one("people", "DELETE", "/users/<new:user>/tokens")
    for method, path, body in (
        ("POST", "/users", {"user": {"name": "#", "domain_id": "<beta>"}}),
        ("POST", "/users", {"user": {"name": "#"}}),
        ("POST", "/groups", {"group": {"name": "#", "domain_id": "<beta>"}}),
        ("POST", "/projects", {"project": {"name": "#", "domain_id": "<beta>"}}),
        ("POST", "/projects", {"project": {"name": "#", "domain_id": "<alpha>", "parent_id": "<project>"}}),
        ("POST", "/roles", {"role": {"name": "#", "domain_id": "<alpha>"}}),
    ):
        member = next(iter(body))
        yield _one("people", method, path, kind="elsewhere", body=body, made=(f"{member}.id", f"{path}/<made>"))
    yield from _passwords()
    for name in ("parents_as_list", "parents_as_ids", "subtree_as_list", "subtree_as_ids"):
        yield _one("people", "GET", f"/projects/<project>?{name}", kind="tree")
        yield _one("people", "GET", f"/projects/<child>?{name}=0", kind="tree", personas=FEW)
    yield _one("people", "GET", "/projects/<child>?parents_as_list&parents_as_ids", kind="tree", personas=FEW)


def _passwords():
    path = "/users/<new:user>/password"
    good = {"original_password": WORD, "password": "pw-5678"}
    yield _one("people", "POST", path, body={"user": good}, personas=("anonymous", "owner", "cloud-admin"))
    for name, body in {
        "wrong": {**good, "original_password": "x"},
        "no original": {"password": "x"},
        "no password": {"original_password": WORD},
        "null": {**good, "password": None},
        "number": {**good, "password": 5},
        "more": {**good, "x": 1},
    }.items():
        yield _one("people", "POST", path, kind=name, body={"user": body}, personas=("anonymous", "cloud-admin"))
    body = {"user": good}
    yield _one("people", "POST", "/users/<gone>/password", kind="gone", body=body, personas=("anonymous",))


def _switches():
    """Changes of state that are refused, and their order."""
    for path, body in (
        ("/projects/<project>", {"project": {"enabled": False}}),
        ("/projects/<new:project>", {"project": {"enabled": False}}),
        ("/projects/<new:project>", {"project": {"parent_id": "<project>"}}),
        ("/projects/<new:project>", {"project": {"domain_id": "<beta>"}}),
        ("/projects/<new:project>", {"project": {"options": {"immutable": True}}}),
        ("/projects/<alpha>", {"project": {"description": "by another door"}}),
        ("/users/<new:user>", {"user": {"enabled": False}}),
        ("/users/<new:user>", {"user": {"password": "pw-999"}}),
        ("/users/<new:user>", {"user": {"domain_id": "<beta>"}}),
        ("/users/<new:user>", {"user": {"options": {"multi_factor_auth_rules": [["password", "totp"]]}}}),
        ("/users/<new:user>", {"user": {"name": "world-user"}}),
        ("/groups/<new:group>", {"group": {"name": "world-group"}}),
        ("/roles/<r_member>", {"role": {"name": "other"}}),
        ("/roles/<domain_role>", {"role": {"description": "x"}}),
        ("/domains/default", {"domain": {"description": "x"}}),
        ("/domains/<new:domain>", {"domain": {"enabled": False}}),
    ):
        yield _one("switches", "PATCH", path, kind=str(body), body=body)
    for path in (
        "/projects/<project>",
        "/domains/<alpha>",
        "/roles/<r_member>",
        "/projects/<alpha>",
        "/domains/default",
    ):
        yield _one("switches", "DELETE", path, personas=FEW)


def _domain_config():
    base, section = "/domains/<new:domain>/config", "domain_config"
    body = {"config": {"identity": {"driver": "ldap"}}}
    yield from _gets(section, base, f"{base}/ldap", f"{base}/ldap/url", needs=("config",))
    yield from _gets(section, f"{base}/ldap/password", f"{base}/x", f"{base}/ldap/x", needs=("config",), personas=FEW)
    yield from _gets(section, base, f"{base}/ldap", f"{base}/security_compliance", kind="none", personas=FEW)
    yield from _gets(section, f"{base}/security_compliance", f"{base}/security_compliance/password_regex")
    defaults = "/domains/config"
    yield from _gets(section, f"{defaults}/default", f"{defaults}/ldap/default", f"{defaults}/ldap/url/default")
    yield from _gets(section, f"{defaults}/x/default", f"{defaults}/ldap/x/default", personas=FEW)
    yield from _gets(section, f"{defaults}/security_compliance/default", personas=FEW)
    yield _one(section, "PUT", base, body=body)
    yield _one(section, "PATCH", base, body=body, needs=("config",))
    ldap = {"config": {"ldap": {"url": "ldap://y"}}}
    yield _one(section, "PATCH", f"{base}/ldap", body=ldap, needs=("config",))
    yield _one(section, "PATCH", f"{base}/ldap/url", body={"config": {"url": "ldap://y"}}, needs=("config",))
    for path in (base, f"{base}/ldap", f"{base}/ldap/url"):
        yield _one(section, "DELETE", path, needs=("config",))
        yield _one(section, "DELETE", path, kind="none", personas=FEW)
        for wrong in ({}, {"config": {}}, {"config": None}, {"config": {"x": {"y": "z"}}}, {"config": {"ldap": {}}},
                      {"config": {"ldap": {"x": "y"}}}, {"config": {"ldap": "x"}}, {"config": "x"}, None):  # fmt: skip
            for method in ("PUT", "PATCH") if path == base else ("PATCH",):
                yield _one(section, method, path, kind=f"body {wrong}", body=wrong, needs=("config",), personas=ADMIN)


def _delegations():
    trust, section = "/OS-TRUST/trusts/<new:trust>", "trusts"
    yield from _gets(section, f"{trust}/roles", f"{trust}/roles/<r_member>")
    yield from _gets(section, f"{trust}/roles/<r_reader>", f"{trust}/roles/<gone>", personas=FEW)
    yield from _gets("access_rules", "/users/<user>/access_rules", needs=("access_rule",))
    yield from _gets("access_rules", "/users/<user>/access_rules?service=compute", needs=("access_rule",), personas=FEW)
    rule = "/users/<user>/access_rules/<new:access_rule>"
    yield _one("access_rules", "GET", rule)
    yield _one("access_rules", "DELETE", rule)
    base = "/users/<user>/credentials/OS-EC2"
    yield _one("ec2", "GET", base, needs=("ec2",))
    yield _one("ec2", "GET", f"{base}/<new:ec2>")
    yield _one("ec2", "POST", base, body={"tenant_id": "<project>"}, made=("credential.access", f"{base}/<made>"))
    yield _one("ec2", "DELETE", f"{base}/<new:ec2>")
    for path in ("/users/<other>/credentials/OS-EC2/<new:ec2>", "/users/<gone>/credentials/OS-EC2/<new:ec2>"):
        yield from (_one("ec2", method, path, kind="below another") for method in ("GET", "DELETE"))
    yield from (_one("ec2", method, f"{base}/<gone>", kind="gone") for method in ("GET", "DELETE"))
    for body in (None, {}, {"tenant_id": None}, {"tenant_id": "<gone>"}, {"tenant_id": 5}, {"tenant_id": "<foreign>"}):
        yield _one("ec2", "POST", base, kind=f"body {body}", body=body, personas=FEW)
    yield from _gets("oauth1", "/users/<user>/OS-OAUTH1/access_tokens")


def _more():
    yield _one("limits", "GET", "/limits/model")
    group = "/OS-EP-FILTER/endpoint_groups/<new:endpoint_group>"
    yield _one("endpoint_filter", "GET", f"{group}/endpoints")
    yield _one("endpoint_filter", "GET", "/OS-EP-FILTER/endpoints/<new:endpoint>/projects")
    yield _one("endpoint_filter", "GET", "/OS-EP-FILTER/projects/<project>/endpoint_groups")
    yield _one("endpoint_policy", "GET", "/endpoints/<new:endpoint>/OS-ENDPOINT-POLICY/policy")
    needs = (next(one.new for one in EDGES if one.section == "endpoint_policy"),)
    yield _one("endpoint_policy", "GET", "/endpoints/<new:endpoint>/OS-ENDPOINT-POLICY/policy", kind="set", needs=needs)
    yield _one("tags", "PUT", "/projects/<new:project>/tags", body={"tags": ["a", "b"]})
    yield _one("tags", "DELETE", "/projects/<new:project>/tags")
    for body in (None, {}, {"tags": None}, {"tags": "x"}, {"tags": ["a", "a"]}, {"tags": [5]}, {"tags": ["a/b"]},
                 {"tags": [], "x": 1}):  # fmt: skip
        yield _one("tags", "PUT", "/projects/<new:project>/tags", kind=f"body {body}", body=body, personas=FEW)
    yield _one("regions", "PUT", "/regions/#", body={"region": {}}, made=("region.id", "/regions/<made>"))
    other = {"region": {"id": "other"}}
    yield _one("regions", "PUT", "/regions/#", kind="other id", body=other, personas=FEW)


def cases():
    """Everything that is asked, section by section; what spoils the world comes last.

    The real Keystone makes a region with an empty id for an endpoint, which nothing can remove.
    """
    found = [
        *_auth(), *_logins(),
        *(one for table in TABLES for one in table.cases()),
        *(one for edge in EDGES for one in edge.cases()),
        *_assignments(), *_people(), *_switches(), *_domain_config(), *_delegations(), *_more(), *everywhere(),
    ]  # fmt: skip
    spoil = ("region=''", " region_id=''")
    found = [
        replace(one, section=LAST) if one.section == "endpoints" and one.kind.endswith(spoil) else one for one in found
    ]
    order = [*dict.fromkeys(one.section for one in found if one.section != LAST), LAST]
    return sorted(found, key=lambda one: order.index(one.section))
