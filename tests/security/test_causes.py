"""Everything that ends tokens or takes roles from them, at every place at once, with what each remembers and without.

Each cause is a story: it makes tokens, which every place then validates twice; ends them somewhere; and, where that can
be, undoes what ended them. What upstream does is the measure: keystone/revoke/core.py for what an event voids, which no
undoing revives, and keystone/models/token_model.py for what is looked up, which is as it is now.
Keys and days without a login are in `keys_and_days`; steps of OAuth have tests of their own.
"""

import itertools
import time

from regional_keystone.record import Json
from tests.security import keys_and_days
from tests.security.programs import by, place, program
from tests.security.regions import SOON_S
from tests.security.test_revocation import ANOTHER, change, change_own_password, revoked, user_path
from tests.security.trusts import PATH, acting, trust
from tests.security.whole import PLACES, whole

VOID, GOOD = "void", "good"
CAUSES = {}
_TURNS = itertools.cycle(PLACES)


def cause(ended, undone=None):
    """A story: what its tokens are once they were ended, and once that was undone; a set is of roles they have."""

    def note(story):
        CAUSES[story.__name__] = (story, ended, undone)
        return story

    return note


def issued(regions, home, *scopes):
    """A token of the user for each scope, each from another place."""
    return [regions.login(home.auth(scope), next(_TURNS)) for scope in scopes or ("project",)]


def role(regions, home, name):
    """A role of this household's own."""
    return regions.make("role", name=f"{home.user['name']} {name}")


def grant(regions, path, made, method="PUT", at="Global", inherited=False):
    """Give or take this role at `path`, as in projects/ID/users/ID."""
    before, after = ("/OS-INHERIT", "/inherited_to_projects") if inherited else ("", "")
    regions.expect(204, method, f"/v3{before}/{path}/roles/{made['id']}{after}", at=at)


def on_project(home, actor="users"):
    return f"projects/{home.project['id']}/{actor}/{home.user['id']}"


def enabled(regions, kind, record, to, at="Global"):
    regions.expect(200, "PATCH", f"/v3/{kind}s/{record['id']}", {kind: {"enabled": to}}, at=at)


def crew(regions, home):
    """A group with the household's user in it."""
    made = regions.make("group", name=home.user["name"], domain_id=home.domain["id"])
    regions.expect(204, "PUT", f"/v3/groups/{made['id']}/users/{home.user['id']}")
    return made


# --- tokens -----------------------------------------------------------------------------------------------------------


@cause(VOID)
def token_revoked(regions, home):
    lone = regions.login(home.auth(None))
    child = regions.rescope(lone, home.auth()["scope"])
    yield [lone], [child]
    assert revoked(regions, lone, "RegionOne", "?cascade=false") == 204
    yield


@cause(VOID)
def chain_revoked(regions, home):
    root, other = regions.login(home.auth(None), "RegionTwo"), regions.login(home.auth())
    yield [root, regions.rescope(root, home.auth()["scope"], next(_TURNS))], [other]
    assert revoked(regions, root, "RegionOne") == 204
    yield


@cause(VOID)
def all_of_a_user_revoked(regions, home):
    yield issued(regions, home, "project", None)
    regions.expect(204, "DELETE", f"{user_path(home)}/tokens", at="RegionTwo")
    yield


# --- users ------------------------------------------------------------------------------------------------------------


@cause(VOID, VOID)
def own_password_changed(regions, home):
    yield issued(regions, home)
    change_own_password(regions, home)
    yield
    change(regions, home, password=home.secret)
    yield


@cause(VOID, VOID)
def password_reset(regions, home):
    yield issued(regions, home, None)
    change(regions, home, "RegionTwo", password=ANOTHER)
    yield
    change(regions, home, password=home.secret)
    yield


@cause(VOID, VOID)
def user_disabled(regions, home):
    yield issued(regions, home)
    change(regions, home, "RegionOne", enabled=False)
    yield
    change(regions, home, enabled=True)
    yield


