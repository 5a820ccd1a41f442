"""Password hashes: those that Keystone made open, each recipe's own do, and nothing is cut short on the way."""

import asyncio
import json
import sys
import threading
from pathlib import Path

import bcrypt
import pytest

from regional_keystone import passwords, settings
from regional_keystone.errors import Forbidden, Unavailable
from regional_keystone.passwords import Recipe, begins_with, hash_password, recipe, verify_password

MINTED = json.loads((Path(__file__).parents[1] / "golden" / "hashes.json").read_text())
CHEAP = {
    "bcrypt": Recipe(rounds=4),
    "bcrypt_sha256": Recipe(algorithm="bcrypt_sha256", rounds=4),
    "scrypt": Recipe(algorithm="scrypt", rounds=4, block_size=4, parallelism=2, salt_bytes=9),
    "pbkdf2_sha512": Recipe(algorithm="pbkdf2_sha512", rounds=10, salt_bytes=20),
}
DAMAGED = [
    "$2x",
    "$scrypt$",
    "$scrypt$ln=4,r=8$c2FsdA$c2FsdA",
    "$scrypt$ln=4,r=8,p=1$c2FsdA$",
    "$scrypt$ln=4,r=8,p=1$c2FsdA$c2FsdA",
    "$scrypt$ln=30,r=8,p=1$c2FsdA$" + "A" * 43,
    "$scrypt$ln=99999,r=8,p=1$c2FsdA$" + "A" * 43,
    "$scrypt$ln=-1,r=8,p=1$c2FsdA$" + "A" * 43,
    "$scrypt$ln=4,r=0,p=1$c2FsdA$" + "A" * 43,
    "$scrypt$ln=x,r=8,p=1$c2FsdA$" + "A" * 43,
    "$pbkdf2-sha512$",
    "$pbkdf2-sha512$0$c2FsdA$" + "A" * 86,
    "$pbkdf2-sha512$99999999999999999999$c2FsdA$" + "A" * 86,
    "$pbkdf2-sha512$10$c2FsdA$",
    "$pbkdf2-sha512$10$c2FsdA$c2FsdA",
    "$pbkdf2-sha512$10$%%%%%$" + "A" * 86,
    "$bcrypt-sha256$2a,4$short$short",
    "$bcrypt-sha256$v=2,t=2b$x$y",
    "$7$unknown",
    "$7$ln=4,r=8,p=1$c2FsdA",
    "plain",
]


def made_by(kind):
    return [one for one in MINTED if one["kind"] == kind]


@pytest.mark.parametrize("kind", dict.fromkeys(one["kind"] for one in MINTED))
async def test_what_keystone_made_opens_for_its_password_alone(kind):
    for one in made_by(kind):
        assert await verify_password(one["password"], one["hash"], 4), one["hash"]
        last = one["password"][:-1] + "~"
        for other in (*([] if kind == "bcrypt" and len(last) > 72 else [last]), "~" + one["password"], ""):
            assert not await verify_password(other, one["hash"], 4), one["hash"]


@pytest.mark.parametrize("algorithm", CHEAP)
@pytest.mark.parametrize("password", ["p", "x" * 72, "x" * 4096, "ä" * 40])
async def test_every_recipe_opens_for_every_byte_of_its_password(algorithm, password):
    hashed = await hash_password(password, CHEAP[algorithm])
    assert len(hashed) < 255  # upstream's column
    assert await verify_password(password, hashed, 4)
    assert not await verify_password(password[:-1], hashed, 4)
    assert not await verify_password(password[:-1] + "~", hashed, 4)


async def test_what_is_configured_is_what_is_made():
    made = {name: await hash_password("p", how) for name, how in CHEAP.items()}
    assert made["bcrypt"].startswith("$2b$04$")
    assert made["bcrypt_sha256"].startswith("$bcrypt-sha256$v=2,t=2b,r=4$")
    assert made["scrypt"].startswith("$scrypt$ln=4,r=4,p=2$")
    assert made["pbkdf2_sha512"].startswith("$pbkdf2-sha512$10$")
    assert [len(made["scrypt"].split("$")[3]), len(made["pbkdf2_sha512"].split("$")[3])] == [12, 27]
    assert len({await hash_password("p", CHEAP["scrypt"]) for _ in range(3)}) == 3


async def test_two_passwords_that_share_72_bytes_are_two_but_an_imported_hash_stays_as_it_was():
    hashed = await hash_password("A" * 72 + "tail1", Recipe(rounds=4))
    assert not await verify_password("A" * 72 + "OTHER", hashed, 4)
    imported = bcrypt.hashpw(b"A" * 72, bcrypt.gensalt(4)).decode()
    assert await verify_password("A" * 72 + "tail1", imported, 4)


@pytest.mark.parametrize("hashed", DAMAGED)
async def test_what_is_no_whole_hash_opens_for_nobody(hashed):
    for password in ("p", "", "\0", "A" * 43):
        assert not await verify_password(password, hashed, 4)


