"""Signed tokens at a validator and an issuer, and what is on disk of the keys that sign them."""

import threading
from pathlib import Path

import pytest
import structlog
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from regional_keystone import jws, signing_files
from regional_keystone.attempts import Uncounted
from regional_keystone.errors import Forbidden, NotFound, Unauthenticated, Unavailable
from regional_keystone.issue import Issuer, Login
from regional_keystone.key_directory import KeyRepositoryError
from regional_keystone.log import put
from regional_keystone.model import MaySign, Project, Signing, SigningKey, User
from regional_keystone.signing import SIGNING, TRUSTED, Signatory, Signers, proven, seen
from regional_keystone.signing_files import CURRENT, NEXT, load_private, make_private, write_public
from regional_keystone.token import DomainScope, SystemScope
from tests.language.test_jws import KEY as STRANGER
from tests.language.test_jws import twin
from tests.site.realm import SCOPE_P, SETTINGS, SYSTEM, P, U, grant, realm
from tests.stand_ins import ManualClock

SECOND = 1_000_000
HERE, THERE = "RegionOne", "RegionTwo"
PRIVATE = ec.generate_private_key(ec.SECP256R1())
PUBLIC = PRIVATE.public_key()
ID = jws.key_id(PUBLIC)


def record(epoch=1, may=None, keys=None, **key) -> Signing:
    said = {"owner": HERE, "public": jws.der(PUBLIC), "epoch": 1, "offered_at": 0, "signs_from": 1} | key
    return Signing(id=SIGNING, epoch=epoch, keys={ID: SigningKey(**said)} if keys is None else keys, may=may or {})


def signatory(directory: Path, **changes) -> Signatory:
    places = {"private": directory / "private", "public": directory / "public"}
    return Signatory(**({"owner": HERE, "cluster": "cluster", "signs": True, "lag_s": 2} | places | changes))


def keep(directory: Path, private=PRIVATE, name=CURRENT) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.touch(0o600)
    path.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


@pytest.fixture
async def place(tmp_path):
    """A realm that signs what it issues."""
    async with realm(tmp_path) as made:
        keep(tmp_path / "private")
        made.signatory = signatory(tmp_path)
        tell(made, record())
        await made.signatory.settle()
        made.issuer = Issuer(
            made.overlay,
            made.known,
            clock=made.clock,
            settings=SETTINGS,
            verifier=Uncounted(4),
            signatory=made.signatory,
        )
        yield made


def tell(place, said: Signing) -> None:
    """As a follower does."""
    if place.signatory.take(said):
        place.fastpath.forget_all()
    place.known.signers = place.signatory.signers


def hit(place, text):
    return place.fastpath.ask(text, text, True, place.clock.now())


async def refused(place, text) -> str:
    with pytest.raises(NotFound) as refusal:
        await place.validator.check(text)
    assert hit(place, text) is None
    return refusal.value.message


async def test_what_is_issued_is_signed_and_validates_as_it_was_shown(place):
    issued = await place.login(SCOPE_P)
    assert issued.text.count(".") == 2
    verdict = await place.validator.check(issued.text)
    assert verdict.token == issued.token
    assert verdict.body() == issued.body
    assert hit(place, issued.text) == issued.body
    assert verdict.key == ID
    assert jws.read(issued.text).lag_s == 2
    assert (await place.forgetful().check(issued.text)).body() == issued.body


async def test_both_formats_are_read_whatever_is_issued(place):
    sealed = place.known.ring.seal(_packed((await place.login(SCOPE_P)).token), place.clock.now())
    assert (await place.validator.check(sealed)).key in place.known.ring.ids


def _packed(token) -> bytes:
    from regional_keystone.token import pack

    return pack(token)


async def test_the_other_spelling_of_a_good_token_is_refused_while_the_good_one_is_remembered(place):
    text = (await place.login(SCOPE_P)).text
    await place.validator.check(text)
    assert hit(place, text)
    assert "recognize" in await refused(place, twin(text))
    assert hit(place, text)


