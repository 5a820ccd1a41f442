"""[security_compliance] at a controller: lockout, history, expiry, age, strength, inactivity, first use."""

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from regional_keystone import attempts
from regional_keystone.errors import Unavailable
from regional_keystone.model import Attempts, User
from regional_keystone.settings import SecurityCompliance
from tests import replay
from tests.api.conftest import Client

PASSWORD, OTHER = "first-password-1", "second-password-2"
DAY = 86_400
ADMIN = {"project": {"name": "admin", "domain": {"id": "default"}}}
WRONG = "The request you have made requires authentication."
EXPIRED = "The password is expired and needs to be changed for user: {}."
USED = (
    "The new password cannot be identical to a previous password. The total number which includes the new password "
    "must be unique is 2."
)
AGE = (
    "You cannot change your password at this time due to the minimum password age. Once you change your password, "
    "it must be used for 3 day(s) before it can be changed. Please try again in {} day(s) or contact your "
    "administrator to reset your password."
)


class Place:
    """A controller with these rules, its administrator, and a user."""

    def __init__(self, world, admin):
        self.world, self.admin, self.clock = world, admin, world.clock

    async def user(self, **attributes):
        self.name = attributes.setdefault("name", "somebody")
        made = await self.admin.make("user", **{"password": PASSWORD} | attributes)
        self.id = made["id"]
        return made

    async def login(self, password=PASSWORD, **who):
        user = (who or {"id": self.id}) | {"password": password}
        auth = {"identity": {"methods": ["password"], "password": {"user": user}}}
        return await Client(self.world)("POST", "/auth/tokens", {"auth": auth})

    async def statuses(self, *passwords):
        return [(await self.login(password)).status for password in passwords]

    async def change(self, old, new):
        body = {"user": {"original_password": old, "password": new}}
        return await Client(self.world)("POST", f"/users/{self.id}/password", body)

    async def reset(self, **attributes):
        answer = await self.admin("PATCH", f"/users/{self.id}", {"user": attributes})
        assert answer.status == 200, answer.body
        return answer.body["user"]

    async def attempts(self):
        return await self.world.overlay.find(Attempts, user_id=self.id)

    async def stored(self):
        return await self.world.overlay.get(User, self.id)

    def later(self, seconds):
        self.clock.ahead_s += seconds

    @property
    def head(self):
        return self.world.controller.sequencer.head


@pytest.fixture
async def made(tmp_path):
    async with AsyncExitStack() as stack:

        async def make(lifetime_s=3600, **rules):
            world = replay.World(tmp_path)
            world.settings = replace(
                world.settings,
                security_compliance=SecurityCompliance(**rules),
                token=replace(world.settings.token, expiration=lifetime_s),
            )
            await world.start(stack)
            scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
            return Place(world, await Client(world).login("admin", replay.PASSWORD, scope))

        yield make


# --- lockout


async def test_where_nothing_is_asked_for_a_login_writes_nothing(made):
    place = await made()
    await place.user()
    head = place.head
    assert await place.statuses(*["wrong"] * 5, PASSWORD) == [401] * 5 + [201]
    assert (place.head, await place.attempts()) == (head, [])


async def test_who_fails_too_often_is_locked_out_for_a_while(made):
    place = await made(lockout_failure_attempts=2, lockout_duration=5)
    await place.user()
    assert await place.statuses("wrong", "wrong") == [401, 401]
    head = place.head
    locked = await place.login()
    assert (locked.status, locked.message) == (401, WRONG)
    assert (await place.login("wrong")).status == 401
    assert place.head == head, "nothing more is written for who is locked out"
    place.later(6)
    assert await place.statuses("wrong", PASSWORD, PASSWORD) == [401, 201, 201]


async def test_a_lock_that_ran_out_starts_from_nothing(made):
    place = await made(lockout_failure_attempts=2, lockout_duration=5)
    await place.user()
    assert await place.statuses("wrong", "wrong") == [401, 401]
    place.later(6)
    assert await place.statuses("wrong", PASSWORD) == [401, 201]
    assert await place.statuses("wrong", "wrong", PASSWORD) == [401, 401, 401]


async def test_a_success_clears_what_failed_before_and_only_then_writes(made):
    place = await made(lockout_failure_attempts=3)
    await place.user()
    for _ in range(3):
        assert await place.statuses("wrong", "wrong", PASSWORD) == [401, 401, 201]
    head = place.head
    assert await place.statuses(PASSWORD, PASSWORD) == [201, 201]
    assert place.head == head
    assert len(await place.attempts()) == 1


