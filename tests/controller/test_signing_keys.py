"""A signing key is used when every site holds its public half, follows its former one, and is retired by time alone."""

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from controller.admin_compromise import CompromiseAdmin
from controller.signing_keys import MOST_KEYS, offered, settled
from controller.sure_now import SureNow
from controller.turning import Terms
from regional_keystone import jws
from regional_keystone.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from regional_keystone.log import put
from regional_keystone.messages import Acknowledge, Offer
from regional_keystone.model import MaySign, Project, Signing, SigningKey, Site
from regional_keystone.overlay import transact
from regional_keystone.record import encode
from regional_keystone.signing import SIGNING, proven
from regional_keystone.token import DEFAULT_METHODS, ProjectScope, SystemScope, Token
from tests.cloud import ControllerNode, eventually, project, running, say, stream, wired
from tests.controller.test_sites import Ahead

TERMS = Terms(lifetime_us=100, allow_expired_us=200, isolation_us=650, skew_us=50)
NONE = Signing(id=SIGNING, epoch=0)
P, U = "bb" * 16, "aa" * 16


def token(**changes) -> Token:
    said = {"user_id": U, "methods": ("password",), "scope": ProjectScope(P), "audit_ids": ("MDEyMzQ1Njc4OWFiY2RlZg",)}
    return Token(**{"expires_at": 2_000_000_000_000000, "issued_at": 1_900_000_000_000000} | said | changes)


def signed(node) -> str:
    return node.signatory.sign(token(), {"default"}, DEFAULT_METHODS)


def opens(node, text: str) -> bool:
    """Whether the node takes this for signed by whom it knows."""
    key = node.follower.signers.opener(jws.read(text))
    return node.follower.accepts_key(key)


async def ready(*nodes) -> None:
    for node in nodes:
        await eventually(lambda node=node: _can(node), 10)


def _can(node) -> bool:
    try:
        node.signatory.check()
    except Unavailable:
        return False
    return True


# --- what happens to the record, without a federation


def nobody(_epoch):
    return []


def somebody(_epoch):
    return ["Oslo"]


def one_in_use(owner="Oslo", name="k1") -> Signing:
    return settled(offered(NONE, owner, name, b"1", 0), {owner}, nobody, 10, TERMS)


def test_an_offer_waits_until_nobody_is_waited_for():
    record = offered(NONE, "Oslo", "k1", b"1", 5)
    assert record.epoch == record.keys["k1"].epoch == 1
    assert settled(record, {"Oslo"}, somebody, 10, TERMS) is None
    record = settled(record, {"Oslo"}, nobody, 10, TERMS)
    assert (record.keys["k1"].signs_from, record.epoch) == (10, 2)
    assert settled(record, {"Oslo"}, somebody, 11, TERMS) is None


def test_who_is_waited_for_is_asked_about_the_epoch_in_which_the_key_came():
    asked = []
    record = offered(one_in_use(), "Oslo", "k2", b"2", 20)
    settled(record, {"Oslo"}, lambda epoch: asked.append(epoch) or ["Rome"], 30, TERMS)
    assert asked == [3]


def test_the_former_key_ceases_when_the_next_is_used_and_goes_when_nothing_of_it_can_live():
    record = offered(one_in_use(), "Oslo", "k2", b"2", 20)
    assert settled(record, {"Oslo"}, somebody, 25, TERMS) is None
    record = settled(record, {"Oslo"}, nobody, 30, TERMS)
    former = record.keys["k1"]
    assert (former.ceased_at, former.keep_until) == (30, 1030)
    assert settled(record, {"Oslo"}, nobody, 1030, TERMS) is None, "by time, never earlier"
    assert set(settled(record, {"Oslo"}, nobody, 1031, TERMS).keys) == {"k2"}