@cause(VOID)
def user_deleted(regions, home):
    yield issued(regions, home)
    regions.expect(204, "DELETE", user_path(home), at="RegionOne")
    yield


# --- groups -----------------------------------------------------------------------------------------------------------


@cause(VOID, VOID)
def left_a_group(regions, home):
    made = crew(regions, home)
    grant(regions, f"projects/{home.project['id']}/groups/{made['id']}", role(regions, home, "crew"))
    yield issued(regions, home, "project", None)
    regions.expect(204, "DELETE", f"/v3/groups/{made['id']}/users/{home.user['id']}", at="RegionTwo")
    yield
    regions.expect(204, "PUT", f"/v3/groups/{made['id']}/users/{home.user['id']}")
    yield


@cause(VOID)
def group_deleted(regions, home):
    made = crew(regions, home)
    grant(regions, f"projects/{home.project['id']}/groups/{made['id']}", role(regions, home, "crew"))
    yield issued(regions, home, "project", None)
    regions.expect(204, "DELETE", f"/v3/groups/{made['id']}", at="RegionOne")
    yield


@cause(GOOD)
def group_without_a_role_deleted(regions, home):
    made = crew(regions, home)
    yield issued(regions, home)
    regions.expect(204, "DELETE", f"/v3/groups/{made['id']}", at="RegionOne")
    yield


@cause({"member", "reader"}, {"member", "reader", "crew"})
def role_of_a_group_taken(regions, home):
    made, given = crew(regions, home), role(regions, home, "crew")
    path = f"projects/{home.project['id']}/groups/{made['id']}"
    grant(regions, path, given)
    yield issued(regions, home)
    grant(regions, path, given, "DELETE", at="RegionOne")
    yield
    grant(regions, path, given)
    yield


# --- projects and domains ---------------------------------------------------------------------------------------------


@cause(VOID, GOOD)
def project_disabled(regions, home):
    unscoped = regions.login(home.auth(None))
    yield issued(regions, home), [unscoped]
    enabled(regions, "project", home.project, to=False, at="RegionTwo")
    yield
    enabled(regions, "project", home.project, to=True)
    yield


@cause(VOID)
def project_deleted(regions, home):
    unscoped = regions.login(home.auth(None))
    yield issued(regions, home), [unscoped]
    regions.expect(204, "DELETE", f"/v3/projects/{home.project['id']}", at="RegionOne")
    yield


@cause(VOID, GOOD)
def domain_disabled(regions, home):
    grant(regions, f"domains/{home.domain['id']}/users/{home.user['id']}", role(regions, home, "domain"))
    yield issued(regions, home, None, "project", "domain")
    enabled(regions, "domain", home.domain, to=False, at="RegionOne")
    yield
    enabled(regions, "domain", home.domain, to=True)
    yield


@cause(VOID)
def domain_deleted(regions, home):
    yield issued(regions, home, "project", None)
    enabled(regions, "domain", home.domain, to=False)
    regions.expect(204, "DELETE", f"/v3/domains/{home.domain['id']}", at="RegionTwo")
    yield


# --- roles ------------------------------------------------------------------------------------------------------------


@cause(VOID)
def only_role_deleted(regions, home):
    made = role(regions, home, "only")
    grant(regions, on_project(home), made)
    grant(regions, on_project(home), home.role, "DELETE")
    yield issued(regions, home)
    regions.expect(204, "DELETE", f"/v3/roles/{made['id']}", at="RegionTwo")
    yield


@cause({"member", "reader"})
def one_role_deleted(regions, home):
    made = role(regions, home, "one")
    grant(regions, on_project(home), made)
    yield issued(regions, home)
    regions.expect(204, "DELETE", f"/v3/roles/{made['id']}", at="RegionOne")
    yield


@cause(VOID, GOOD)
def grant_on_a_project_taken(regions, home):
    yield issued(regions, home)
    grant(regions, on_project(home), home.role, "DELETE", at="RegionOne")
    yield
    grant(regions, on_project(home), home.role)
    yield