async def test_without_a_duration_only_an_administrator_unlocks(made):
    place = await made(lockout_failure_attempts=2, lockout_duration=None)
    await place.user()
    assert await place.statuses("wrong", "wrong") == [401, 401]
    place.later(100 * DAY)
    scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
    place.admin = await Client(place.world).login("admin", replay.PASSWORD, scope)
    assert await place.statuses(PASSWORD) == [401]
    await place.reset(enabled=False)
    assert await place.statuses(PASSWORD) == [401]
    await place.reset(enabled=True)
    assert await place.statuses("wrong", PASSWORD) == [401, 201]


async def test_an_administrators_new_password_opens_at_once(made):
    place = await made(lockout_failure_attempts=2)
    await place.user()
    await place.statuses("wrong", "wrong")
    await place.reset(password=OTHER)
    assert await place.statuses(OTHER, PASSWORD) == [201, 401]


async def test_who_is_exempt_is_neither_counted_nor_locked_out(made):
    place = await made(lockout_failure_attempts=2)
    await place.user(options={"ignore_lockout_failure_attempts": True})
    assert await place.statuses(*["wrong"] * 5, PASSWORD) == [401] * 5 + [201]
    assert await place.attempts() == []


async def test_whoever_is_not_there_is_not_counted(made):
    place = await made(lockout_failure_attempts=1)
    head = place.head
    for who in ({"id": "nobody"}, {"name": "nobody", "domain": {"id": "default"}}):
        answer = await place.login("wrong", **who)
        assert (answer.status, answer.message) == (401, WRONG)
    assert place.head == head


async def test_counts_go_with_the_user(made):
    place = await made(lockout_failure_attempts=3)
    await place.user()
    await place.statuses("wrong")
    assert len(await place.attempts()) == 1
    assert (await place.admin("DELETE", f"/users/{place.id}")).status == 204
    assert await place.attempts() == []


async def test_the_old_password_is_guessed_no_more_often_than_a_login(made):
    place = await made(lockout_failure_attempts=3)
    await place.user()
    assert [(await place.change(old, OTHER)).status for old in ("wrong", "wrong")] == [401, 401]
    assert await place.statuses("wrong", PASSWORD) == [401, 401]
    assert (await place.change(PASSWORD, OTHER)).status == 401
    await place.reset(description="an administrator was here")
    assert (await place.change(PASSWORD, OTHER)).status == 204


async def test_of_many_guesses_at_once_no_more_are_tried_than_may_fail(made, monkeypatch):
    place = await made(lockout_failure_attempts=3)
    await place.user()
    tried, verify = [], attempts.verify_password

    async def noted(text, hashed, how):
        if hashed is not None:
            tried.append(text)
        return await verify(text, hashed, how)

    monkeypatch.setattr(attempts, "verify_password", noted)
    answers = await asyncio.gather(*(place.login(f"wrong{number}") for number in range(20)))
    assert {one.status for one in answers} == {401}
    assert len(tried) == 3
    assert await place.statuses(PASSWORD) == [401]
    [row] = await place.attempts()
    assert row.failed == 3


async def test_many_right_logins_at_once_are_all_let_in(made):
    place = await made(lockout_failure_attempts=2)
    await place.user()
    answers = await asyncio.gather(*(place.login() for _ in range(20)))
    assert {one.status for one in answers} == {201}


async def test_a_failure_that_cannot_be_written_is_503_and_counts_all_the_same(made, monkeypatch):
    place = await made(lockout_failure_attempts=2)
    await place.user()

    async def away(transaction):
        raise Unavailable("the log is away")

    sequencer = place.world.controller.sequencer
    with monkeypatch.context() as broken:
        broken.setattr(sequencer, "commit", away)
        assert await place.statuses("wrong", "wrong", "wrong", PASSWORD) == [503, 503, 401, 401]
        assert await place.attempts() == []
    assert await place.statuses(PASSWORD) == [401]
    assert [row.failed for row in await place.attempts()] == [2], "now it is written, for whoever unlocks"
    await place.reset(enabled=True)
    assert await place.statuses("wrong", PASSWORD) == [401, 201]


async def test_a_right_password_is_let_in_though_the_success_cannot_be_written(made, monkeypatch):
    place = await made(lockout_failure_attempts=2, disable_user_account_days_inactive=9)
    await place.user()
    assert await place.statuses("wrong") == [401]

    async def away(transaction):
        raise Unavailable("the log is away")

    with monkeypatch.context() as broken:
        broken.setattr(place.world.controller.sequencer, "commit", away)
        assert await place.statuses(PASSWORD) == [201]
    assert await place.statuses("wrong", PASSWORD) == [401, 401]