@pytest.mark.parametrize(
    ("password", "hashed"),
    [
        ("Hello world!", "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEl8"),
        (
            "Hello world!",
            "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjlO/O817G3uBnIFNjnQJuesI68OTLiBFdcbYEdFCoEOfaS35inz1",
        ),
        ("pleaseletmein", "$7$C6..../....SodiumChloride$kBGj9fHznVYFQMEn/qDCfrDevf9YDtcDdKvEqHJLV8D"),
    ],
    ids=["sha256_crypt", "sha512_crypt", "scrypt of others"],
)
async def test_what_keystone_30_does_not_read_opens_for_nobody(password, hashed):
    assert not await verify_password(password, hashed, 4)


async def test_the_other_name_that_keystone_30_has_for_scrypt_is_read():
    for one in made_by("scrypt"):
        other = "$7$" + one["hash"].removeprefix("$scrypt$")
        assert await verify_password(one["password"], other, 4)
        assert not await verify_password(one["password"] + "~", other, 4)


@pytest.mark.parametrize("algorithm", CHEAP)
async def test_nobody_costs_what_the_recipe_costs(algorithm, monkeypatch):
    done = []
    monkeypatch.setattr(passwords.bcrypt, "hashpw", lambda *_: done.append("bcrypt") or b"")
    monkeypatch.setattr(passwords.hashlib, "scrypt", lambda *_, **__: done.append("scrypt") or b"")
    monkeypatch.setattr(passwords.hashlib, "pbkdf2_hmac", lambda *_: done.append("pbkdf2") or b"")
    assert not await verify_password("p", None, CHEAP[algorithm])
    assert [one for one in done if algorithm.startswith(one)] == done != []


async def test_the_longest_password_is_a_setting_and_what_was_set_before_still_opens():
    before = await hash_password("x" * 100, Recipe(rounds=4))
    short = recipe(settings.Identity(password_hash_rounds=4, max_password_length=99))
    with pytest.raises(Forbidden, match="less than or equal to 99"):
        await hash_password("x" * 100, short)
    with pytest.raises(Forbidden):
        await hash_password("ä" * 50, short)  # it is bytes that count
    assert await verify_password("x" * 100, before, short)


async def test_hashing_leaves_the_event_loop_alone_and_is_refused_when_too_much_waits():
    pool, started, go = passwords._Pool(1, 1), threading.Event(), threading.Event()

    def slow():
        started.set()
        return go.wait(5)

    first = asyncio.create_task(pool.run(slow))
    second = asyncio.create_task(pool.run(slow))
    await asyncio.to_thread(started.wait, 5)
    with pytest.raises(Unavailable):
        await pool.run(slow)
    go.set()
    assert await first
    assert await second
    assert await pool.run(lambda: True)


@pytest.mark.parametrize(
    ("text", "fits"), [("abc1234", True), ("abcdefg", False), ("1a", False), ("ä1b\ud800\0xyz", True), ("", False)]
)
async def test_an_expression_is_matched_from_the_beginning(text, fits):
    assert await begins_with(r"(?=.*\d)(?=.*[a-zA-Z]).{7}", text) is fits


async def test_an_expression_that_takes_for_ever_is_given_up_while_the_rest_goes_on():
    going = asyncio.create_task(begins_with("(a+)+$", "a" * 64 + "!"))
    await asyncio.sleep(0)  # this alone would last for ever in the thread that everything runs in
    assert passwords.hashes_waiting() == 1
    assert await going is False
    assert passwords.hashes_waiting() == 0


async def test_an_expression_that_cannot_be_looked_at_is_nobodys_fault(monkeypatch):
    for broken in (Path(sys.executable).with_name("none"), Path("/bin/false")):
        monkeypatch.setattr(passwords.sys, "executable", str(broken))
        with pytest.raises(Unavailable):
            await begins_with(".", "p")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (["identity.password_hash_algorithm=md5"], "bcrypt, bcrypt_sha256, scrypt, pbkdf2_sha512"),
        (["identity.password_hash_rounds=3"], "4 to 31"),
        (["identity.password_hash_rounds=40"], "4 to 31"),
        (["identity.password_hash_algorithm=scrypt", "identity.password_hash_rounds=32"], "1 to 31"),
        (["identity.password_hash_algorithm=scrypt", "identity.password_hash_rounds=25"], "512 MiB"),
        (["identity.password_hash_algorithm=pbkdf2_sha512", "identity.password_hash_rounds=0"], "1 to"),
        (["identity.max_password_length=4097"], "4096"),
        (["security_compliance.password_regex=("], "password_regex"),
        (["security_compliance.lockout_duration=0"], "lockout_duration"),
        (["security_compliance.lockout_failure_attempts=0"], "lockout_failure_attempts"),
    ],
)
def test_what_cannot_be_made_or_met_is_refused_at_the_start(said, why):
    with pytest.raises(settings.ConfigurationError, match=why):
        settings.load(settings.Settings, None, said, {})


def test_the_rounds_that_are_not_said_are_the_algorithms():
    def cost(*said):
        return recipe(settings.load(settings.Settings, None, said, {}).identity).cost

    assert cost() == 12
    assert cost("identity.password_hash_algorithm=pbkdf2_sha512") == 60_000
    assert cost("identity.password_hash_algorithm=scrypt") == 16
    assert cost("identity.password_hash_algorithm=scrypt", "identity.password_hash_rounds=10") == 10
    assert cost("identity.password_hash_rounds=") == 12
