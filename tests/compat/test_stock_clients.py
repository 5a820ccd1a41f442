"""The client that people use, unmodified, at a site: what it changes there is read at another site."""

import time

import pytest
from keystoneauth1 import session
from keystoneauth1.exceptions import NotFound, Unauthorized
from keystoneauth1.identity import v3

from tests.compat.shell import shell

pytestmark = [pytest.mark.compat, pytest.mark.federation, pytest.mark.together("stock")]
LONGEST_S = 60
ONE, TWO = "RegionOne", "RegionTwo"
# kind, name, options at its making, options that tell which one it is, change, what is shown then
RESOURCES = [
    ("domain", "shop", "--description d", "", "--description e", {"name": "shop", "description": "e", "enabled": True}),
    ("project", "till", "--domain lab --tag red --property colour=blue", "--domain lab", "--tag new --disable", {"colour": "blue", "enabled": False, "tags": ["new", "red"]}),
    ("user", "ann", "--domain lab --password one --email a@x", "--domain lab", "--email b@x --disable", {"name": "ann", "email": "b@x", "enabled": False}),
    ("group", "crew", "--domain lab", "--domain lab", "--description all", {"name": "crew", "description": "all"}),
    ("role", "chief", "", "", "--description boss", {"name": "chief", "description": "boss", "domain_id": None}),
    ("region", "east", "--parent-region RegionOne", "", "--description far", {"parent_region": "RegionOne", "description": "far"}),
    ("service", "nova", "", "", "--description vm", {"name": "nova", "type": "compute", "description": "vm"}),
]  # fmt: skip
GRANTS = [
    "role add --project p --project-domain lab --user u --user-domain lab lead",
    "role add --project p --project-domain lab --group g --group-domain lab member",
    "role add --domain lab --user u --user-domain lab reader --inherited",
    "role add --domain lab --group g --group-domain lab reader",
    "role add --system all --user u --user-domain lab reader",
]
LISTED = "role assignment list --names --user u --user-domain lab"
AS_EVE = (
    "--os-username eve --os-user-domain-name lab --os-project-name desk --os-project-domain-name lab --os-password {}"
)


@pytest.fixture(scope="module")
def openstack(federation, environment):
    """Plays commands at a site; everybody knows of them when it returns. Each must succeed unless told otherwise."""
    with shell(federation.directory / "clouds.yaml", environment) as say:

        def play(cloud, *commands, succeed=True):
            answers = say(cloud, *commands)
            for command, (code, said, errors) in zip(commands, answers, strict=True):
                assert (code == 0) is succeed, (command, code, said, errors)
            settle(federation)
            return [said if succeed else errors for _, said, errors in answers]

        play(ONE, "domain create lab")
        yield play


def settle(federation):
    """Until every site has what the controller has."""
    end = time.monotonic() + LONGEST_S
    while len({member.page("/status")["position"] for member in federation.members()}) > 1:
        assert time.monotonic() < end, "sites stay behind"
        time.sleep(0.02)


def test_what_one_site_makes_changes_and_deletes_another_sees(openstack):
    make = ["service create --name nova compute" if kind == "service" else f"{kind} create {options} {name}"
            for kind, name, options, _, _, _ in RESOURCES]  # fmt: skip
    show = [f"{kind} show {which} {name}" for kind, name, _, which, _, _ in RESOURCES]
    made = openstack(ONE, *make)
    assert openstack(TWO, *show) == made
    openstack(ONE, *(f"{kind} set {which} {change} {name}" for kind, name, _, which, change, _ in RESOURCES))
    for now, before, (*_, wanted) in zip(openstack(TWO, *show), made, RESOURCES, strict=True):
        assert now == before | now | wanted
    openstack(TWO, "domain set --disable shop")
    openstack(ONE, *(f"{kind} delete {which} {name}" for kind, name, _, which, _, _ in RESOURCES))
    for error in openstack(TWO, *show, succeed=False):
        assert "No " in error


def test_endpoints_and_with_them_the_catalog_are_the_same_everywhere(openstack):
    place = "http://glance/%(project_id)s"
    openstack(
        ONE,
        "service create --name glance image",
        f"endpoint create --region RegionTwo image public {place}",
        "endpoint create --region RegionTwo image internal http://hidden --disable",
    )
    listed, shown, catalog = openstack(TWO, "endpoint list --service image", "catalog show image", "catalog list")
    assert {(one["Interface"], one["URL"], one["Enabled"]) for one in listed} == {
        ("public", place, True),
        ("internal", "http://hidden", False),
    }
    (endpoint,) = shown["endpoints"]
    (project,) = openstack(TWO, "project show admin")
    assert (endpoint["region"], endpoint["url"]) == ("RegionTwo", f"http://glance/{project['id']}")
    assert openstack(ONE, "catalog list") == openstack("controller", "catalog list") == [catalog]
    openstack(TWO, "service delete image")
    assert {one["Type"] for one in openstack(ONE, "catalog list")[0]} == {"identity"}