# --- passwords


async def test_a_password_that_was_used_before_is_refused(made):
    place = await made(unique_last_password_count=2)
    await place.user()
    assert (await place.change(PASSWORD, OTHER)).status == 204
    for again in (PASSWORD, OTHER):
        answer = await place.change(OTHER, again)
        assert (answer.status, answer.message) == (400, USED)
    assert (await place.change(OTHER, "third")).status == 204
    assert (await place.change("third", PASSWORD)).status == 204
    assert len((await place.stored()).password_history) == 1


@pytest.mark.parametrize(("count", "same", "before"), [(0, 204, 204), (1, 400, 204), (2, 400, 400)])
async def test_how_many_passwords_are_remembered(made, count, same, before):
    place = await made(unique_last_password_count=count)
    await place.user()
    assert (await place.change(PASSWORD, OTHER)).status == 204
    assert (await place.change(OTHER, OTHER)).status == same
    assert (await place.change(OTHER, PASSWORD)).status == before


async def test_an_administrator_may_set_what_was_used_and_it_is_remembered(made):
    place = await made(unique_last_password_count=3)
    await place.user()
    await place.reset(password=OTHER)
    await place.reset(password=OTHER)
    assert (await place.change(OTHER, PASSWORD)).status == 400
    assert (await place.change(OTHER, "third")).status == 204


async def test_no_answer_and_no_repr_shows_a_former_password(made):
    place = await made(unique_last_password_count=2)
    shown = await place.user()
    await place.change(PASSWORD, OTHER)
    shown |= (await place.admin("GET", f"/users/{place.id}")).body["user"]
    assert not [name for name in shown if "password" in name and name != "password_expires_at"]
    stored = await place.stored()
    assert stored.password_history[0] not in repr(stored)


async def test_a_password_expires_and_then_opens_nothing_but_its_own_change(made):
    place = await made(password_expires_days=2)
    shown = await place.user()
    created = (await place.stored()).password_changed_at
    expires_at = (await place.stored()).password_expires_at
    assert expires_at == created // 10**6 * 10**6 + 2 * DAY * 10**6
    assert shown["password_expires_at"].endswith(f":{created // 10**6 % 60:02}.000000")
    token = await place.login()
    assert token.body["token"]["user"]["password_expires_at"] == shown["password_expires_at"]
    place.later(2 * DAY)
    answer = await place.login()
    assert (answer.status, answer.message) == (401, EXPIRED.format(place.id))
    assert (await place.login("wrong")).message == WRONG
    assert (await place.change("wrong", OTHER)).status == 401
    assert (await place.change(PASSWORD, OTHER)).status == 204
    assert await place.statuses(OTHER) == [201]
    assert (await place.stored()).password_expires_at > expires_at


async def test_who_is_exempt_from_expiry_is_let_in(made):
    place = await made(password_expires_days=1)
    shown = await place.user(options={"ignore_password_expiry": True})
    assert shown["password_expires_at"], "upstream reads no option at creation"
    place.later(5 * DAY)
    assert await place.statuses(PASSWORD) == [201]
    scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
    await (await admin_again(place, scope))("PATCH", f"/users/{place.id}", {"user": {"password": OTHER}})
    assert (await place.stored()).password_expires_at is None


async def admin_again(place, scope):
    """The administrator, whose own password has no date: it was set before there were rules."""
    return await Client(place.world).login("admin", replay.PASSWORD, scope)


async def test_a_password_of_an_administrator_is_changed_before_anything_else(made):
    place = await made(change_password_upon_first_use=True)
    await place.user(options={"ignore_change_password_upon_first_use": True})
    assert (await place.login()).message == EXPIRED.format(place.id), "upstream reads no option at creation"
    assert (await place.change(PASSWORD, OTHER)).status == 204
    assert await place.statuses(OTHER) == [201]
    await place.reset(password=PASSWORD)
    assert await place.statuses(PASSWORD) == [201], "exempt"
    await place.reset(options={"ignore_change_password_upon_first_use": None}, password=OTHER)
    assert (await place.login(OTHER)).message == EXPIRED.format(place.id)


async def test_a_user_without_a_password_can_be_made_where_passwords_must_be_changed(made):
    place = await made(change_password_upon_first_use=True, password_expires_days=3)
    assert (await place.user(password=None))["name"] == "somebody"
    assert (await place.admin.make("user", name="without"))["password_expires_at"] is None


