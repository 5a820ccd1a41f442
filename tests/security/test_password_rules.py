"""The rules of [security_compliance] for passwords and accounts: to the moment, and in every region."""

import asyncio

import pytest

from tests.security.conftest import MODES
from tests.security.inside import PASSWORD, at_a_place
from tests.security.regions import NAMES, started
from tests.security.rows import UNKNOWN, row

pytestmark = [pytest.mark.federation, pytest.mark.together("security-guessing")]
DAY = 86_400
FIRST, NEXT = PASSWORD, "second-password-2"
RULES = (
    "security_compliance.unique_last_password_count=3",
    "security_compliance.minimum_password_age=1",
    "security_compliance.password_regex=.{8}",
)
OWN = [("change", FIRST, "p1", 204), ("change", "p1", "p2", 204), ("change", "p2", "p3", 204)]
BOUNDARIES = {  # what is configured, and what happens so many seconds after midnight
    "lockout": (
        {"lockout_failure_attempts": 3, "lockout_duration": 60},
        {
            0: [("login", "x", 401), ("login", "x", 401), ("login", FIRST, 201)],
            1: [("login", "x", 401), ("login", "x", 401), ("login", "x", 401), ("login", FIRST, 401)],
            60: [("login", "x", 401), ("login", FIRST, 401)],
            60.999999: [("login", FIRST, 401)],
            61: [("login", "x", 401), ("login", "x", 401), ("login", FIRST, 201)],
        },
    ),
    "lockout without end": (
        {"lockout_failure_attempts": 1, "lockout_duration": None},
        {0: [("login", "x", 401), ("login", FIRST, 401)], 100 * DAY: [("login", FIRST, 401)]},
    ),
    "expiry": (
        {"password_expires_days": 2},
        {
            2 * DAY - 0.000001: [("login", FIRST, 201)],
            2 * DAY: [("login", FIRST, 401), ("change", "x", NEXT, 401), ("change", FIRST, NEXT, 204)],
            4 * DAY - 0.000001: [("login", NEXT, 201)],
            4 * DAY: [("login", NEXT, 401)],
        },
    ),
    "no history": ({"unique_last_password_count": 0}, {0: [*OWN, ("change", "p3", "p3", 204)]}),
    "history of 1": (
        {"unique_last_password_count": 1},
        {0: [*OWN, ("change", "p3", "p3", 400), ("change", "p3", "p2", 204)]},
    ),
    "history of 3": (
        {"unique_last_password_count": 3},
        {0: [*OWN, *(("change", "p3", one, 400) for one in ("p3", "p2", "p1")), ("change", "p3", FIRST, 204)]},
    ),
    "history of 4": (
        {"unique_last_password_count": 4},
        {0: [*OWN, *(("change", "p3", one, 400) for one in ("p3", "p2", "p1", FIRST)), ("change", "p3", "p4", 204)]},
    ),
    "age": (
        {"minimum_password_age": 1},
        {
            0: [("change", FIRST, NEXT, 204), ("change", NEXT, "p3", 400)],
            DAY - 0.000001: [("change", NEXT, "p3", 400)],
            DAY: [("change", NEXT, "p3", 204)],
        },
    ),
    "inactive, never seen, last moment": (
        {"disable_user_account_days_inactive": 3},
        {3 * DAY - 0.000001: [("login", FIRST, 201)]},
    ),
    "inactive, never seen": (
        {"disable_user_account_days_inactive": 3},
        {3 * DAY: [("login", FIRST, 401), ("change", FIRST, NEXT, 401)]},
    ),
    "inactive, seen": (
        {"disable_user_account_days_inactive": 3},
        {
            2 * DAY: [("login", FIRST, 201)],
            5 * DAY - 0.000001: [("login", FIRST, 201)],
            7 * DAY: [("login", FIRST, 401)],
        },
    ),
    "first use": (
        {"change_password_upon_first_use": True},
        {0: [("login", FIRST, 401), ("change", FIRST, NEXT, 204), ("login", NEXT, 201)]},
    ),
    "strength": (
        {"password_regex": "[a-z]{4}"},
        {0: [("change", FIRST, "abc", 400), ("change", FIRST, "1abcd", 400), ("change", FIRST, "abcd", 204)]},
    ),
}


@pytest.fixture(scope="module", params=MODES)
def strict(request, tmp_path_factory):
    """A federation in which new passwords have rules."""
    with started(tmp_path_factory.mktemp("rules"), *MODES[request.param], *RULES) as found:
        yield found


@row(
    "SEC-76",
    "each rule of [security_compliance] holds to the moment: lockout, expiry, history, age, inactivity",
    UNKNOWN,
)
@pytest.mark.parametrize("name", BOUNDARIES)
def test_sec_76_the_rules_of_passwords_hold_at_their_boundaries(tmp_path, name):
    """With a clock that stands: that they hold in every region is the next test's."""
    rules, moments = BOUNDARIES[name]
    asyncio.run(at_a_place(tmp_path, rules, lambda place: in_time(place, moments)))


async def in_time(place, moments):
    for seconds, steps in moments.items():
        place.clock.ahead_s = seconds
        for what, *words, status in steps:
            answer = await (place.login(*words) if what == "login" else place.change(*words))
            assert answer.status == status, (seconds, what, words, answer.body)


def test_the_rules_of_passwords_hold_in_every_region(strict):
    """The other half of SEC-76: what one region was told counts in the others at once."""

    def change(old, new, at):
        body = {"user": {"original_password": old, "password": new}}
        answer = strict.ask("POST", f"/v3/users/{home.user['id']}/password", body, token="", at=at)
        return answer.status, (answer.body or {}).get("error", {}).get("message", "")[:40]

    for one, two, three in (NAMES, NAMES[::-1]):
        home = strict.household()
        assert change(home.secret, "seven77", one)[0] == 400, "too short"
        assert change(home.secret, FIRST, one)[0] == 204
        assert change(FIRST, NEXT, two) == (400, "You cannot change your password at this ")
        strict.expect(200, "PATCH", f"/v3/users/{home.user['id']}", {"user": {"password": NEXT}}, at=three)
        for at in NAMES:
            for used in (home.secret, FIRST, NEXT):
                assert change(NEXT, used, at) == (400, "The new password cannot be identical to ")
        assert change(NEXT, "third-password-3", two)[0] == 204
        assert {strict.log_in(home.auth(None, password="third-password-3"), at).status for at in NAMES} == {201}
        assert {strict.log_in(home.auth(None, password=NEXT), at).status for at in NAMES} == {401}