def test_what_a_key_was_promised_is_not_taken_back_by_shorter_terms():
    record = settled(offered(one_in_use(), "Oslo", "k2", b"2", 20), {"Oslo"}, nobody, 30, TERMS)
    assert settled(record, {"Oslo"}, nobody, 40, TERMS._replace(isolation_us=1)) is None


@pytest.mark.parametrize("name", ["isolation_us", "lifetime_us", "allow_expired_us"])
def test_a_key_is_kept_for_the_most_that_was_promised_while_it_signed(name):
    longer = TERMS._replace(**{name: getattr(TERMS, name) + 1000})
    record = settled(one_in_use(), {"Oslo"}, nobody, 15, longer)
    assert settled(record, {"Oslo"}, nobody, 16, TERMS) is None
    record = settled(offered(record, "Oslo", "k2", b"2", 20), {"Oslo"}, nobody, 30, TERMS)
    assert record.keys["k1"].keep_until == 2030
    assert settled(record, set(), nobody, 50, TERMS).keys["k2"].keep_until == 1050


def test_keys_of_others_are_not_touched():
    record = settled(offered(one_in_use(), "Rome", "r1", b"3", 20), {"Oslo", "Rome"}, nobody, 30, TERMS)
    assert record.keys["k1"].ceased_at is None
    with pytest.raises(Conflict):
        offered(record, "Rome", "k1", b"1", 40)


def test_who_is_gone_has_no_key_for_longer_than_its_tokens():
    record = settled(one_in_use(), set(), nobody, 50, TERMS)
    assert record.keys["k1"].keep_until == 1050
    assert settled(offered(NONE, "Oslo", "k1", b"1", 0), set(), nobody, 1, TERMS).keys == {}
    controllers = one_in_use("@controller/one")
    assert settled(controllers, set(), nobody, 50, TERMS) is None, "a controller is no site"


def test_a_controller_that_does_not_answer_for_the_promised_isolation_has_no_key_for_longer_than_its_tokens():
    """It was given another name, or is gone; one that is there offers a key as soon as it is asked for one."""
    asked = msgspec.structs.replace(one_in_use("@controller/one"), renew={"@controller/one": 100})
    assert settled(asked, set(), nobody, 750, TERMS) is None
    assert settled(asked, set(), nobody, 10**6, TERMS, 750) is None, "by a clock that may have been set forward"
    gone = settled(asked, set(), nobody, 751, TERMS).keys["k1"]
    assert (gone.ceased_at, gone.keep_until) == (751, 1751)
    there = settled(offered(asked, "@controller/one", "k2", b"2", 100), set(), somebody, 751, TERMS)
    assert there is None, "it waits for others"


def test_an_offer_takes_the_place_of_one_that_was_never_used_but_not_at_once():
    record = offered(one_in_use(), "Oslo", "k2", b"2", 20)
    with pytest.raises(Conflict):
        offered(record, "Oslo", "k3", b"3", 21)
    record = offered(record, "Oslo", "k3", b"3", 10_000_021)
    assert set(record.keys) == {"k1", "k3"}
    assert offered(record, "Oslo", "k3", b"3", 99) is None, "the same again"


def test_a_site_cannot_fill_the_log():
    record = NONE
    for number in range(MOST_KEYS):
        record = offered(record, "Oslo", f"k{number}", b"1", number)
        record = settled(record, {"Oslo"}, nobody, number, TERMS._replace(isolation_us=10**9))
    with pytest.raises(Conflict):
        offered(record, "Oslo", "more", b"1", 50)


def test_an_interval_asks_for_a_new_key_once():
    terms = TERMS._replace(interval_us=100)
    assert settled(one_in_use(), {"Oslo"}, nobody, 109, terms) is None
    record = settled(one_in_use(), {"Oslo"}, nobody, 110, terms)
    assert record.renew == {"Oslo": 110}
    assert settled(record, {"Oslo"}, nobody, 500, terms) is None
    record = settled(offered(record, "Oslo", "k2", b"2", 510), {"Oslo"}, nobody, 520, terms)
    assert record.renew == {"Oslo": 110}
    assert settled(record, {"Oslo"}, nobody, 620, terms).renew == {"Oslo": 620}