async def test_a_users_own_password_stays_for_a_while(made):
    place = await made(minimum_password_age=3)
    await place.user()
    assert (await place.change(PASSWORD, OTHER)).status == 204, "an administrator's password may go at once"
    for days, left in ((0.1, 2), (1, 1), (1, 0)):
        place.later(days * DAY)
        answer = await place.change(OTHER, "third")
        assert (answer.status, answer.message) == (400, AGE.format(left))
    place.later(DAY)
    assert (await place.change(OTHER, "third")).status == 204


async def test_a_reset_is_no_change_of_the_users_own(made):
    place = await made(minimum_password_age=3)
    await place.user()
    assert (await place.change(PASSWORD, OTHER)).status == 204
    await place.reset(password="third")
    assert (await place.change("third", PASSWORD)).status == 204


async def test_a_locked_password_is_not_changed(made):
    place = await made(unique_last_password_count=2)
    await place.user(options={"lock_password": True})
    answer = await place.change(PASSWORD, PASSWORD)
    assert answer.status == 400
    assert "disallowing password changes" in answer.message
    assert (await place.change("wrong", OTHER)).status == 401


async def test_strength_is_asked_of_every_new_password(made):
    place = await made(password_regex=r"^(?=.*\d)(?=.*[a-zA-Z]).{7,}$", password_regex_description="7, one digit")
    await place.user()
    weak = "The password does not match the requirements: 7, one digit."
    for answer in (
        await place.admin("POST", "/users", {"user": {"name": "weak", "password": "weak"}}),
        await place.admin("PATCH", f"/users/{place.id}", {"user": {"password": "weak"}}),
        await place.change(PASSWORD, "weak"),
    ):
        assert (answer.status, answer.message) == (400, weak)
    answer = await place.change(PASSWORD, "!" * 5000)
    assert (answer.status, "less than or equal to 4096" in answer.message) == (403, True), "it is not looked at"
    assert (await place.change("wrong", "weak")).status == 401, "who does not know the password learns no rule"
    answer = await place.admin("POST", "/users", {"user": {"name": "none", "password": None}})
    assert (answer.status, answer.message) == (400, "Password validation error: Password must be a string type.")
    assert (await place.admin("POST", "/users", {"user": {"name": "none"}})).status == 201
    assert (await place.change(PASSWORD, OTHER)).status == 204


async def test_a_new_password_voids_tokens(made):
    place = await made(unique_last_password_count=2, lockout_failure_attempts=3)
    await place.user()
    token = (await place.login()).headers["X-Subject-Token"]
    place.later(1)
    await place.change(PASSWORD, OTHER)
    assert (await place.admin("GET", "/auth/tokens", headers={"X-Subject-Token": token})).status == 404


# --- inactivity


async def test_who_does_not_log_in_for_days_counts_as_disabled(made):
    place = await made(disable_user_account_days_inactive=5)
    await place.user()
    place.later(4 * DAY)
    assert await place.statuses(PASSWORD) == [201]
    place.later(4 * DAY)
    assert await place.statuses(PASSWORD) == [201], "the last login counts, not the creation"
    place.later(6 * DAY)
    answer = await place.login()
    assert (answer.status, answer.message) == (401, WRONG)
    assert (await place.change(PASSWORD, OTHER)).status == 401


async def test_an_administrator_sees_who_is_inactive_and_enables_them(made):
    place = await made(disable_user_account_days_inactive=5)
    await place.user()
    scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
    for _ in range(2):  # the administrator logs in
        place.later(3 * DAY)
        place.admin = await Client(place.world).login("admin", replay.PASSWORD, scope)
    assert not (await place.admin("GET", f"/users/{place.id}")).body["user"]["enabled"]
    assert not (await place.reset(description="no login"))["enabled"]
    assert await place.statuses(PASSWORD) == [401]
    assert (await place.reset(enabled=True))["enabled"]
    assert await place.statuses(PASSWORD) == [201]