async def test_revocation_goes_by_the_id_inside(place):
    issued = await place.login(SCOPE_P)
    await place.validator.check(issued.text)
    again = jws.sign(issued.token, PRIVATE, 2)
    assert again != issued.text, "a signature is random: the same token in another text"
    assert (await place.validator.check(again)).token == issued.token
    place.revoke(audit_id=issued.token.audit_id)
    for text in (issued.text, again):
        await refused(place, text)


async def test_what_was_issued_after_a_revocation_counts_though_it_lags(place):
    place.revoke(user_id=U)
    await place.clock.advance(1)
    issued = await place.login(SCOPE_P)
    assert (await place.validator.check(issued.text)).token.issued_at == issued.token.issued_at


async def test_a_key_that_is_gone_or_condemned_takes_its_tokens_along(place):
    text = (await place.login(SCOPE_P)).text
    await place.validator.check(text)
    place.signatory.condemned = frozenset({ID})
    place.known.accepts_key = place.signatory.accepts
    await refused(place, text)
    with pytest.raises(Unavailable):
        await place.login(SCOPE_P)
    place.signatory.condemned = frozenset()
    await place.validator.check(text)
    tell(place, record(2, keys={}))
    await refused(place, text)


async def test_a_key_that_may_not_have_arrived_is_no_404(place):
    text = (await place.login(SCOPE_P)).text
    tell(place, record(2, keys={}))
    place.known.lacks_key = True
    with pytest.raises(Unavailable):
        await place.validator.check(text)


BEYOND = [
    ({HERE: MaySign(domains=())}, SCOPE_P),
    ({HERE: MaySign(domains=("other",), system=True)}, SCOPE_P),
    ({HERE: MaySign(domains=("other",), system=True)}, SYSTEM),
    ({HERE: MaySign(domains=("other",), system=True)}, {"domain": {"id": "default"}}),
    ({HERE: MaySign(domains=("other",), system=True)}, None),
    ({HERE: MaySign(system=False)}, SYSTEM),
]


@pytest.mark.parametrize(("may", "scope"), BEYOND)
async def test_a_token_beyond_what_its_signer_may_sign_for_is_worth_nothing_and_not_issued(place, may, scope):
    place.change(put(grant(U, "system", "reader", target="system")))
    place.change(put(grant(U, "default", "reader", target="domain")))
    tell(place, record(2, {HERE: MaySign(system=True)}))
    text = (await place.login(scope)).text
    await place.validator.check(text)
    assert hit(place, text)
    unknown = await refused(place, jws.sign((await place.validator.check(text)).token, STRANGER))
    tell(place, record(3, may))
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            assert await refused(place, text) == unknown, "as if nobody had signed it"
    assert place.validator.beyond == {HERE: 3}
    assert [one["event"] for one in logs] == ["token_beyond_its_signer"], "loud, and not once a request"
    with pytest.raises(Forbidden):
        await place.login(scope)
    tell(place, record(4, {HERE: MaySign(domains=("default",), system=True)}))
    assert (await place.validator.check(text)).key == ID


async def test_by_default_a_site_signs_for_every_domain_and_never_for_the_system(place):
    place.change(put(grant(U, "system", "reader", target="system")))
    assert await place.login(SCOPE_P)
    with pytest.raises(Forbidden, match="the system"):
        await place.login(SYSTEM)
    assert Signers().beyond("@controller/one", SystemScope(), {"any"}) is None
    assert Signers().beyond(TRUSTED, SystemScope(), {"any"}) == "the system"
    assert Signers().beyond(TRUSTED, DomainScope("any"), {"any"}) is None


