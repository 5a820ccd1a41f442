"""What ends tokens before their time: whoever loses something, whatever is revoked, however the token is written."""

import itertools
import random
import string
import time

import pytest

from regional_keystone.document import instant
from regional_keystone.document import time as shown
from tests.security.programs import by, program
from tests.security.regions import NAMES
from tests.security.rows import HOLDS, row
from tests.security.trusts import acting, trust

SECOND = 1_000_000
TOKENS = "/v3/auth/tokens"
ANOTHER = "another password"


def next_second():
    """Wait until what is issued is of another second."""
    time.sleep(1.05 - time.time() % 1)


def user_path(home):
    return f"/v3/users/{home.user['id']}"


def change(regions, home, at="Global", **fields):
    regions.expect(200, "PATCH", user_path(home), {"user": fields}, at=at)


def disable_and_enable(regions, home):
    change(regions, home, enabled=False)
    change(regions, home, enabled=True)


def change_own_password(regions, home):
    sent = {"user": {"password": ANOTHER, "original_password": home.secret}}
    regions.expect(204, "POST", f"{user_path(home)}/password", sent, token="", at="RegionOne")


def revoked(regions, token, at="Global", query=""):
    """The status of the revocation of a token by the administrator."""
    return regions.ask("DELETE", TOKENS + query, at=at, X_Subject_Token=token).status


def refused(regions, token):
    """Whether no region takes it from a caller."""
    return all(regions.ask("GET", "/v3/auth/projects", token=token, at=at).status == 401 for at in NAMES)


@row("SEC-06", "a token outlives its user's deletion, disabling or old password, or comes back with the user", HOLDS)
def test_sec_06_no_token_outlives_what_befalls_its_user(regions):
    bystander = regions.household()
    homes = [regions.household(domain=bystander.domain) for _ in range(4)]
    deleted, disabled, reset, changed = homes
    tokens = [
        regions.login(home.auth(scope), at) for home in homes for scope, at in ((None, NAMES[1]), ("project", NAMES[2]))
    ]
    kept = regions.login(bystander.auth())
    regions.becomes(200, *tokens, kept)
    regions.expect(204, "DELETE", user_path(deleted))
    change(regions, disabled, at="RegionTwo", enabled=False)
    change(regions, reset, at="RegionOne", password=ANOTHER)
    change_own_password(regions, changed)
    regions.becomes(404, *tokens)
    assert all(refused(regions, token) for token in tokens)
    for home, at in itertools.product((deleted, disabled), NAMES):
        assert regions.log_in(home.auth(), at).status == 401
    change(regions, disabled, enabled=True)
    next_second()
    anew = [regions.login(disabled.auth()), *(regions.login(home.auth(password=ANOTHER)) for home in (reset, changed))]
    regions.becomes(200, *anew, kept)
    regions.becomes(404, *tokens)


@row("SEC-07", "a token keeps a role that its user has lost (it comes back with the role, as with Keystone)", HOLDS)
def test_sec_07_a_token_has_the_roles_that_its_user_has(regions):
    home = regions.household()
    first, last = (regions.make("role", name=f"{home.user['name']} {name}") for name in ("first", "last"))
    user = f"users/{home.user['id']}/roles"
    for scope, target in (
        ("project", f"projects/{home.project['id']}"),
        ("domain", f"domains/{home.domain['id']}"),
        ("system", "system"),
    ):
        one, other = f"/v3/{target}/{user}/{first['id']}", f"/v3/{target}/{user}/{last['id']}"
        for path in (one, other):
            regions.expect(204, "PUT", path)
        if scope == "project":
            regions.grant(home.user, home.project, method="DELETE")
        tokens = [regions.login(home.auth(scope), at) for at in NAMES]
        assert _roles(regions, tokens) == {frozenset((first["name"], last["name"]))}
        regions.expect(204, "DELETE", one)
        assert _roles(regions, tokens) == {frozenset((last["name"],))}
        regions.expect(204, "DELETE", other)
        regions.becomes(404, *tokens)
        assert all(refused(regions, token) for token in tokens)
        assert {regions.log_in(home.auth(scope), at).status for at in NAMES} == {401}
        regions.expect(204, "PUT", other)
        assert _roles(regions, tokens) == {frozenset((last["name"],))}