@cause(VOID, GOOD)
def grant_on_a_domain_taken(regions, home):
    path, made = f"domains/{home.domain['id']}/users/{home.user['id']}", role(regions, home, "domain")
    grant(regions, path, made)
    yield issued(regions, home, "domain"), issued(regions, home)
    grant(regions, path, made, "DELETE", at="RegionTwo")
    yield
    grant(regions, path, made)
    yield


@cause(VOID, GOOD)
def grant_on_the_system_taken(regions, home):
    path, made = f"system/users/{home.user['id']}", role(regions, home, "system")
    grant(regions, path, made)
    yield issued(regions, home, "system"), issued(regions, home)
    grant(regions, path, made, "DELETE", at="RegionOne")
    yield
    grant(regions, path, made)
    yield


@cause(VOID, GOOD)
def inherited_grant_taken(regions, home):
    path, made = f"domains/{home.domain['id']}/users/{home.user['id']}", role(regions, home, "inherited")
    grant(regions, path, made, inherited=True)
    grant(regions, on_project(home), home.role, "DELETE")
    yield issued(regions, home)
    grant(regions, path, made, "DELETE", inherited=True, at="RegionTwo")
    yield
    grant(regions, path, made, inherited=True)
    yield


@cause({"prior"}, {"prior", "implied"})
def implied_role_taken(regions, home):
    prior, implied = (role(regions, home, name) for name in ("prior", "implied"))
    rule = f"/v3/roles/{prior['id']}/implies/{implied['id']}"
    regions.expect(201, "PUT", rule)
    grant(regions, on_project(home), prior)
    grant(regions, on_project(home), home.role, "DELETE")
    yield issued(regions, home)
    regions.expect(204, "DELETE", rule, at="RegionOne")
    yield
    regions.expect(201, "PUT", rule)
    yield


# --- trusts -----------------------------------------------------------------------------------------------------------


def by_trust(regions, home, **about):
    """A trust from the household's user to somebody, and a token by it; and somebody's own token."""
    friend = regions.household()
    made = trust(regions, home, friend, **about)
    return made, friend, [acting(regions, made, friend, next(_TURNS))], [regions.login(friend.auth())]


@cause(VOID)
def trust_deleted(regions, home):
    made, _, tokens, kept = by_trust(regions, home)
    trustor = regions.login(home.auth())
    yield tokens, [*kept, trustor]
    regions.expect(204, "DELETE", f"{PATH}/{made['id']}", token=trustor, at="RegionOne")
    yield


@cause(VOID, VOID)
def trustor_disabled(regions, home):
    _, _, tokens, kept = by_trust(regions, home, impersonation=False)
    yield tokens, kept
    change(regions, home, "RegionTwo", enabled=False)
    yield
    change(regions, home, enabled=True)
    yield


@cause(VOID, VOID)
def trustee_disabled(regions, home):
    _, friend, tokens, _ = by_trust(regions, home)
    trustor = regions.login(home.auth())
    yield tokens, [trustor]
    change(regions, friend, "RegionOne", enabled=False)
    yield
    change(regions, friend, enabled=True)
    yield


@cause(VOID, GOOD)
def trustor_loses_the_role(regions, home):
    _, _, tokens, kept = by_trust(regions, home)
    yield tokens, kept
    grant(regions, on_project(home), home.role, "DELETE", at="RegionTwo")
    yield
    grant(regions, on_project(home), home.role)
    yield


@cause(VOID, GOOD)
def domain_of_a_trustor_disabled(regions, home):
    _, _, tokens, kept = by_trust(regions, home)
    yield tokens, kept
    enabled(regions, "domain", home.domain, to=False, at="RegionOne")
    yield
    enabled(regions, "domain", home.domain, to=True)
    yield


# --- application credentials ------------------------------------------------------------------------------------------


def by_program(regions, home):
    made = program(regions, home)
    return made, [regions.login(by(made), next(_TURNS))]