# --- in a federation


async def test_a_clock_that_was_set_forward_retires_no_signing_key(tmp_path):
    node = ControllerNode(tmp_path)
    await node.start()
    try:
        now, keys = node.clock.now(), node.signing_keys
        life = {"owner": "Oslo", "public": b"1", "epoch": 1, "offered_at": 0, "signs_from": 1, "ceased_at": 2}
        record = Signing(id=SIGNING, epoch=1, keys={"k1": SigningKey(keep_until=now + 60_000_000, **life)})
        await wrote(node, put(record))
        keys._clock = keys._sure_now._clock = Ahead(node.clock, 3600)
        await keys.settle()
        assert await node.overlay.get(Signing, SIGNING) == record
        keys._sure_now = SureNow(Ahead(node.clock, 3600))
        await keys.settle()
        assert (await node.overlay.get(Signing, SIGNING)).keys == {}, "its time is over, for one that begins by it"
    finally:
        await node.stop()


async def wrote(node, *changes) -> None:
    async def decide(_reader):
        return list(changes), None

    await transact(node.overlay, node.sequencer, "test", decide)


async def test_every_place_signs_and_every_place_takes_it(tmp_path):
    async with running(tmp_path, signs=True) as cloud:
        nodes = [cloud.controller, *cloud.sites.values()]
        await ready(*nodes)
        texts = [signed(node) for node in nodes]
        await cloud.level()
        assert all(opens(node, text) for node in nodes for text in texts)
        owners = [node.follower.signers.owner(jws.read(text).kid) for node, text in zip(nodes, texts, strict=True)]
        assert owners == ["@controller/controller", "RegionOne", "RegionTwo"]
        for node in nodes:
            private = node.directory / "jws-keys" / "private" / "private.pem"
            assert private.stat().st_mode & 0o777 == 0o600
            secret = private.read_bytes()
            for other in nodes:
                assert other is node or secret not in [file.read_bytes() for file in _files(other.directory)]
            public = {
                jws.key_id(jws.public_key(file.read_bytes())) for file in _files(node.directory / "jws-keys/public")
            }
            assert public == node.follower.signers.ids


def _files(directory):
    return [path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()]


async def test_no_key_is_used_before_every_site_that_is_not_quarantined_holds_it(tmp_path):
    async with running(tmp_path, signs=True, deadline_s=3600.0) as cloud, wired(cloud, "RegionTwo") as wire:
        one, two = cloud.sites["RegionOne"], cloud.sites["RegionTwo"]
        await ready(one, two, cloud.controller)
        await cloud.level()
        first, known = signed(one), two.follower.signers.ids
        wire.cut()
        await cloud.controller.signing_keys.rotate("RegionOne")
        await eventually(lambda: len(one.follower.signers.record.keys) > len(known))
        await eventually(lambda: _waits(cloud, ["RegionTwo"]))
        await cloud.controller.signing_keys.settle()
        assert await _waits(cloud, ["RegionTwo"])
        assert jws.read(signed(one)).kid == jws.read(first).kid, "it goes on with the former key"
        wire.mend()
        await eventually(lambda: jws.read(signed(one)).kid != jws.read(first).kid, 10)
        assert opens(two, signed(one)), "whoever signs with it, the other one had it first"
        assert opens(two, first), "what the former key signed goes on"
        assert {key.ceased_at is None for key in one.follower.signers.record.keys.values()} == {True, False}


async def _waits(cloud, sites) -> bool:
    """Whether the one key that is offered waits for these sites."""
    told = await cloud.controller.signing_keys.status()
    assert all(key["domains"] == ["*"] and key["system"] is key["owner"].startswith("@") for key in told)
    return [key["waits_for"] for key in told if key["state"] == "offered"] == [sites]