def _roles(regions, tokens):
    """What every region says that each of these has."""
    found = [regions.validate(token, at).body["token"]["roles"] for token in tokens for at in NAMES]
    return {frozenset(role["name"] for role in roles) for roles in found}


@row("SEC-08", "a token, or a login, for a disabled project or domain, or of a user of a disabled domain", HOLDS)
@pytest.mark.parametrize("what", ["project", "domain", "the user's domain"])
def test_sec_08_nothing_disabled_lets_anybody_in(regions, what):
    home, other = regions.household(), regions.household()
    regions.grant(home.user, other.project)
    regions.expect(204, "PUT", f"/v3/domains/{other.domain['id']}/users/{home.user['id']}/roles/{home.role['id']}")
    scopes = {"project": {"project": {"id": other.project["id"]}}, "domain": {"domain": {"id": other.domain["id"]}}}
    login = home.auth(None)
    unscoped, here = regions.login(login, "RegionOne"), regions.login(home.auth())
    there = {kind: regions.login(login | {"scope": scope}, "RegionTwo") for kind, scope in scopes.items()}
    regions.becomes(200, unscoped, here, *there.values())
    path, kind = {
        "project": (f"/v3/projects/{other.project['id']}", "project"),
        "domain": (f"/v3/domains/{other.domain['id']}", "domain"),
        "the user's domain": (f"/v3/domains/{home.domain['id']}", "domain"),
    }[what]
    regions.expect(200, "PATCH", path, {kind: {"enabled": False}})
    out = {"project": ["project"], "domain": ["project", "domain"], "the user's domain": ["project", "domain"]}[what]
    regions.becomes(404, *(there[one] for one in out))
    assert all(refused(regions, there[one]) for one in out)
    for one, at in itertools.product(out, NAMES):
        assert regions.log_in(login | {"scope": scopes[one]}, at).status == 401
    if what == "the user's domain":
        regions.becomes(404, unscoped, here)
        assert {regions.log_in(login, at).status for at in NAMES} == {401}
        return
    regions.becomes(200, unscoped, here)
    for one, at in itertools.product(out, NAMES):
        again = {"identity": {"methods": ["token"], "token": {"id": unscoped}}, "scope": scopes[one]}
        assert regions.log_in(again, at).status == 401


@row("SEC-09", "a token by a trust outlives what befalls its trustor or its trustee", HOLDS)
@pytest.mark.parametrize("impersonation", [True, False])
def test_sec_09_what_voids_either_ones_tokens_voids_those_by_a_trust(regions, impersonation):
    ways = (
        change_own_password,
        disable_and_enable,
        lambda regions, home: change(regions, home, at="RegionTwo", password=ANOTHER),
        lambda regions, home: regions.expect(204, "DELETE", f"{user_path(home)}/tokens", at="RegionOne"),
        lambda regions, home: change(regions, home, enabled=False),
        lambda regions, home: regions.expect(204, "DELETE", user_path(home)),
    )
    pairs = [(regions.household(), regions.household()) for _ in range(2 * len(ways))]
    made = [trust(regions, *pair, impersonation=impersonation) for pair in pairs]
    tokens = [
        acting(regions, one, pair[1], at) for one, pair, at in zip(made, pairs, itertools.cycle(NAMES), strict=False)
    ]
    regions.becomes(200, *tokens)
    for (way, end), pair in zip(itertools.product(ways, (0, 1)), pairs, strict=True):
        way(regions, pair[end])
    regions.becomes(404, *tokens)
    assert all(refused(regions, token) for token in tokens)


