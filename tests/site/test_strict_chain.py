"""[token] strict_chain: what revoking a token in the middle of a chain takes along, and what it leaves."""

from dataclasses import replace

import pytest

from regional_keystone.errors import Unauthenticated
from regional_keystone.log import put
from tests.site.realm import SCOPE_P, SETTINGS, SYSTEM, U, ask, grant, realm

STRICT = replace(SETTINGS, token=replace(SETTINGS.token, strict_chain=True))
ALL = {"root", "early", "middle", "sibling", "below", "later", "other"}


async def status(place, text):
    return (await ask(place.api(), "GET", "/v3/auth/tokens", token=place.admin, subject=text))[0]


async def chain(place):
    """Tokens by name, in three seconds; `other` is of another login. Each is validated twice, and remembered."""
    place.change(put(grant(U, "system", "admin", target="system")))
    place.admin = (await place.login(SYSTEM)).text
    made = {"root": (await place.login()).text}
    for seconds, name, parent in (
        (0, "early", "root"),
        (1, "middle", "root"),
        (0, "sibling", "root"),
        (1, "below", "middle"),
        (0, "later", "early"),
    ):
        await place.clock.advance(seconds)
        made[name] = (await place.rescope(made[parent], SCOPE_P)).text
    made["other"] = (await place.login(SCOPE_P)).text
    assert [await status(place, text) for text in (*made.values(), *made.values())] == [200] * 14
    return made


@pytest.mark.parametrize(
    ("settings", "name", "query", "remembered", "void"),
    [
        (SETTINGS, "middle", "", 1000, {"middle", "below"}),
        (STRICT, "middle", "", 1000, {"middle", "below", "sibling", "later"}),
        (STRICT, "middle", "", 0, {"middle", "below", "sibling", "later"}),
        (STRICT, "middle", "?cascade=false", 1000, {"middle"}),
        (STRICT, "early", "", 1000, ALL - {"other"}),
        (STRICT, "root", "", 0, ALL - {"other"}),
    ],
)
async def test_what_goes_with_a_token_of_a_chain(tmp_path, settings, name, query, remembered, void):
    async with realm(tmp_path, settings=settings, remembered=remembered) as place:
        made = await chain(place)
        answer = await ask(place.api(), "DELETE", f"/v3/auth/tokens{query}", token=place.admin, subject=made[name])
        assert answer[0] == 204
        assert {one for one, text in made.items() if await status(place, text) == 404} == void
        anew = await place.login(SCOPE_P)
        assert await status(place, anew.text) == 200, "another chain"


async def test_nothing_is_made_from_what_stays_of_it_any_more(tmp_path):
    async with realm(tmp_path, settings=STRICT) as place:
        made = await chain(place)
        await ask(place.api(), "DELETE", "/v3/auth/tokens", token=place.admin, subject=made["middle"])
        await place.clock.advance(5)
        assert await status(place, made["root"]) == 200
        with pytest.raises(Unauthenticated, match="log in anew"):
            await place.rescope(made["root"], SCOPE_P)
        assert await status(place, (await place.login(SCOPE_P)).text) == 200
