"""A revocation outlives every token that it voids: whatever is pruned when, by which clock, nothing comes back."""

import asyncio
import dataclasses
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from regional_keystone.follow import revocation
from regional_keystone.issue import SKEW_S
from regional_keystone.log import put
from regional_keystone.model import RevocationEvent, User
from regional_keystone.revocation import RevocationIndex
from regional_keystone.sections import Keys, Token
from regional_keystone.wiring import keep_s, shown_s
from tests.site.realm import SCOPE_P, SETTINGS, P, U, ask, grant, realm

SECOND = 1_000_000
V = "ac" * 16
OWN, ALONE, CHAIN, USER = "own", "alone", "chain", "user"
EXPIRED = "/v3/auth/tokens?allow_expired=1"
apart = st.sampled_from([-1, 0, 1])  # of the skew that is allowed


@dataclasses.dataclass(frozen=True)
class Case:
    """A token's life, and how far the clocks are off of those who have to do with it."""

    cause: str
    expiration: int
    window: int
    isolation_s: float
    shorter: int  # how much shorter the life of tokens is where it is revoked
    issued_ahead: float
    revoker: int
    pruner: int
    validator: int
    left: float  # of the token's life when it is revoked


cases = st.builds(
    Case,
    cause=st.sampled_from([OWN, ALONE, CHAIN, USER]),
    expiration=st.integers(120, 400_000),
    window=st.sampled_from([0, 60, 172_800, 700_000]),
    isolation_s=st.sampled_from([1.0, 3600.0, 259_200.0]),
    shorter=st.sampled_from([0, 0, 50_000]),
    issued_ahead=st.sampled_from([0.0, 0.5, SKEW_S - 1]),
    revoker=apart,
    pruner=apart,
    validator=apart,
    left=st.sampled_from([0.02, 0.5, 1.0]),
)
EDGE = Case(CHAIN, 120, 0, 1.0, 0, SKEW_S - 1, -1, 1, -1, 1.0)


def at(place, now):
    place.clock.jump((now - place.clock.now()) / SECOND)


async def answers(folder, case):
    """What the two tokens are answered in the last second in which they could be shown, after all has been pruned."""
    chosen = dataclasses.replace(
        SETTINGS,
        token=Token(expiration=case.expiration, allow_expired_window=case.window),
        keys=Keys(isolation_s=case.isolation_s),
    )
    there = dataclasses.replace(
        chosen, token=Token(expiration=max(60, case.expiration - case.shorter), allow_expired_window=case.window)
    )
    skew = int(chosen.freshness.skew_s * SECOND)
    async with realm(folder, settings=chosen) as place:
        hashed = (await place.overlay.get(User, U)).password_hash
        place.change(put(User(id=V, name="v", domain_id="default", password_hash=hashed)), put(grant(V, P, "admin")))
        began = place.clock.now()
        ahead = 0 if case.cause == USER else int(case.issued_ahead * SECOND)  # of those the follower takes care
        at(place, began + ahead)
        root, spared = await place.login(SCOPE_P), await place.login(SCOPE_P, user=V)
        shown = await place.rescope(root.text, SCOPE_P) if case.cause == CHAIN else root

        now = began + int((1 - case.left) * case.expiration) * SECOND
        least = began + ahead - (0 if case.cause == USER else int(SKEW_S * SECOND))  # before it nobody takes the token
        at(place, max(now + case.revoker * skew, least))
        await revoked(place, case.cause, root.text, there if case.cause != USER else chosen)

        end = root.token.expires_at + case.window * SECOND
        true = end - SECOND - case.validator * skew
        await pruned(place, true + case.pruner * skew)
        at(place, true + case.validator * skew)
        caller = await place.login(SCOPE_P, user=V)
        return [
            (await ask(place.api(), "GET", EXPIRED, token=caller.text, subject=one.text))[0] for one in (shown, spared)
        ]


async def revoked(place, cause, text, terms):
    api = place.api(keep_s(terms), shown_s(terms))
    if cause == USER:
        assert (await ask(api, "DELETE", f"/v3/users/{U}/tokens", token=text))[0] == 204
        return
    path = "/v3/auth/tokens?cascade=false" if cause == ALONE else "/v3/auth/tokens"
    assert (await ask(api, "DELETE", path, token=text, subject=text))[0] == 204


async def pruned(place, now):
    """Take away what is past its time by this clock, and begin again with what is left."""
    async for event in place.overlay.scan(RevocationEvent):
        if event.keep_until < now:
            await place.drop(event)
    place.known.index.expire(now)
    restarted = RevocationIndex()
    async for event in place.overlay.scan(RevocationEvent):
        restarted.add(revocation(event), event.keep_until)
    place.known.index = restarted
    place.fastpath.forget_all()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@example(EDGE)
@example(dataclasses.replace(EDGE, cause=OWN, shorter=50_000, expiration=400_000))
@example(dataclasses.replace(EDGE, cause=OWN, expiration=3600, window=172_800))
@example(dataclasses.replace(EDGE, cause=USER, issued_ahead=0.0))
@given(case=cases)
def test_what_was_revoked_is_never_shown_again_whatever_has_been_pruned(case):
    with tempfile.TemporaryDirectory() as folder:
        assert asyncio.run(answers(Path(folder), case)) == [404, 200]


@pytest.mark.parametrize("kept_s", [0, 3600])
def test_it_would_be_shown_again_if_it_were_pruned_before(kept_s, monkeypatch):
    """That the test above can fail: for what is not kept, it does."""
    monkeypatch.setattr("tests.site.test_retention.keep_s", lambda terms: float(kept_s))
    monkeypatch.setattr("tests.site.test_retention.shown_s", lambda terms: 0.0)
    case = dataclasses.replace(EDGE, cause=OWN, expiration=3600, window=172_800)
    with tempfile.TemporaryDirectory() as folder:
        assert asyncio.run(answers(Path(folder), case)) == [200, 200]