@row("SEC-10", "a thousand tokens issued at any part of a second, revoked one by one, and one is still good", HOLDS)
def test_sec_10_of_a_thousand_revoked_tokens_none_is_good(regions, request):
    many = 1000 if request.node.callspec.params["regions"] == "remembering" else 100  # all that memory could get wrong
    home = regions.household()
    chance = random.Random(10)
    ends = [shown(time.time_ns() // 1000 + 1800 * SECOND + chance.randrange(SECOND)) for _ in range(10)]
    logins = [by(program(regions, home, name=end, expires_at=end)) for end in ends] + [home.auth()] * 10
    places = list(itertools.islice(itertools.cycle(itertools.product(NAMES, logins)), many))
    chance.shuffle(places)
    tokens = [regions.login(login, at) for at, login in places]
    regions.becomes(200, *tokens[::100])
    kept = regions.login(home.auth())
    assert {revoked(regions, token, chance.choice(NAMES)) for token in tokens} == {204}
    regions.becomes(404, *tokens[-20:])  # of every region; each tells of its own in their order
    assert {status for token in tokens for status in regions.statuses(token)} == {404}
    regions.becomes(200, kept)


@row("SEC-11", "a token issued in the second in which its user's password changed", HOLDS)
def test_sec_11_a_second_is_never_cut_in_favour_of_a_token(regions):
    homes = [regions.household() for _ in range(8)]
    places = list(zip(homes, itertools.cycle(NAMES), strict=False))
    next_second()
    void, good, met = [], [], 0
    for home, at in places:
        void.append(regions.login(home.auth(), at))
        change(regions, home, password=ANOTHER)
        answer = regions.log_in(home.auth(password=ANOTHER), at)
        issued, revoked_at = _second(answer.body["token"]["issued_at"]), _revoked_second(regions, home)
        (void if issued <= revoked_at else good).append(answer.headers["x-subject-token"])
        met += issued == revoked_at
    assert met, "no login was in the second of the change"
    regions.becomes(404, *void)
    next_second()
    regions.becomes(200, *good, *(regions.login(home.auth(password=ANOTHER), at) for home, at in places))


def _second(text):
    return instant(text) // SECOND


def _revoked_second(regions, home):
    """The second up to which the user's tokens are void."""
    events = regions.expect(200, "GET", "/v3/OS-REVOKE/events")["events"]
    return max(_second(one["issued_before"]) for one in events if one.get("user_id") == home.user["id"])


@row("SEC-12", "a revoked token written in two hundred other ways", "weaker: takes a live token in other spellings")
def test_sec_12_a_revoked_token_is_revoked_in_every_spelling(regions):
    home = regions.household()
    token = next(one for one in _tokens(regions, home) if len(one) % 4)
    spellings = _spellings(token)
    padded = token + "=" * (-len(token) % 4)
    assert (len(spellings), len({token, padded} & spellings)) == (200, 0)
    regions.becomes(200, token, padded)
    for at in NAMES:  # a live one has one spelling: caches, limits and logs must not take it for several
        assert {regions.validate(one, at).status for one in spellings} == {404}
    assert revoked(regions, padded, "RegionOne") == 204
    regions.becomes(404, token, padded)
    for at in NAMES:
        assert {regions.validate(one, at).status for one in spellings} == {404}
    assert all(refused(regions, one) for one in (token, padded, *sorted(spellings)[::10]))


def _tokens(regions, home):
    """Tokens of several lengths: not each has unused bits in its last character."""
    for scope in (None, "project"):
        yield regions.login(home.auth(scope))
    yield acting(regions, trust(regions, home, home), home)
    yield regions.login(by(program(regions, home)))


def _spellings(token):
    """Two hundred ways to write what a lax reader takes for the same bytes."""
    chance = random.Random(12)
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    last = alphabet.index(token[-1])
    unused = 4 if len(token) % 4 == 2 else 2
    found = {token[:-1] + alphabet[last ^ bits] for bits in range(1, 1 << unused)}
    found |= {token + "=" * count for count in range(1, 9) if (len(token) + count) % 4}
    found |= {token + "=" * (-len(token) % 4) + more for more in ("A", "AAAA", "=", ".", "!")}
    found |= {token.replace("-", "+").replace("_", "/"), token.swapcase(), token.upper(), token.lower()} - {token}
    while len(found) < 200:
        place = chance.randrange(1, len(token))
        sign = token[place]
        insert = chance.choice("!.~*,;:|@\t ")
        found.add(
            chance.choice(
                (
                    token[:place] + insert + token[place:],
                    token[:place] + insert * 4 + token[place:],
                    token[:place] + "=" + token[place:],
                    f"{token[:place]}%{ord(sign):02x}{token[place + 1 :]}",
                    token[:place] + (sign.swapcase() if sign.isalpha() else chance.choice("+/")) + token[place + 1 :],
                )
            )
        )
    return found


@row("SEC-13", "a token scoped anew, and anew from that, outlives the one that it came from", HOLDS)
def test_sec_13_what_was_made_of_a_token_goes_with_it(regions):
    home = regions.household()
    root, other = (regions.login(home.auth(None)) for _ in range(2))
    made = [root]
    for at in itertools.islice(itertools.cycle(NAMES), 6):
        made.append(regions.rescope(made[-1], home.auth()["scope"], at))
    ids = [regions.validate(token).body["token"]["audit_ids"] for token in made]
    assert [len(one) for one in ids] == [1, *[2] * 6]
    assert {one[-1] for one in ids} == {ids[0][0]}
    assert len({one[0] for one in ids}) == 7
    regions.becomes(200, *made)
    assert revoked(regions, root, "RegionTwo") == 204
    regions.becomes(404, *made)
    assert all(refused(regions, token) for token in made)
    regions.becomes(200, other)


@row(
    "SEC-14",
    "who stole a token keeps what was made from it when it is revoked, also where it was made from another itself",
    "weaker: what was made from a token that was made from another stays",
)
def test_sec_14_revoking_a_token_reaches_what_a_thief_made_from_it(regions):
    home = regions.household()
    scope = home.auth()["scope"]
    root, lone = (regions.login(home.auth(None)) for _ in range(2))
    stolen, sibling = (regions.rescope(root, scope, at) for at in ("RegionOne", "RegionTwo"))
    kept = [root, sibling, regions.rescope(sibling, scope), regions.rescope(lone, scope)]
    thiefs = [regions.rescope(stolen, scope, "RegionTwo")]
    for at in itertools.islice(itertools.cycle(NAMES), 6):
        thiefs.append(regions.rescope(thiefs[-1], scope, at))
    assert revoked(regions, lone, "RegionOne", "?cascade=false") == 204
    regions.becomes(404, lone)
    regions.becomes(200, stolen, *kept, *thiefs)
    assert revoked(regions, thiefs[1], "RegionOne", "?cascade=false") == 204
    regions.becomes(404, thiefs.pop(1))
    regions.becomes(200, stolen, *kept, *thiefs)
    assert revoked(regions, thiefs[1], "RegionTwo") == 204
    regions.becomes(404, *thiefs[1:])
    regions.becomes(200, stolen, *kept, thiefs[0])
    assert revoked(regions, stolen, "RegionTwo") == 204
    regions.becomes(404, stolen, *thiefs)
    regions.becomes(200, *kept, regions.rescope(root, scope, "RegionOne"))
    assert revoked(regions, root) == 204
    regions.becomes(404, *kept[:3])
    regions.becomes(200, kept[3])
    _who_may_revoke_all_of_a_user(regions, home, kept[3])


def _who_may_revoke_all_of_a_user(regions, home, token):
    path = f"{user_path(home)}/tokens"
    other = regions.household(role="manager", domain=home.domain)
    for at in NAMES:
        regions.expect(403, "DELETE", path, token=regions.login(other.auth()), at=at)
        regions.expect(401, "DELETE", path, token="", at=at)
    regions.becomes(200, token)
    regions.expect(204, "DELETE", path, token=token, at="RegionTwo")
    regions.becomes(404, token)
    next_second()
    token = regions.login(home.auth(), "RegionTwo")
    regions.becomes(200, token)
    regions.expect(204, "DELETE", path, at="RegionOne")
    regions.becomes(404, token)