def where(assignments):
    places = ("Project", "Domain", "System")
    return {(one["Role"], *(one[place] for place in places if one[place]), one["Inherited"]) for one in assignments}


def test_grants_of_every_kind_are_listed_by_name_and_by_what_they_come_to(openstack):
    openstack(
        ONE,
        "project create --domain lab p",
        "project create --domain lab --parent p child",
        "user create --domain lab u",
        "group create --domain lab g",
        "group add user --group-domain lab --user-domain lab g u",
        "role create lead",
        "role create deputy",
        "implied role create lead --implied-role deputy",
        *GRANTS,
    )
    openstack(TWO, "group contains user --group-domain lab --user-domain lab g u")
    by_name, effective, below, implied = openstack(
        TWO,
        LISTED,
        f"{LISTED} --effective",
        "role assignment list --names --effective --project child --project-domain lab",
        "implied role list",
    )
    granted = {("lead", "p@lab", False), ("reader", "lab", True), ("reader", "all", False)}
    assert where(by_name) == granted
    assert where(below) == {("reader", "child@lab", True)}
    assert where(effective) == {
        *(("lead", "p@lab", False), ("deputy", "p@lab", False)),
        *(("member", "p@lab", False), ("reader", "p@lab", False), ("reader", "lab", False)),
        *(("reader", "p@lab", True), ("reader", "child@lab", True)),
    }
    assert ("lead", "deputy") in {(one["Prior Role Name"], one["Implied Role Name"]) for one in implied}
    openstack(TWO, *(grant.replace("role add", "role remove") for grant in GRANTS), "role delete lead deputy")
    assert openstack(ONE, LISTED, f"{LISTED} --effective") == [[], []]


def test_mistakes_end_with_the_words_of_keystone(openstack):
    openstack(ONE, "role create lock --immutable")
    told = openstack(
        ONE,
        "domain create lab",
        "role delete lock",
        "domain delete lab",
        "user create --domain nowhere u",
        succeed=False,
    )
    words = ["409", "immutable", "disable it first", "nowhere"]
    assert [word in error for word, error in zip(words, told, strict=True)] == [True] * len(words), told
    openstack(ONE, "role set --no-immutable lock", "role delete lock")


def test_tokens_and_passwords_of_one_site_hold_and_end_at_all(openstack, federation):
    openstack(
        ONE,
        "project create --domain lab desk",
        "user create --domain lab --password first eve",
        "role add --project desk --project-domain lab --user eve --user-domain lab member",
    )
    (issued,) = openstack(TWO, AS_EVE.format("first") + " token issue")
    tokens = [
        session.Session(v3.Token(member.url, issued["id"], project_id=issued["project_id"], reauthenticate=False))
        for member in federation.members()
    ]
    assert {one.get_user_id() for one in tokens} == {issued["user_id"]}
    openstack(ONE, f"token revoke {issued['id']}")
    openstack(TWO, f"token revoke {issued['id']}", succeed=False)
    change = AS_EVE.format("first") + " user password set --original-password first --password second"
    openstack(TWO, change)
    openstack(ONE, AS_EVE.format("first") + " token issue", succeed=False)
    openstack(ONE, AS_EVE.format("second") + " token issue")
    for member in federation.members():
        late = session.Session(v3.Token(member.url, issued["id"], reauthenticate=False))
        with pytest.raises(NotFound):
            late.get_token()


def test_programs_and_trustees_are_let_in_at_every_site_and_shut_out_at_all(openstack, federation):
    mill, fay, gus, _, role = openstack(
        ONE,
        "project create --domain lab mill",
        "user create --domain lab --password secret fay",
        "user create --domain lab --password secret gus",
        "role add --project mill --project-domain lab --user fay --user-domain lab member",
        "role show member",
    )
    as_fay = (
        "--os-username fay --os-user-domain-name lab --os-project-name mill --os-project-domain-name lab "
        "--os-password secret "
    )
    ends = f"--project {mill['id']} --role {role['id']} {fay['id']} {gus['id']}"  # names are for who may list them
    made, trust, plain = openstack(
        TWO,
        as_fay + "application credential create robot",
        as_fay + f"trust create --impersonate {ends}",
        as_fay + f"trust create {ends}",
    )
    trustee = {"username": "gus", "user_domain_name": "lab", "password": "secret"}
    for member in federation.members():
        ways = [
            v3.ApplicationCredential(
                member.url, application_credential_id=made["ID"], application_credential_secret=made["Secret"]
            ),
            v3.Password(member.url, trust_id=trust["id"], **trustee),
        ]
        sessions = [session.Session(one) for one in ways]
        assert [one.get_user_id() for one in sessions] == [fay["id"], fay["id"]]
        as_gus = session.Session(v3.Password(member.url, trust_id=plain["id"], **trustee))
        assert as_gus.get_user_id() == gus["id"]
    openstack(ONE, f"trust delete {trust['id']}", as_fay + "application credential delete robot")
    for member, way in ((member, way) for member in federation.members() for way in ways):
        way.auth_url = member.url
        way.invalidate()
        with pytest.raises((NotFound, Unauthorized)):
            way.get_access(session.Session())