async def test_the_domain_of_the_user_counts_as_well_as_that_of_the_scope(place):
    place.change(put(Project(id="other", name="other", is_domain=True)))
    place.change(put(User(id="0f" * 16, name="w", domain_id="other")), put(grant("0f" * 16, P, "member")))
    tell(place, record(2, {HERE: MaySign(domains=("default", "other"))}))
    mine = (await place.login(SCOPE_P)).token
    import msgspec

    theirs = msgspec.structs.replace(mine, user_id="0f" * 16)
    text = jws.sign(theirs, PRIVATE)
    assert await place.validator.check(text)
    tell(place, record(3, {HERE: MaySign(domains=("default",))}))
    await refused(place, text)
    tell(place, record(4, {HERE: MaySign(domains=("other",))}))
    await refused(place, text)


async def test_trusted_keys_of_a_keystone_are_taken_in_both_spellings_and_ours_without_a_name_are_not(place, tmp_path):
    trusted = tmp_path / "trusted"
    write_public(trusted, {"any": STRANGER.public_key()})
    token = (await place.login(SCOPE_P)).token
    bare = _without_kid(jws.sign(token, STRANGER), STRANGER)
    await refused(place, bare)
    place.signatory.trusted = trusted
    with structlog.testing.capture_logs() as logs:
        place.signatory.load()
    assert [one["event"] for one in logs] == ["foreign_signers_trusted"]
    place.known.signers = place.signatory.signers
    for text in (bare, twin(bare)):
        assert (await place.validator.check(text)).token == token
    place.revoke(audit_id=token.audit_id)
    for text in (bare, twin(bare)):
        await refused(place, text)
    await refused(place, _without_kid(jws.sign(token, PRIVATE), PRIVATE))


def _without_kid(text: str, private) -> str:
    from tests.language.test_jws import ORDER, numbers, part

    signed = f"{part({'alg': 'ES256', 'typ': 'JWT'})}.{text.split('.')[1]}"
    r, s = numbers(signed, private)
    return f"{signed}.{part(r.to_bytes(32) + min(s, ORDER - s).to_bytes(32))}"


OTHER = jws.key_id(STRANGER.public_key())


def with_another(place, epoch=2, may=None, owner=THERE) -> None:
    """Another region has a key as well."""
    mine = record().keys[ID]
    theirs = SigningKey(owner=owner, public=jws.der(STRANGER.public_key()), epoch=1, offered_at=0, signs_from=1)
    tell(place, record(epoch, may, {ID: mine, OTHER: theirs}))


@pytest.mark.parametrize("scope", [SYSTEM, SCOPE_P, {"domain": {"id": "default"}}, None])
async def test_no_exchange_makes_of_a_token_what_its_signer_could_not_sign(place, scope):
    place.change(
        put(grant(U, "system", "reader", target="system")), put(grant(U, "default", "reader", target="domain"))
    )
    with_another(place, may={HERE: MaySign(system=True), THERE: MaySign(domains=("default",))})
    theirs = jws.sign((await place.login()).token, STRANGER)
    beyond = scope is SYSTEM
    if not beyond:
        with_another(place, 3, {HERE: MaySign(system=True)})
        assert (await place.validator.check((await place.rescope(theirs, scope)).text)).key == ID
        with_another(place, 4, {HERE: MaySign(system=True), THERE: MaySign(domains=("other",), system=True)})
        with pytest.raises(NotFound):
            await place.rescope(theirs, scope)
        return
    with pytest.raises(Forbidden, match="the system"):
        await place.rescope(theirs, SYSTEM)
    once = (await place.rescope(theirs, "unscoped")).text
    assert (await place.validator.check(once)).principal.signers == (ID, OTHER)
    with pytest.raises(Forbidden, match="the system"):
        await place.rescope(once, SYSTEM)
    forged = jws.sign((await place.login(SYSTEM)).token, PRIVATE, of=[OTHER])
    await refused(place, forged)
    assert await place.rescope((await place.login()).text, SYSTEM), "its own it may exchange"