async def test_a_site_without_a_usable_key_says_why_and_one_that_holds_it_up_is_quarantined(tmp_path):
    async with running(tmp_path, deadline_s=1.5) as cloud, wired(cloud, "RegionTwo") as wire:
        one = cloud.sites["RegionOne"]
        with pytest.raises(Unavailable, match="no controller has made it known"):
            signed(one)
        wire.cut()
        await one.stop()
        one.signs = True
        await one.start()
        await eventually(lambda: one.follower.signers.ids)
        with pytest.raises(Unavailable, match="not every region holds it yet"):
            signed(one)
        await ready(one)
        states = {site.id: site.state for site in await cloud.controller.sites.all()}
        assert states == {"RegionOne": "active", "RegionTwo": "quarantined"}
        two = next(site for site in await cloud.controller.sites.all() if site.id == "RegionTwo")
        assert await cloud.controller.signing_keys.lacks(two)
        wire.mend()
        await eventually(lambda: opens_soon(cloud.sites["RegionTwo"], signed(one)))


def opens_soon(node, text) -> bool:
    try:
        return opens(node, text)
    except ValueError:
        return False


async def test_a_key_survives_a_restart_and_its_private_half_stays_where_it_is(tmp_path):
    async with running(tmp_path, signs=True) as cloud:
        site = cloud.sites["RegionOne"]
        await ready(site)
        kid = jws.read(signed(site)).kid
        await site.stop()
        await site.start()
        assert jws.read(signed(site)).kid == kid, "without having heard from the controller"
        private = site.directory / "jws-keys" / "private"
        assert [path.name for path in private.iterdir()] == ["private.pem"]


async def test_what_a_place_may_sign_for_is_known_everywhere_and_kept_by_itself(tmp_path):
    async with running(tmp_path, signs=True) as cloud:
        one, two = cloud.sites["RegionOne"], cloud.sites["RegionTwo"]
        await ready(one, two, cloud.controller)
        domain = Project(id="d1", name="d1", is_domain=True)
        await cloud.controller.write(domain)
        with pytest.raises(Forbidden, match="the system"):
            one.signatory.sign(token(scope=SystemScope()), {"d1"}, DEFAULT_METHODS)
        forgotten = []
        two.follower.forgetters.append(lambda: forgotten.append(two.follower.signers.may("RegionOne")))
        assert cloud.controller.signatory.sign(token(scope=SystemScope()), {"d1"}, DEFAULT_METHODS)
        keys = cloud.controller.signing_keys
        assert await keys.allow("RegionOne", ["d1"], system=True) == MaySign(domains=("d1",), system=True)
        assert await keys.allow("RegionOne", ["*"], system=None) == MaySign(domains=None, system=True)
        assert await keys.allow("RegionOne", ["d1"], system=False) == MaySign(domains=("d1",), system=False)
        assert await keys.allow("RegionOne", None, system=True) == MaySign(domains=("d1",), system=True)
        await cloud.level()
        assert forgotten[-1] == MaySign(domains=("d1",), system=True), "verdicts were made under what held before"
        for node in (one, two):
            signers = node.follower.signers
            assert signers.beyond("RegionOne", SystemScope(), {"d1"}) is None
            assert signers.beyond("RegionOne", ProjectScope(P), {"d1", "default"}) == "domain default"
            assert signers.beyond("RegionTwo", ProjectScope(P), {"default"}) is None
        with pytest.raises(Forbidden, match="domain default"):
            signed(one)
        for owner, domains in (("Nowhere", None), ("RegionOne", ["no such domain"]), ("RegionOne", [P])):
            with pytest.raises(NotFound):
                await keys.allow(owner, domains, system=None)


