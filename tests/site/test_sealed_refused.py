"""Where sealed tokens are refused, one is worth nothing on any road, and none is made of it or beside it."""

import msgspec
import pytest
import structlog

from regional_keystone.errors import NotFound, Unauthenticated, Unavailable
from regional_keystone.issue import Issuer
from regional_keystone.model import Signing
from regional_keystone.sealing import check_read
from regional_keystone.signing import SIGNING, Signers
from tests.cloud import eventually
from tests.site.realm import SCOPE_P
from tests.site.test_issue import Meanwhile
from tests.site.test_panic import doors, looks, token
from tests.site.test_signing import place, record, tell  # noqa: F401  the fixture
from tests.site.test_workers import login, region

REFUSED = record(epoch=2, may=None)
REFUSED = msgspec.structs.replace(REFUSED, refuses_sealed=True, sealed_told_at=1)
READ = msgspec.structs.replace(REFUSED, epoch=3, refuses_sealed=False)


@pytest.fixture
async def both(place):  # noqa: F811
    """A realm that signs, a token that was sealed there before, and what accepts keys as a follower does."""
    ring = place.known.ring

    def accepts(key):
        return place.known.signers.reads_sealed if key in ring.ids else place.signatory.accepts(key)

    place.known.accepts_key = accepts
    sealer = Issuer(
        place.overlay, place.known, clock=place.clock, settings=place.settings, verifier=place.issuer._verifier
    )
    signer, place.issuer = place.issuer, sealer
    place.sealed = await place.login(SCOPE_P)
    place.issuer, place.sealer = signer, sealer
    return place


def hit(place, text):  # noqa: F811
    return place.fastpath.ask(text, text, True, place.clock.now())


async def test_it_is_refused_on_every_road_at_once_and_a_signed_one_is_not(both):
    signed = (await both.login(SCOPE_P)).text
    for text in (both.sealed.text, signed):
        await both.validator.check(text)
        assert hit(both, text)
    tell(both, REFUSED)
    assert hit(both, both.sealed.text) is None
    for validator in (both.validator, both.forgetful()):
        with pytest.raises(NotFound, match="recognize"):
            await validator.check(both.sealed.text)
        with pytest.raises(NotFound, match="recognize"):
            await validator.check(both.sealed.text, allow_expired=True)
        with pytest.raises(Unauthenticated):
            await validator.proven(both.sealed.text)
        assert (await validator.check(signed)).token
    with pytest.raises(NotFound):
        await both.rescope(both.sealed.text)
    tell(both, READ)
    assert (await both.validator.check(both.sealed.text)).token == both.sealed.token


async def test_an_older_record_does_not_bring_them_back(both):
    tell(both, REFUSED)
    tell(both, record(epoch=1))
    with pytest.raises(NotFound):
        await both.validator.check(both.sealed.text)


async def test_it_is_counted_and_said_once_a_minute_without_the_token(both):
    tell(both, REFUSED)
    with structlog.testing.capture_logs() as said:
        for _ in range(3):
            with pytest.raises(NotFound):
                await both.validator.check(both.sealed.text)
        with pytest.raises(NotFound):
            await both.validator.check("gAAAAAB" + "x" * 120)
    ring = both.known.ring
    assert both.validator.sealed == 3, "garbage is nothing that somebody has sealed"
    assert [(one["event"], one["id"]) for one in said] == [("sealed_token_refused", ring.key_ids[ring.primary])]
    assert both.sealed.text not in str(said)


async def test_where_it_may_be_read_again_without_our_knowledge_it_is_not_called_worthless(both):
    tell(both, REFUSED)
    both.known.lacks_key = True
    with pytest.raises(Unavailable, match="read again"):
        await both.validator.check(both.sealed.text)
    assert both.validator.sealed == 0


async def test_of_one_that_is_refused_meanwhile_no_other_is_made(both):
    made = len(both.known.issued)

    async def refuse():
        tell(both, REFUSED)

    both.validator = Meanwhile(both.validator, refuse)
    with pytest.raises(Unauthenticated):
        await both.rescope(both.sealed.text, SCOPE_P)
    assert len(both.known.issued) == made


def test_none_is_sealed_while_they_are_refused_nor_before_all_have_heard_that_they_are_read():
    second = 1_000_000
    check_read(Signing(id=SIGNING, epoch=0), 0)
    refused = Signing(id=SIGNING, epoch=1, refuses_sealed=True, sealed_told_at=100 * second)
    with pytest.raises(Unavailable, match="provider = jws") as cure:
        check_read(refused, 10**18)
    assert cure.value.retry_after_s == 30
    read = msgspec.structs.replace(refused, refuses_sealed=False)
    for at, may in ((100, False), (107, False), (108, True)):
        if may:
            check_read(read, at * second)
        else:
            with pytest.raises(Unavailable, match="not have heard"):
                check_read(read, at * second)
    assert Signers(read).reads_sealed
    assert not Signers(refused).reads_sealed


async def test_every_process_of_a_site_refuses_it_also_one_that_is_started_anew(tmp_path):
    async with region(tmp_path) as three:
        text = await token(three)
        assert [await looks(one, text) for one in doors(three)] == [200] * 3
        known = await three.controller.overlay.get(Signing, SIGNING) or Signing(id=SIGNING, epoch=0)
        now = three.controller.clock.now()
        fresh = msgspec.structs.replace(known, epoch=known.epoch + 1, refuses_sealed=True, sealed_told_at=now)
        position = await three.controller.write(fresh)
        await eventually(lambda: all(one.position >= position for one in three.everyone))
        assert [await looks(one, text) for one in doors(three)] == [401] * 3
        three.processes[2][-1].kill()
        await eventually(lambda: len(three.processes[2]) == 2 and three.site.missing() is None)
        assert [await looks(one, text) for one in doors(three)] == [401] * 3
        assert (await login(three.site)).status == 503
        read = msgspec.structs.replace(fresh, epoch=fresh.epoch + 1, refuses_sealed=False)
        position = await three.controller.write(read)
        await eventually(lambda: all(one.position >= position for one in three.everyone))
        assert [await looks(one, text) for one in doors(three)] == [200] * 3
