"""Tokens over the API: the recorded exchanges of Keystone 30, and what the recording has no word for."""

import json

import pytest

from regional_keystone.issue import Login
from regional_keystone.log import put
from regional_keystone.model import User
from regional_keystone.passwords import hash_password
from regional_keystone.revocation import RevocationIndex
from tests.site.realm import PASSWORD, SCOPE_P, P, U, ask, grant, realm


@pytest.fixture
async def place(tmp_path):
    async with realm(tmp_path) as made:
        yield made


async def test_a_revoked_root_takes_what_was_made_from_it_along_and_a_child_only_itself(place):
    api = place.api()
    root, other = await place.login(), await place.login(SCOPE_P)
    child, second = await place.rescope(root.text, SCOPE_P), await place.rescope(root.text, SCOPE_P)
    assert (await ask(api, "DELETE", "/v3/auth/tokens", token=other.text, subject=child.text))[0] == 204
    found = {name: (await ask(api, "GET", "/v3/auth/tokens", token=other.text, subject=one.text))[0] for name, one in
             {"root": root, "child": child, "second": second}.items()}  # fmt: skip
    assert found == {"root": 200, "child": 404, "second": 200}
    assert (await ask(api, "DELETE", "/v3/auth/tokens", token=other.text, subject=root.text))[0] == 204
    assert (await ask(api, "GET", "/v3/auth/tokens", token=other.text, subject=second.text))[0] == 404


async def test_without_cascade_what_was_made_from_it_stays(place):
    api = place.api()
    root, other = await place.login(), await place.login(SCOPE_P)
    child = await place.rescope(root.text, SCOPE_P)
    assert (await ask(api, "DELETE", "/v3/auth/tokens?cascade=false", token=other.text, subject=root.text))[0] == 204
    assert (await ask(api, "GET", "/v3/auth/tokens", token=other.text, subject=root.text))[0] == 404
    assert (await ask(api, "GET", "/v3/auth/tokens", token=other.text, subject=child.text))[0] == 200


async def test_what_another_region_made_from_a_revoked_token_a_moment_later_is_void(place):
    api = place.api()
    root, other = await place.login(), await place.login(SCOPE_P)
    principal = await place.validator.check(root.text)
    assert (await ask(api, "DELETE", "/v3/auth/tokens", token=other.text, subject=root.text))[0] == 204
    await place.clock.advance(5)
    late = Login(methods=("token",), data={"token": {"id": root.text}}, scope=SCOPE_P, principal=principal.principal)
    known, place.known.index = place.known.index, RevocationIndex()
    made = await place.issuer.issue(late, place.validator.facts)
    place.known.index = known
    assert (await ask(api, "GET", "/v3/auth/tokens", token=other.text, subject=made.text))[0] == 404


@pytest.mark.parametrize("word", ["perhaps", "bogus", "0x0", "%00"])
async def test_a_word_that_may_mean_either_ends_nothing(place, word):
    api = place.api()
    root, other = await place.login(), await place.login(SCOPE_P)
    child = await place.rescope(root.text, SCOPE_P)
    path = f"/v3/auth/tokens?cascade={word}"
    status, _, said = await ask(api, "DELETE", path, token=other.text, subject=root.text)
    assert (status, "cascade=false" in said["error"]["message"]) == (400, True)
    for one in (root, child):
        assert (await ask(api, "GET", "/v3/auth/tokens", token=other.text, subject=one.text))[0] == 200


@pytest.mark.parametrize("path", ["/v3/auth/tokens", "/v3/auth/tokens?nocatalog", "/v3/auth/tokens?allow_expired=1"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_a_revoked_token_is_refused_on_every_path(place, method, path):
    api = place.api()
    caller, one = await place.login(SCOPE_P), await place.login(SCOPE_P)
    place.revoke(audit_id=one.token.audit_id)
    assert (await ask(api, method, path, token=caller.text, subject=one.text))[0] == 404
    assert (await ask(api, method, path, token=one.text, subject=one.text))[0] == 401
    status, _, _ = await ask(api, "POST", "/v3/auth/tokens", body=by_token(one.text))
    assert status == 404


async def test_a_revocation_outlives_the_window_in_which_expired_tokens_are_shown(place):
    api = place.api()
    caller, one = await place.login(SCOPE_P), await place.login(SCOPE_P)
    await ask(api, "DELETE", "/v3/auth/tokens", token=caller.text, subject=one.text)
    for hours in (1, 46, 1):
        await place.clock.advance(hours * 3600 + 60)
        place.known.index.expire(place.clock.now())
        caller = await place.login(SCOPE_P)
        path = "/v3/auth/tokens?allow_expired=1"
        assert (await ask(api, "GET", path, token=caller.text, subject=one.text))[0] == 404


async def test_an_expired_token_is_shown_only_on_demand_and_only_for_a_while(place):
    api = place.api()
    one = await place.login(SCOPE_P)
    await place.clock.advance(3600)
    caller = await place.login(SCOPE_P)
    assert (await ask(api, "GET", "/v3/auth/tokens", token=caller.text, subject=one.text))[0] == 404
    path = "/v3/auth/tokens?allow_expired=1"
    assert (await ask(api, "GET", path, token=caller.text, subject=one.text))[0] == 200
    await place.clock.advance(172_800 - 1)
    caller = await place.login(SCOPE_P)
    assert (await ask(api, "GET", path, token=caller.text, subject=one.text))[0] == 200
    await place.clock.advance(1)
    assert (await ask(api, "GET", path, token=caller.text, subject=one.text))[0] == 404


async def test_all_tokens_of_a_user_end_at_once(place):
    api = place.api()
    one, two = await place.login(), await place.login(SCOPE_P)
    status, _, _ = await ask(api, "DELETE", f"/v3/users/{U}/tokens", token=one.text)
    assert status == 204
    for text in (one.text, two.text):
        assert (await ask(api, "GET", "/v3/auth/projects", token=text))[0] == 401


async def test_no_answer_repeats_a_token(place):
    api = place.api()
    caller, one = await place.login(SCOPE_P), await place.login(SCOPE_P)
    await place.drop(grant(U, P, "member"))
    status, _, body = await ask(api, "GET", "/v3/auth/tokens", token=one.text, subject=one.text)
    assert status == 401
    assert one.text not in json.dumps(body)
    assert caller.text not in json.dumps(body)


async def test_bodies_and_queries_of_the_caller_change_no_decision(place):
    api = place.api()
    mine = await place.login(SCOPE_P)
    place.change(put(User(id="ac" * 16, name="v", domain_id="default", password_hash=await hash_password(PASSWORD, 4))))
    theirs = await place.login(user="ac" * 16)
    target = {"target": {"token": {"user_id": U}}, "user_id": U, "token": {"user_id": U}}
    for method in ("GET", "DELETE"):
        for path in (f"/v3/auth/tokens?user_id={U}", f"/v3/auth/tokens?target.token.user_id={U}"):
            assert (await ask(api, method, path, token=mine.text, subject=theirs.text, body=target))[0] == 403


@pytest.mark.parametrize("spoilt", ["{}=", "{}==", " {}", "{}\n", "{}.", "%67{}", "+{}", "{}A"])
async def test_one_spelling_only(place, spoilt):
    api = place.api()
    caller = await place.login(SCOPE_P)
    text = spoilt.format(caller.text)
    if len(caller.text) % 4 == {"{}=": 3, "{}==": 2}.get(spoilt):
        return
    assert (await ask(api, "GET", "/v3/auth/tokens", token=caller.text, subject=text))[0] == 404


def by_token(text):
    return {"auth": {"identity": {"methods": ["token"], "token": {"id": text}}}}
