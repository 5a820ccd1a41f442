"""Passwords: which of them open, how they are kept, who may change them, what a long one costs."""

import asyncio
import json
from pathlib import Path

import bcrypt
import pytest

from controller import ask
from regional_keystone import settings
from regional_keystone.log import Transaction, put
from regional_keystone.model import User
from regional_keystone.passwords import hash_password, recipe, verify_password
from tests import replay
from tests.api.conftest import Client
from tests.security.inside import post, rows
from tests.security.regions import NAMES
from tests.security.rows import HOLDS, UNKNOWN, row

MINTED = json.loads((Path(__file__).parents[1] / "golden" / "hashes.json").read_text())
BEGINNINGS = ("A" * 72, "é" * 36, "A" * 300, "A" * 4000)


def by_password(**user):
    return {"identity": {"methods": ["password"], "password": {"user": user}}}


def by_secret(credential, secret):
    said = {"id": credential["id"], "secret": secret}
    return {"identity": {"methods": ["application_credential"], "application_credential": said}}


def statuses(regions, auth):
    """What this login gets, in each region."""
    return {regions.log_in(auth, at).status for at in NAMES}


def credential_of(regions, home, **fields):
    path = f"/v3/users/{home.user['id']}/application_credentials"
    return regions.make("application_credential", path, token=regions.login(home.auth()), name="a", **fields)


def changed(regions, user, at, token="", **said):
    return regions.ask("POST", f"/v3/users/{user['id']}/password", {"user": said}, token=token, at=at).status


@row("SEC-65", "an empty password opens nothing, not even for who has none", HOLDS)
def test_sec_65_an_empty_password_opens_nothing(regions):
    home = regions.household()
    bare = [
        regions.make("user", name=f"{kind}-{home.user['name']}", domain_id=home.domain["id"], **password)
        for kind, password in {"none": {}, "null": {"password": None}, "empty": {"password": ""}}.items()
    ]
    for user in (home.user, *bare):
        for who in ({"id": user["id"]}, {"name": user["name"], "domain": {"id": home.domain["id"]}}):
            assert statuses(regions, by_password(**who, password="")) == {401}
            assert statuses(regions, by_password(**who)) == {401}
            assert statuses(regions, by_password(**who, password=None)) == {400}
        for at in NAMES:
            assert changed(regions, user, at, original_password="", password="chosen-by-somebody") == 401
    credential = credential_of(regions, home)
    assert statuses(regions, by_secret(credential, "")) == statuses(regions, by_secret(credential, None)) == {401}
    assert statuses(regions, home.auth()) == {201}
    of_nothing = bcrypt.hashpw(b"", bcrypt.gensalt(4)).decode()
    assert not asyncio.run(verify_password("", of_nothing)), "the stored hash is not even looked at"


@row("SEC-70", "long passwords and secrets with one beginning are different ones", "weaker: bcrypt reads 72 bytes")
@pytest.mark.parametrize("beginning", BEGINNINGS, ids=lambda one: f"{len(one.encode())} bytes")
def test_sec_70_every_byte_of_a_password_counts(regions, beginning):
    home = regions.household()
    right, wrong = f"{beginning}tail1", (f"{beginning}OTHER", beginning, f"{beginning}tail1x", f"{beginning}tail")
    made = regions.make("user", name=f"long-{home.user['name']}", domain_id=home.domain["id"], password=right)
    regions.grant(made, home.project)
    user = {"id": made["id"]}
    assert statuses(regions, by_password(**user, password=right)) == {201}
    for other in wrong:
        assert statuses(regions, by_password(**user, password=other)) == {401}
        assert {changed(regions, made, at, original_password=other, password="x") for at in NAMES} == {401}
    credential = credential_of(regions, home._replace(user=made, secret=right), secret=right)
    assert statuses(regions, by_secret(credential, right)) == {201}
    for other in wrong:
        assert statuses(regions, by_secret(credential, other)) == {401}


def test_what_keystone_made_of_long_passwords_still_opens():
    """The other half of SEC-70: who comes with an imported hash logs in as before."""
    imported = [one for one in MINTED if one["hash"].startswith("$2b$")]
    assert max(len(one["password"].encode()) for one in imported) > 72
    for one in imported:
        assert asyncio.run(verify_password(one["password"], one["hash"])), one


