"""Rules of several factors: what a login has to prove besides a password."""

import itertools

from tests.security.regions import NAMES
from tests.security.rows import row

RULES = {  # what a user's rules are -> what a login with nothing but the right password gets
    "both": ([["password", "totp"]], 401),
    "another": ([["totp"]], 401),
    "unknown": ([["nonsense"]], 401),
    "unknown beside": ([["password", "nonsense"]], 401),
    "unknown and both": ([["nonsense"], ["password", "totp"]], 401),
    "other case": ([["Password"]], 401),
    "nothing's name": ([[""]], 401),
    "twice over": ([["password", "totp"], ["totp", "password"]], 401),
    "this one": ([["password"]], 201),
    "unknown or this one": ([["nonsense"], ["password"]], 201),
    "none": ([], 201),
}
REFUSED = ([[]], [["password"], []], [["password", "password"]], [["totp"], ["totp"]], [[5]], "password", [["x", None]])


@row(
    "SEC-74",
    "a rule of several factors never asks for less than it says, whatever else is in it",
    "weaker: methods that it does not know are ignored, and rules of nothing else ask for nothing",
)
def test_sec_74_a_rule_asks_for_all_that_it_names(regions):
    """Receipts, which are for a second step, are not there: only TOTP has one."""
    home = regions.household()
    auth, path = home.auth(None), f"/v3/users/{home.user['id']}"
    before = regions.login(auth)
    again = {"identity": {"methods": ["token"], "token": {"id": before}}}
    for name, (rules, status) in RULES.items():
        options = {"multi_factor_auth_enabled": True, "multi_factor_auth_rules": rules}
        regions.expect(200, "PATCH", path, {"user": {"options": options}})
        for at, login in itertools.product(NAMES, (auth, again)):
            answer = regions.log_in(login, at)
            assert answer.status == status, (name, at)
            assert status == 201 or "x-subject-token" not in answer.headers
        with_unknown = auth["identity"] | {"methods": ["password", "nonsense"], "nonsense": {}}
        assert regions.log_in({"identity": with_unknown}, "RegionTwo").status == 401
    strictest = {"multi_factor_auth_enabled": True, "multi_factor_auth_rules": [["password", "totp"]]}
    regions.expect(200, "PATCH", path, {"user": {"options": strictest}})
    for rules, at in zip(REFUSED, itertools.cycle(NAMES)):
        body = {"user": {"options": {"multi_factor_auth_rules": rules}}}
        assert regions.ask("PATCH", path, body, at=at).status == 400, rules
        assert regions.log_in(auth, at).status == 401
    assert regions.ask("PATCH", path, {"user": {"options": strictest}}, token=before).status == 403
    regions.expect(200, "PATCH", path, {"user": {"options": {"multi_factor_auth_enabled": False}}})
    assert {regions.log_in(auth, at).status for at in NAMES} == {201}