async def test_only_the_holder_of_the_private_key_can_offer_it_and_only_as_itself(tmp_path):
    async with running(tmp_path, ("RegionOne",)) as cloud:
        keys, cluster = cloud.controller.signing_keys, cloud.controller.authority.cluster
        private = ec.generate_private_key(ec.SECP256R1())
        public = jws.der(private.public_key())

        def proof(said: bytes) -> bytes:
            return private.sign(said, ec.ECDSA(hashes.SHA256()))

        right = b"regional-keystone signing offer 1\x00" + cluster.encode() + b"\x00RegionOne\x00" + public
        for wrong in (right.replace(b"RegionOne", b"RegionTwo"), right.replace(cluster.encode(), b"another"), public):
            with pytest.raises(Invalid):
                await keys.offer("RegionOne", public, proof(wrong))
        with pytest.raises(Invalid):
            await keys.offer("RegionOne", public + b"\x00", proof(right))
        with pytest.raises(Conflict):
            await keys.offer("Nowhere", public, proof(right.replace(b"RegionOne", b"Nowhere")))
        await keys.offer("RegionOne", public, proof(right))
        assert proven(cluster, "RegionOne", public, proof(right)) in cloud.controller.follower.signers.ids
        head = cloud.controller.sequencer.head
        await keys.offer("RegionOne", public, proof(right))
        record = await cloud.controller.overlay.get(Signing, SIGNING)
        assert [key.owner for key in record.keys.values()] == ["RegionOne"]
        assert head <= cloud.controller.sequencer.head <= head + 1, "said twice, kept once; it may have been taken up"


async def test_a_site_offers_for_itself_alone_over_its_stream(tmp_path):
    async with running(tmp_path, ("RegionOne",)) as cloud:
        site = cloud.sites["RegionOne"]
        await site.stop()
        private = ec.generate_private_key(ec.SECP256R1())
        public, cluster = jws.der(private.public_key()), cloud.controller.authority.cluster
        said = b"regional-keystone signing offer 1\x00" + cluster.encode() + b"\x00@controller/x\x00" + public
        async with stream(site, cloud.controller) as (_, socket):
            await say(socket, Offer(public, private.sign(said, ec.ECDSA(hashes.SHA256()))))
            await say(socket, Offer(b"rubbish", b"rubbish"))
            await say(socket, Acknowledge(0))
            await eventually(lambda: cloud.controller.acknowledgements.word("RegionOne") is not None)
        assert cloud.controller.follower.signers.ids == frozenset()


async def test_a_removed_sites_key_ceases(tmp_path):
    async with running(tmp_path, signs=True) as cloud:
        site = cloud.sites["RegionOne"]
        await ready(site)
        text = signed(site)
        await cloud.controller.sites.remove("RegionOne")
        kid = jws.read(text).kid
        keys = cloud.controller.follower
        await eventually(lambda: keys.signers.record.keys[kid].keep_until is not None)
        assert opens(cloud.controller, text), "what it signed lives until its time is over"


async def test_a_record_of_a_newer_version_is_still_read():
    row = msgspec.msgpack.decode(encode(one_in_use()))
    row["more"] = 1
    row["keys"]["k1"]["purpose"] = "tokens"
    read = msgspec.msgpack.decode(msgspec.msgpack.encode(row), type=Signing)
    assert read == one_in_use()
    assert isinstance(read.keys["k1"], SigningKey)


async def test_a_condemned_key_is_refused_everywhere_signs_nothing_and_is_followed_by_another(tmp_path):
    async with running(tmp_path, ("Oslo", "Rome"), signs=True) as cloud:
        controller, oslo, rome = cloud.controller, cloud.sites["Oslo"], cloud.sites["Rome"]
        await ready(controller, oslo, rome)
        bad, good, stolen = signed(oslo), signed(rome), oslo.signatory.key_id
        assert all(opens(node, text) for node in (controller, oslo, rome) for text in (bad, good))
        await controller.compromise.condemn({stolen: SIGNING}, "uid 0", "")
        await eventually(lambda: not any(opens(node, bad) for node in (controller, oslo, rome)))
        assert all(opens(node, good) for node in (controller, oslo, rome))
        with pytest.raises(Unavailable):
            signed(oslo)
        await oslo.signatory.settle()  # as it is done again and again for what is owed
        oslo.follower.progress()
        await ready(oslo)
        assert oslo.signatory.key_id != stolen
        assert all(opens_soon(node, signed(oslo)) for node in (controller, oslo, rome))


