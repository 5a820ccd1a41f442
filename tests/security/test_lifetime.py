"""How long tokens live, whoever passes them on."""

from tests.security.rows import HOLDS, row


@row("SEC-01", "a token scoped anew five times lives no longer than the first", HOLDS)
def test_sec_01_scoping_anew_does_not_lengthen_a_life(regions):
    home = regions.household()
    scope = home.auth()["scope"]
    first = token = regions.login(home.auth())
    ends = regions.validate(token).body["token"]["expires_at"]
    for at in ("RegionOne", "RegionTwo", "Global", "RegionOne", "RegionTwo"):
        token = regions.rescope(token, scope, at)
        assert regions.validate(token, at).body["token"]["expires_at"] == ends
    assert token != first