@cause(VOID)
def application_credential_deleted(regions, home):
    made, tokens = by_program(regions, home)
    user = regions.login(home.auth())
    yield tokens, [user]
    regions.expect(204, "DELETE", place(home, made), token=user, at="RegionTwo")
    yield


@cause(VOID, VOID)
def user_of_an_application_credential_disabled(regions, home):
    _, tokens = by_program(regions, home)
    yield tokens
    change(regions, home, "RegionOne", enabled=False)
    yield
    change(regions, home, enabled=True)
    yield


@cause(VOID, VOID)
def role_of_an_application_credential_deleted(regions, home):
    made = role(regions, home, "programs")
    grant(regions, on_project(home), made)
    user = regions.login(home.auth())
    other = program(regions, home, token=user, roles=[{"id": made["id"]}])
    yield [regions.login(by(other), next(_TURNS))], [user]
    regions.expect(204, "DELETE", f"/v3/roles/{made['id']}", at="RegionOne")
    yield
    grant(regions, on_project(home), role(regions, home, "programs"))
    yield


@cause(VOID, GOOD)
def role_of_an_application_credential_taken(regions, home):
    _, tokens = by_program(regions, home)
    yield tokens
    grant(regions, on_project(home), home.role, "DELETE", at="RegionOne")
    yield
    grant(regions, on_project(home), home.role)
    yield


# --- the table --------------------------------------------------------------------------------------------------------


class Told:
    """One cause under way: its tokens, and those of others beside them that nothing may happen to."""

    def __init__(self, regions, name):
        self.name = name
        self._story, self.ended, self.undone = CAUSES[name]
        self._steps = self._story(regions, regions.household())
        tokens = next(self._steps)
        self.tokens, self.kept = tokens if isinstance(tokens, tuple) else (tokens, [])

    def go_on(self):
        next(self._steps)

    def finish(self):
        """Nothing was left out of it."""
        return next(self._steps, "over") == "over"


def worth(regions, token, at):
    """What a service at this place learns of it: that it is void, or its roles."""
    answer = regions.validate(token, at)
    if answer.status == 404:
        caller = regions.ask("GET", "/v3/auth/projects", token=token, at=at).status
        return VOID if caller == 401 else f"404, and {caller} as a caller's"
    return answer.status if answer.status != 200 else _names(answer.body["token"])


def _names(shown: Json):
    return {one["name"].rpartition(" ")[2] for one in shown.get("roles", ())}


def is_as(found, wanted):
    return isinstance(found, set) if wanted == GOOD else found == wanted


def wrong(regions, table, which):
    """Every (cause, place, found, wanted) that is not as upstream has it."""
    found = []
    for told in table:
        wanted = getattr(told, which)
        for tokens, should in ((told.tokens, wanted), (told.kept, GOOD)):
            for token, at in itertools.product(tokens, PLACES):
                if not is_as(what := worth(regions, token, at), should):
                    found.append((told.name, at, what, should))
    return found


def test_every_cause_holds_at_every_place_and_is_undone_as_upstream_undoes_it(tmp_path):
    with whole(tmp_path, *keys_and_days.SETTINGS) as regions:
        judge(regions)
        keys_and_days.judge_keys(regions)
        keys_and_days.judge_days(regions)


def judge(regions):
    table = [Told(regions, name) for name in CAUSES]
    for told, _ in itertools.product(table, range(2)):  # validated twice everywhere: what is remembered is warm
        for token, at in itertools.product((*told.tokens, *told.kept), PLACES):
            assert regions.validate(token, at).status == 200, (told.name, at)
    for told in table:
        told.go_on()
    assert not _once_settled(regions, table, "ended")
    again = [told for told in table if told.undone is not None]
    for told in again:
        told.go_on()
    assert not _once_settled(regions, again, "undone")
    assert all(told.finish() for told in table)


def _once_settled(regions, table, which):
    """What is wrong, and stays so: each region has been told by then."""
    end = time.monotonic() + SOON_S
    while (found := wrong(regions, table, which)) and time.monotonic() < end:
        time.sleep(0.05)
    return found