async def test_what_was_made_of_a_token_falls_with_the_key_that_had_signed_it(place):
    with_another(place)
    theirs = jws.sign((await place.login()).token, STRANGER)
    made = (await place.rescope((await place.rescope(theirs)).text, SCOPE_P)).text
    assert jws.read(made).of == (OTHER,)
    caller = (await place.validator.check(made)).principal
    place.signatory.condemned = frozenset({OTHER})
    place.known.accepts_key = place.signatory.accepts
    await refused(place, made)
    login = Login(methods=("token",), data={"token": {"id": made}}, scope=SCOPE_P, principal=caller)
    with pytest.raises(Unauthenticated):
        await place.issuer.issue(login, place.validator.facts)
    assert await place.validator.check((await place.login()).text)
    place.signatory.condemned = frozenset()
    place.known.lacks_key = True
    tell(place, record(3))
    with pytest.raises(Unavailable):
        await place.validator.check(made)


async def test_a_sealed_token_is_made_of_a_signed_one_for_what_its_signer_may_sign_for(place):
    """As while the provider changes from one region to the next."""
    place.change(put(grant(U, "system", "reader", target="system")))
    signed = (await place.login()).text
    place.issuer = Issuer(place.overlay, place.known, clock=place.clock, settings=SETTINGS, verifier=Uncounted(4))
    assert "." not in (await place.rescope(signed, SCOPE_P)).text
    with pytest.raises(Forbidden, match="the system"):
        await place.rescope(signed, SYSTEM)


async def test_of_how_many_keys_a_token_is_made_is_bounded(place):
    token = (await place.login()).token
    for number, sent in ((8, 8), (9, None)):
        of = [f"{one:016x}" for one in range(number)]
        if sent is None:
            with pytest.raises(Forbidden, match="too many"):
                place.signatory.sign(token, (), SETTINGS.auth.methods, of)
        else:
            text = place.signatory.sign(token, (), SETTINGS.auth.methods, [ID, *of, *of])
            assert jws.read(text).of == tuple(of)


# --- the directories


def ids_in(directory: Path) -> list[str]:
    return [jws.key_id(jws.public_key(path.read_bytes())) for path in sorted(directory.iterdir())]


def publics(number: int) -> dict:
    keys = [ec.generate_private_key(ec.SECP256R1()).public_key() for _ in range(number)]
    return {jws.key_id(key): key for key in keys}


def test_the_directory_holds_the_keys_and_no_name_ever_vanishes(tmp_path):
    directory, keys = tmp_path / "public", publics(3)
    assert write_public(directory, keys) == []
    assert sorted(ids_in(directory)) == sorted(keys)
    names = {path.name for path in directory.iterdir()}
    _, *rest = keys
    left = {name: keys[name] for name in rest}
    write_public(directory, left)
    assert {path.name for path in directory.iterdir()} == names
    assert set(ids_in(directory)) == left.keys(), "what was retired is not there"
    more = publics(2) | left
    write_public(directory, more)
    assert set(ids_in(directory)) == more.keys()
    assert len(list(directory.iterdir())) == 4, "the free name is taken first"
    before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    write_public(directory, more)
    assert before == {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["public"]
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o644}
    assert directory.stat().st_mode & 0o777 == 0o755
    write_public(directory, {})
    assert ids_in(directory) == [], "nobody signs: nobody is believed"


def test_damage_is_mended_and_what_is_not_ours_stays_and_is_told(tmp_path):
    directory, keys = tmp_path / "public", publics(2)
    write_public(directory, keys)
    (directory / "1.pem").write_bytes(b"\xff half")
    (directory / "deeper").mkdir()
    (directory / "notes.txt").write_text("mine")
    assert write_public(directory, keys) == ["deeper", "notes.txt"]
    assert {jws.key_id(jws.public_key((directory / f"{n}.pem").read_bytes())) for n in (1, 2)} == keys.keys()
    assert (directory / "notes.txt").read_text() == "mine"