async def test_what_a_stolen_site_has_signed_is_refused_by_all_others_within_two_seconds(tmp_path):
    """`rkctl keys compromised --site`: its own keys alone are condemned, and nobody else's token is touched."""
    async with running(tmp_path, ("Oslo", "Rome", "Turin"), signs=True) as cloud:
        controller, oslo, *others = cloud.controller, *cloud.sites.values()
        await ready(controller, oslo, *others)
        bad, good, stolen = signed(oslo), [signed(node) for node in (controller, *others)], oslo.signatory.key_id
        sealed = controller.holder.ring.ids
        site = CompromiseAdmin(
            compromise=controller.compromise, people=None, sites=controller.sites, name="one", two_person=False
        )
        app = web.Application()
        app.add_routes(site.routes())
        async with TestClient(TestServer(app)) as client:
            began = controller.clock.ticks()
            told = await (await client.post("/keys/compromised", json={"wanted": {"site": "Oslo"}})).json()
            await eventually(lambda: not any(opens(node, bad) for node in (controller, *others)))
            assert controller.clock.ticks() - began < 2.0
        assert (told["condemned"], told["turned"]) == ([stolen], {})
        assert all(opens(node, text) for node in (controller, *others) for text in good)
        assert controller.holder.ring.ids == sealed
        assert (await controller.overlay.get(Site, "Oslo")).state == "removed"


async def test_each_of_several_controllers_signs_with_a_key_of_its_own(tmp_path):
    first = ControllerNode(tmp_path / "one")
    second = ControllerNode(tmp_path / "two", beside=first)
    first.shared, both = True, (first, second)
    try:
        for node in both:
            node.signs = True
            await node.start()
        await ready(*both)
        assert [node.follower.signers.owner(jws.read(signed(node)).kid) for node in both] == [
            "@controller/one",
            "@controller/two",
        ]
        for node in both:
            for text in (signed(first), signed(second)):
                await eventually(lambda node=node, text=text: opens_soon(node, text))
    finally:
        for node in both:
            await node.stop()


async def test_who_was_removed_or_has_not_joined_offers_no_key(tmp_path):
    async with running(tmp_path, ("RegionOne",)) as cloud:
        keys, cluster = cloud.controller.signing_keys, cloud.controller.authority.cluster
        private = ec.generate_private_key(ec.SECP256R1())
        public = jws.der(private.public_key())
        await cloud.controller.sites.invite("Oslo")
        await cloud.controller.sites.remove("RegionOne")
        for owner in ("Oslo", "RegionOne"):
            said = f"regional-keystone signing offer 1\x00{cluster}\x00{owner}\x00".encode() + public
            with pytest.raises(Conflict, match="no site of this federation"):
                await keys.offer(owner, public, private.sign(said, ec.ECDSA(hashes.SHA256())))


async def test_a_place_is_allowed_domains_that_are_there_and_nothing_else(tmp_path):
    async with running(tmp_path, ("RegionOne",)) as cloud:
        keys = cloud.controller.signing_keys
        await cloud.controller.write(project("p1"))
        for absent in ("p1", "nowhere"):
            with pytest.raises(NotFound, match="domain"):
                await keys.allow("RegionOne", [absent], system=None)
        with pytest.raises(NotFound, match="site"):
            await keys.allow("Nowhere", None, system=True)
        await cloud.controller.sites.remove("RegionOne")
        with pytest.raises(NotFound, match="site"):
            await keys.allow("RegionOne", None, system=True)
