"""What ends tokens without a word about any of them: a key that was stolen, and days without a login.

At every place at once, with what each remembers and without: each has answered for these tokens twice before.
"""

import itertools
import time

from tests.security.regions import SOON_S
from tests.security.trusts import acting, trust
from tests.security.whole import PLACES

DAYS, DAY_S = 2, 86_400
SETTINGS = (f"security_compliance.disable_user_account_days_inactive={DAYS}", "token.expiration=1000000")


def judge_keys(regions):
    """Tokens under a condemned key are void, those under the key before it are not, and everybody logs in anew."""
    home = regions.household()
    kept = [regions.login(home.auth(), at) for at in PLACES]
    ring = regions.run(regions.controller.rotator.turn())
    _until(lambda: {one.part.holder.seen.epoch >= ring.epoch for one in (regions.controller, *regions.sites)}, {True})
    (key,) = _sealing(regions)
    doomed = [regions.login(home.auth(), at) for at in PLACES]
    doomed.append(regions.rescope(kept[0], home.auth()["scope"]))
    _warm(regions, *kept, *doomed)
    regions.run(regions.controller.compromise.condemn({key: "token"}, "somebody", "it was stolen"))
    _until(lambda: _statuses(regions, *doomed), {404})
    assert _statuses(regions, *kept) == {200}
    for token, at in itertools.product(doomed, PLACES):
        assert regions.ask("GET", "/v3/auth/projects", token=token, at=at).status == 401
    for at in PLACES:
        _until(lambda at=at: regions.log_in(home.auth(), at).status, 201)
    assert key not in _sealing(regions)


def judge_days(regions):
    """Who has not logged in for days is void at every place from that moment on, and what was void stays so."""
    idle, friend, exempt = (regions.household() for _ in range(3))
    for user in (
        exempt.user,
        friend.user,
        regions.expect(200, "GET", "/v3/auth/tokens", X_Subject_Token=regions.admin)["token"]["user"],
    ):
        regions.expect(200, "PATCH", f"/v3/users/{user['id']}", {"user": {"options": {"ignore_user_inactivity": True}}})
    taking = regions.controller.replicator.taking
    assert taking._rules.disable_user_account_days_inactive == DAYS, "who was inactive in truth revives nothing"
    doomed = [regions.login(idle.auth(), at) for at in PLACES]
    doomed.append(acting(regions, trust(regions, idle, friend), friend))
    kept = [regions.login(one.auth(), at) for one in (exempt, friend) for at in PLACES]
    _set(regions, DAY_S * DAYS - 60)
    _warm(regions, *doomed, *kept)
    _set(regions, DAY_S * DAYS)
    _until(lambda: _statuses(regions, *doomed), {404})
    assert _statuses(regions, *kept) == {200}
    _until(lambda: _shut_out(regions, idle), {401})  # 503 while a place hears that days have passed
    _until(lambda: regions.ask("PATCH", f"/v3/users/{idle.user['id']}", {"user": {"enabled": True}}).status, 200)
    for at in PLACES:
        _until(lambda at=at: regions.log_in(idle.auth(), at).status, 201)
    assert _statuses(regions, *doomed) == {404}


def _shut_out(regions, home):
    """What logins are answered; none of them lets anybody in."""
    found = {regions.log_in(home.auth(), at).status for at in PLACES}
    assert found <= {401, 503}
    return found


def _set(regions, seconds):
    """So long after the first moment of this day."""
    regions.clock.ahead_s = seconds - time.time() % DAY_S


def _sealing(regions):
    """The ids of the keys that seal, at all places together."""
    rings = [one.part.holder.ring for one in (regions.controller, *regions.sites)]
    return {ring.key_ids[ring.primary] for ring in rings}


def _warm(regions, *tokens):
    assert _statuses(regions, *tokens, *tokens) == {200}


def _statuses(regions, *tokens):
    return {regions.validate(token, at).status for token in tokens for at in PLACES}


def _until(found, wanted):
    end = time.monotonic() + 2 * SOON_S
    while found() != wanted:
        assert time.monotonic() < end, (found(), wanted)
        time.sleep(0.05)