@row("SEC-72", "passwords are kept as slow hashes; a fast one that was imported goes with the next password", UNKNOWN)
def test_sec_72_passwords_are_kept_as_slow_hashes(regions, tmp_path):
    """What it costs is in each hash. Hashes are not made anew by a login: a login writes nothing, in any region."""
    home = regions.household()
    token = regions.login(home.auth())
    regions.expect(200, "GET", f"/v3/users/{home.user['id']}", token=token, at="RegionOne")
    for at in NAMES:
        regions.expect(200, "GET", "/v3/regions", at=at)
        [stored] = rows(regions.home, at, User, id=home.user["id"])
        assert stored.password_hash.startswith("$2b$04$"), "as this federation is told to"
        told = ask.admin(regions.home.admins[0], "/user/show", {"name": home.user["id"]})
        assert told["password"] == "bcrypt, rounds 4"
        assert stored.password_hash[-20:] not in repr(told)
        assert home.secret not in repr(regions.expect(200, "GET", f"/v3/users/{home.user['id']}", at=at))
    usual = recipe(settings.Settings().identity)
    assert (usual.algorithm, usual.cost) == ("bcrypt", 12)
    assert asyncio.run(hash_password("x", usual)).startswith("$2b$12$")
    for fast in ("identity.password_hash_algorithm=md5", "identity.password_hash_rounds=3"):
        with pytest.raises(settings.ConfigurationError):
            settings.load(settings.Settings, None, [fast], {})
    asyncio.run(imported(tmp_path))


async def imported(tmp_path):
    """A hash of another system opens, and the next password has one of ours."""
    one = next(one for one in MINTED if one["hash"].startswith("$pbkdf2"))
    async with replay.world(tmp_path) as world:
        user = User(id="i" * 32, domain_id="default", name="imported", password_hash=one["hash"])
        commit = world.controller.sequencer.commit
        await commit(Transaction("import", world.overlay.position, frozenset(), (put(user),)))
        await Client(world).login("imported", one["password"])
        body = {"user": {"original_password": one["password"], "password": "next"}}
        assert (await Client(world)("POST", f"/users/{user.id}/password", body)).status == 204
        await Client(world).login("imported", "next")
        assert (await world.overlay.get(User, user.id)).password_hash.startswith("$2b$04$")


@row("SEC-73", "nobody changes a password without the one before, with a stolen token neither", HOLDS)
@pytest.mark.parametrize("at", NAMES)
def test_sec_73_the_old_password_is_needed_for_a_new_one(regions, at):
    home, other = regions.household(), regions.household()
    token = regions.login(home.auth())
    for said in ({"password": "new"}, {"password": "new", "original_password": home.secret}, {"password": None}):
        answer = regions.ask("PATCH", f"/v3/users/{home.user['id']}", {"user": said}, token=token, at=at)
        assert answer.status == 403
    for stolen in (token, ""):
        assert changed(regions, home.user, at, stolen, password="new") == 400
        assert changed(regions, home.user, at, stolen, password="new", original_password=None) == 400
        for guess in ("", "new", other.secret, f"{home.secret} "):
            assert changed(regions, home.user, at, stolen, password="new", original_password=guess) == 401
    assert changed(regions, other.user, at, token, password="new", original_password=home.secret) == 401
    assert statuses(regions, by_password(id=home.user["id"], password="new")) == {401}
    assert statuses(regions, home.auth()) == statuses(regions, other.auth()) == {201}
    assert regions.statuses(token) == [200] * 3
    assert changed(regions, home.user, at, password="new", original_password=home.secret) == 204
    assert statuses(regions, by_password(id=home.user["id"], password="new")) == {201}


@row("SEC-77", "a password of kilobytes is refused at little cost, off the event loop", HOLDS)
def test_sec_77_a_long_password_is_refused(regions):
    home = regions.household()
    expected = {5_000: 401, 60_000: 401, 100_000: 400, 1 << 20: 413}
    for at in NAMES:
        for length, status in expected.items():
            body = {"auth": home.auth(None, password="x" * length)}
            assert post(regions.members[at], "/v3/auth/tokens", json.dumps(body).encode()).status == status
        for path, method in (("/v3/users", "POST"), (f"/v3/users/{home.user['id']}", "PATCH")):
            body = {"user": {"name": "long", "domain_id": home.domain["id"], "password": "x" * 4097}}
            assert regions.ask(method, path, body, at=at).status == 403
        assert changed(regions, home.user, at, original_password=home.secret, password="x" * 4097) == 403
    assert statuses(regions, home.auth()) == {201}
    assert asyncio.run(turns_while_hashing()) > 100


async def turns_while_hashing():
    """How often the event loop comes round during one password: one that hashed itself would not come round at all."""
    working, turns = asyncio.create_task(verify_password("x" * 4096, None, 12)), 0
    while not working.done():
        await asyncio.sleep(0)
        turns += 1
    return turns