async def test_tokens_of_who_is_inactive_are_void_from_that_moment_on_and_stay_so(made):
    place = await made(disable_user_account_days_inactive=2, lifetime_s=9 * DAY)
    place.later(DAY - place.clock.now() / 1e6 % DAY + 1)  # a day has just begun
    place.admin = await Client(place.world).login("admin", replay.PASSWORD, ADMIN)
    exempt = await place.user(name="exempt", options={"ignore_user_inactivity": True})
    kept = (await place.login(id=exempt["id"])).headers["X-Subject-Token"]
    await place.user()
    token = (await place.login()).headers["X-Subject-Token"]
    for leap in (0, 2 * DAY - 2 * 3):
        place.later(leap)
        admin = place.admin = await Client(place.world).login("admin", replay.PASSWORD, ADMIN)
        for one in (token, token, kept, kept):  # remembered from the second on
            assert (await admin("GET", "/auth/tokens", headers={"X-Subject-Token": one})).status == 200
    place.later(2 * 3)

    async def worth(one):
        return (await admin("GET", "/auth/tokens", headers={"X-Subject-Token": one})).status

    assert [await worth(one) for one in (token, kept)] == [404, 200]
    assert (await Client(place.world, token)("GET", "/auth/projects")).status == 401
    assert (await place.reset(enabled=True))["enabled"]
    assert [await worth(one) for one in (token, kept)] == [404, 200]
    place.later(1)
    again = (await place.login()).headers["X-Subject-Token"]
    assert await worth(again) == 200


async def test_a_trust_of_who_is_inactive_holds_no_longer(made):
    place = await made(disable_user_account_days_inactive=2, lifetime_s=9 * DAY)
    project = await place.admin.make("project", name="theirs", domain_id="default")
    role = (await place.admin("GET", "/roles?name=member")).body["roles"][0]["id"]
    await place.user()
    assert (await place.admin("PUT", f"/projects/{project['id']}/users/{place.id}/roles/{role}")).status == 204
    friend = await place.admin.make("user", name="friend", password=PASSWORD)
    trustor = await Client(place.world).login("somebody", PASSWORD, {"project": {"id": project["id"]}})
    wish = {"trustor_user_id": place.id, "trustee_user_id": friend["id"], "project_id": project["id"]}
    sent = {"trust": wish | {"roles": [{"id": role}], "impersonation": False}}
    trust = (await trustor("POST", "/OS-TRUST/trusts", sent)).body["trust"]
    place.later(DAY)  # the trustor is not seen any more
    scope = {"OS-TRUST:trust": {"id": trust["id"]}}
    acting = await Client(place.world).login("friend", PASSWORD, scope)
    admin = await Client(place.world).login("admin", replay.PASSWORD, ADMIN)
    headers = {"X-Subject-Token": acting.token}
    assert [(await admin("GET", "/auth/tokens", headers=headers)).status for _ in range(2)] == [200, 200]
    place.later(DAY)
    assert (await admin("GET", "/auth/tokens", headers=headers)).status == 404


async def test_activity_is_written_once_a_day_and_exempts_are_let_in(made):
    place = await made(disable_user_account_days_inactive=5)
    await place.user(options={"ignore_user_inactivity": True})
    place.later(DAY)
    assert await place.statuses(PASSWORD) == [201]
    head = place.head
    assert await place.statuses(PASSWORD, "wrong", PASSWORD) == [201, 401, 201]
    assert place.head == head
    place.later(9 * DAY)
    assert await place.statuses(PASSWORD) == [201]
    assert place.head > head
    assert (await place.stored()).last_active_at % (DAY * 10**6) == 0


# --- what Keystone itself does

RECORDED = json.loads((replay.GOLDEN / "compliance.json").read_text())


async def answered(place, step, ids):
    """What came of a recorded step here, in the recorder's words."""
    match step:
        case ["create", name, attributes]:
            answer = await place.admin("POST", "/users", {"user": {"name": name, "domain_id": "default", **attributes}})
            if answer.status == 201:
                ids[name] = answer.body["user"]["id"]
        case ["update", name, attributes]:
            answer = await place.admin("PATCH", f"/users/{ids[name]}", {"user": attributes})
        case ["login", name, password]:
            answer = await place.login(password, id=ids[name])
        case ["change", name, old, new]:
            place.id = ids[name]
            answer = await place.change(old, new)
    body = answer.body or {}
    message = body.get("error", {}).get("message")
    for name, one in ids.items():
        message = message and message.replace(one, f"<{name}>")
    user = body.get("user") or body.get("token", {}).get("user") or {}
    return [answer.status, message, bool(user.get("password_expires_at")), user.get("enabled")]


@pytest.mark.parametrize("recorded", RECORDED, ids=[one["name"] for one in RECORDED])
async def test_every_step_ends_as_it_does_in_keystone(made, recorded):
    place, ids = await made(**recorded["rules"]), {}
    for number, (step, expected) in enumerate(recorded["recorded"]):
        if step[0] == "wait":
            place.later(step[1])
        else:
            assert await answered(place, step, ids) == expected, (number, step)