def test_a_reader_in_a_loop_finds_every_lasting_key_and_no_half_file(tmp_path):
    directory, lasting, found, ended = tmp_path / "public", publics(1), [], threading.Event()
    write_public(directory, lasting)
    (name,) = lasting

    def read():
        while not ended.is_set():
            try:
                there = {jws.key_id(jws.public_key(one.read_bytes())) for one in directory.iterdir()}
                found.append(name in there)
            except (OSError, ValueError) as error:
                found.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    pool = [publics(1) for _ in range(6)]
    for turn in range(60):
        write_public(directory, pool[turn % 6] | lasting | pool[(turn + 1) % 6])
    ended.set()
    reader.join()
    assert len(found) > 20
    assert set(found) == {True}


def test_a_private_key_that_others_can_read_is_refused_with_the_cure(tmp_path):
    path = keep(tmp_path)
    assert load_private(tmp_path, CURRENT)
    path.chmod(0o644)
    with pytest.raises(KeyRepositoryError, match="chmod 600"):
        load_private(tmp_path, CURRENT)
    with pytest.raises(KeyRepositoryError, match="chmod 600"):
        signatory(tmp_path.parent, private=tmp_path).load()
    path.chmod(0o600)
    for content in (b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----\n"):
        path.write_bytes(content)
        with pytest.raises(KeyRepositoryError, match="rm ") as refusal:
            load_private(tmp_path, CURRENT)
        assert "SECRET" not in str(refusal.value)
    keep(tmp_path, ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(KeyRepositoryError, match="ES256"):
        load_private(tmp_path, CURRENT)
    assert load_private(tmp_path, NEXT) is None


async def test_the_next_key_waits_beside_the_one_in_use_and_takes_its_place(tmp_path):
    keep(tmp_path / "private")
    here = signatory(tmp_path)
    here.take(record())
    await here.settle()
    assert here.offer() is None
    here.take(Signing(id=SIGNING, epoch=2, keys=record().keys, renew={HERE: 1}))
    await here.settle()
    public, _ = here.offer()
    other = jws.key_id(jws.public_key(public))
    held = SigningKey(owner=HERE, public=public, epoch=3, offered_at=2)
    here.take(Signing(id=SIGNING, epoch=3, keys=record().keys | {other: held}, renew={HERE: 1}))
    await here.settle()
    assert here.offer() is None
    assert jws.read(_signed(here)).kid == ID, "not every site holds the next"
    worker = signatory(tmp_path, keeps=False)
    used = SigningKey(owner=HERE, public=public, epoch=3, offered_at=2, signs_from=3)
    last = Signing(id=SIGNING, epoch=4, keys=record().keys | {other: used}, renew={HERE: 1})
    for one in (worker, here):  # the worker hears of it first, and finds the key where it lies
        one.take(last)
        await one.settle(last)
        assert jws.read(_signed(one)).kid == other
    await worker.settle()
    assert jws.read(_signed(worker)).kid == other
    assert [path.name for path in (tmp_path / "private").iterdir()] == [CURRENT]
    assert here.seen.epoch == worker.seen.epoch == 4


def _signed(one: Signatory) -> str:
    from tests.language.test_jws import token

    return one.sign(token(), {"default"}, ("password",))


async def test_what_cannot_be_written_is_not_acknowledged_until_it_is(tmp_path):
    (tmp_path / "public").write_text("in the way")
    here = signatory(tmp_path, signs=False)
    here.take(record())
    await here.settle(record())
    assert here.owed
    assert here.seen.epoch == 0
    assert here.accepts(ID), "what is known counts, whether a Keystone can read it or not"
    (tmp_path / "public").unlink()
    await here.settle()
    assert not here.owed
    assert here.seen == seen(record())
    assert ids_in(tmp_path / "public") == [ID]


@pytest.mark.parametrize("told", [{"isolation_us": 10 * SECOND}, {"keep_until": 20 * SECOND}])
async def test_with_a_key_that_has_ceased_nothing_is_signed_for_longer_than_was_promised(tmp_path, told, monkeypatch):
    """The next one may be used, but the directory cannot be written: the former one is not gone on with for ever."""
    keep(tmp_path / "private")
    here, clock = signatory(tmp_path), ManualClock(now=9 * SECOND)
    here.clock = clock
    here.take(record())
    await here.settle()
    follower = keep(tmp_path / "private", STRANGER, NEXT)
    mine = SigningKey(owner=HERE, public=jws.der(STRANGER.public_key()), epoch=2, offered_at=1, signs_from=2)
    ceased = {"keep_until": 99 * SECOND, "ceased_at": 2} | told
    here.take(record(3, keys={ID: record(**ceased).keys[ID], OTHER: mine}))
    monkeypatch.setattr(signing_files, "promote", _read_only)
    await here.settle()
    assert here.owed
    assert follower.exists()
    here.check()
    await clock.advance(11)
    with pytest.raises(Unavailable):
        here.check()
    monkeypatch.undo()
    await here.settle()
    here.check()
    assert here.key_id == OTHER


def _read_only(_directory):
    raise OSError("Read-only file system")


def _gone(path):
    path.unlink()


def _spoilt(path):
    path.write_bytes(b"-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----\n")


def _open_to_all(path):
    path.chmod(0o644)


@pytest.mark.parametrize("befalls", [_gone, _spoilt, _open_to_all])
async def test_what_befalls_a_private_key_while_it_is_in_use_is_told_and_put_right(tmp_path, befalls):
    path = keep(tmp_path / "private")
    here = signatory(tmp_path)
    here.take(record())
    await here.settle()
    await here.look_after()
    befalls(path)
    with structlog.testing.capture_logs() as said:
        await here.look_after()
    assert [one["event"] for one in said] == ["key_file_damaged"]
    assert said[0]["file"] == str(path)
    assert "--key " + ID in said[0]["cure"]
    assert "SECRET" not in str(said)
    assert path.stat().st_mode & 0o777 == 0o600
    assert jws.key_id(load_private(tmp_path / "private", CURRENT).public_key()) == ID
    assert jws.read(_signed(here)).kid == ID
    assert here.offer() is None, "nothing new has to be made known"
    assert here.damage == []


async def test_the_next_key_that_was_offered_is_put_back_and_comes_into_use(tmp_path):
    keep(tmp_path / "private")
    here = signatory(tmp_path)
    here.take(Signing(id=SIGNING, epoch=2, keys=record().keys, renew={HERE: 1}))
    await here.settle()
    public, _ = here.offer()
    name = jws.key_id(jws.public_key(public))
    (tmp_path / "private" / NEXT).unlink()
    used = SigningKey(owner=HERE, public=public, epoch=3, offered_at=2, signs_from=3)
    here.take(Signing(id=SIGNING, epoch=3, keys=record().keys | {name: used}, renew={HERE: 1}))
    await here.settle()
    assert here.key_id == name
    assert jws.key_id(load_private(tmp_path / "private", CURRENT).public_key()) == name


async def test_a_private_key_that_was_condemned_is_not_put_back(tmp_path):
    path = keep(tmp_path / "private")
    here = signatory(tmp_path)
    here.take(record())
    await here.settle()
    path.unlink()
    here.condemned = frozenset({ID})
    await here.settle()
    assert not path.exists()
    with pytest.raises(Unavailable):
        here.check()


async def test_a_private_key_that_is_not_there_at_the_start_is_told_once(tmp_path):
    here = signatory(tmp_path)
    other = SigningKey(owner=THERE, public=jws.der(STRANGER.public_key()), epoch=1, offered_at=0, signs_from=1)
    here.take(record(keys=record().keys | {OTHER: other}))
    with structlog.testing.capture_logs() as said:
        await here.settle()
        await here.settle()
    assert [(one["event"], one["id"]) for one in said] == [("signing_key_lost", ID)]
    assert here.offer(), "another is made"


async def test_public_keys_for_a_keystone_are_put_right_while_we_run(tmp_path):
    here = signatory(tmp_path, signs=False)
    here.take(record())
    await here.settle(record())
    await here.look_after()
    file = tmp_path / "public" / "1.pem"
    file.write_bytes(b"half")
    await here.look_after()
    assert ids_in(tmp_path / "public") == [ID]
    file.unlink()
    (tmp_path / "public").rmdir()
    await here.look_after()
    assert ids_in(tmp_path / "public") == [ID]
    with structlog.testing.capture_logs() as said:
        (tmp_path / "public" / "notes.txt").write_text("mine")
        await here.look_after()
        await here.look_after()
    assert [one["event"] for one in said] == ["foreign_files_among_public_keys"]


async def test_a_disk_that_loses_bits_in_silence_is_found_by_reading(tmp_path, monkeypatch):
    here = signatory(tmp_path, signs=False)
    here.take(record())
    await here.settle(record())
    monkeypatch.setattr("regional_keystone.signing.look", lambda _: ())
    await here.look_after()
    (tmp_path / "public" / "1.pem").write_bytes(b"half")
    await here.look_after()
    assert (tmp_path / "public" / "1.pem").read_bytes() == b"half", "nothing told of it"
    await here.look_after(thoroughly=True)
    assert ids_in(tmp_path / "public") == [ID]


async def test_what_cannot_be_put_right_is_told_once_and_counted_until_it_is(tmp_path):
    here = signatory(tmp_path, signs=False)
    here.take(record())
    (tmp_path / "public").write_text("in the way")
    with structlog.testing.capture_logs() as said:
        for _ in range(3):
            assert not await here.look_after()
    assert [one["event"] for one in said] == ["public_keys_not_written"]
    assert len(here.damage) == 1
    (tmp_path / "public").unlink()
    assert await here.look_after(), "more may be acknowledged now"
    assert here.damage == []


async def test_a_worker_goes_on_with_the_key_it_has_and_writes_nothing(tmp_path):
    path = keep(tmp_path / "private")
    worker = signatory(tmp_path, keeps=False)
    worker.take(record())
    await worker.settle()
    path.unlink()
    await worker.settle()
    assert jws.read(_signed(worker)).kid == ID
    assert not path.exists()


async def test_a_worker_writes_nothing(tmp_path):
    worker = signatory(tmp_path, keeps=False)
    worker.take(record(keys={}))
    await worker.settle(record(keys={}))
    assert worker.offer() is None
    assert list(tmp_path.iterdir()) == []
    assert worker.seen.epoch == 1


async def test_what_the_replica_does_not_have_is_not_acknowledged_though_it_counts(tmp_path):
    """A restart begins with the replica: a key that all are said to hold would be unknown here."""
    here = signatory(tmp_path)
    here.take(record(4))
    here.take(record(5))
    await here.settle(record(4))
    assert here.signers.record.epoch == 5
    assert here.seen == seen(record(4))
    await here.settle()
    assert here.seen.epoch == 4
    await here.settle(record(5))
    await here.settle(record(4))
    assert here.seen == seen(record(5))


async def test_an_older_record_takes_nothing_back(tmp_path):
    here = signatory(tmp_path)
    here.take(record(5, {HERE: MaySign(domains=())}))
    assert not here.take(record(4))
    assert here.signers.may(HERE) == MaySign(domains=())


async def test_no_private_key_is_shown(tmp_path):
    make_private(tmp_path / "private", CURRENT)
    here = signatory(tmp_path)
    await here.settle()
    shown = repr(here) + str(here)
    for name in (CURRENT, NEXT):
        path = tmp_path / "private" / name
        pem = path.read_text().splitlines()
        assert path.stat().st_mode & 0o777 == 0o600
        assert all(line not in shown for line in pem)


async def test_a_place_signs_with_no_key_that_is_anothers(tmp_path):
    """As where a machine was copied, its private key with it: what it signed would count as the other site's."""
    keep(tmp_path / "private")
    here = signatory(tmp_path)
    here.take(record(owner=THERE))
    await here.settle()
    with pytest.raises(Unavailable):
        here.check()
    assert here.offer(), "it makes one of its own"


async def test_a_condemned_key_goes_from_the_directory_that_a_keystone_reads(tmp_path):
    here = signatory(tmp_path, signs=False)
    other = SigningKey(owner=THERE, public=jws.der(STRANGER.public_key()), epoch=1, offered_at=0, signs_from=1)
    here.take(record(keys=record().keys | {OTHER: other}))
    await here.settle()
    assert set(ids_in(tmp_path / "public")) == {ID, OTHER}
    here.condemned = frozenset({ID})
    await here.settle()
    assert set(ids_in(tmp_path / "public")) == {OTHER}


async def test_a_next_key_that_is_condemned_before_it_is_used_is_followed_by_another(tmp_path):
    here = signatory(tmp_path)
    await here.settle()
    public, _ = here.offer()
    stolen = jws.key_id(jws.public_key(public))
    here.take(Signing(id=SIGNING, epoch=1, keys={stolen: SigningKey(owner=HERE, public=public, epoch=1, offered_at=0)}))
    here.condemned = frozenset({stolen})
    await here.settle()
    fresh, _ = here.offer()
    assert jws.key_id(jws.public_key(fresh)) != stolen


def test_an_offer_has_one_spelling():
    pem = PUBLIC.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    said = b"regional-keystone signing offer 1\x00cluster\x00RegionOne\x00"
    proofs = {public: PRIVATE.sign(said + public, ec.ECDSA(hashes.SHA256())) for public in (jws.der(PUBLIC), pem)}
    assert proven("cluster", HERE, jws.der(PUBLIC), proofs[jws.der(PUBLIC)]) == ID
    with pytest.raises(ValueError, match="spelled"):
        proven("cluster", HERE, pem, proofs[pem])


def test_a_private_key_of_another_user_is_refused_with_the_cure(tmp_path, monkeypatch):
    path = keep(tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: path.stat().st_uid + 1234)
    with pytest.raises(KeyRepositoryError, match="chown"):
        load_private(tmp_path, CURRENT)


def test_so_many_keys_of_others_are_tried_and_no_more(tmp_path):
    def another():
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    for number in range(signing_files.MOST_TRUSTED):
        (tmp_path / f"{number}.pem").write_bytes(another())
    assert len(signing_files.load_trusted(tmp_path)) == signing_files.MOST_TRUSTED
    (tmp_path / "more.pem").write_bytes(another())
    with pytest.raises(KeyRepositoryError, match="the most that are tried"):
        signing_files.load_trusted(tmp_path)


def test_a_link_among_the_public_keys_is_foreign_and_not_written_through(tmp_path):
    """Whoever may add names there is not to have a key of ours counted under one that leads elsewhere."""
    public, aside = tmp_path / "public", tmp_path / "aside"
    write_public(public, {ID: PUBLIC})
    (public / "1.pem").rename(aside)
    (public / "1.pem").symlink_to(aside)
    assert write_public(public, {ID: PUBLIC}) == ["1.pem"]


def test_the_next_key_is_in_its_place_on_the_disk_before_it_signs(tmp_path, monkeypatch):
    keep(tmp_path, name=NEXT)
    synced = []
    monkeypatch.setattr(signing_files.durable, "sync_directory", lambda path: synced.append((path, *path.iterdir())))
    signing_files.promote(tmp_path)
    assert synced == [(tmp_path, tmp_path / CURRENT)]
