"""What one process found, another uses; and whatever is done to the cache, answers are those without it."""

import asyncio
import dataclasses
import json
import os
import pickle
import random
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regional_keystone import __version__
from regional_keystone import site as site_
from regional_keystone.adapters.local import SystemClock
from regional_keystone.backends import region_cache
from regional_keystone.enrol import Identity, JoinToken
from regional_keystone.errors import StoreRefused, Unavailable
from regional_keystone.fastpath import Facts
from regional_keystone.log import put, remove
from regional_keystone.messages import Request
from regional_keystone.model import Implication, Membership, Project, Role, User
from regional_keystone.passwords import hash_password
from regional_keystone.settings import ConfigurationError, Listen, Settings, Site
from regional_keystone.settings import Memcached as MemcachedSection
from regional_keystone.shared import (
    FORMAT,
    REPAIRED,
    Foreign,
    Garbage,
    Seal,
    _read,
    _written,
    cache_secret,
    note_repair,
    repaired_at,
)
from regional_keystone.shared import _decode as decode_content
from regional_keystone.token import Named, Unscoped
from tests.cloud import eventually
from tests.cloud import running as running_cloud
from tests.site.cache_server import CacheServer
from tests.site.realm import ON_P, ROLE, SCOPE_P, SETTINGS, SYSTEM, P, U, endpoint, grant
from tests.site.region import SECRET, region
from tests.site.test_workers import login
from tests.site.test_workers import region as working

V, G = "ac" * 16, "99" * 16
SCOPES = [SCOPE_P, {"domain": {"id": "default"}}, SYSTEM, None]


@pytest.fixture
def server(memcached):
    made = CacheServer(memcached[0])
    made.flush()
    return made


@pytest.fixture
def mortal(memcached):
    """A server that a test may stop; it is healed afterwards."""
    made = CacheServer(memcached[1])
    made.flush()
    return made


async def furnished(made):
    """U reads the system, the domain and p; V is an administrator."""
    template = await made.overlay.get(User, U)
    made.change(
        put(User(id=V, name="v", domain_id="default", password_hash=template.password_hash)),
        put(grant(V, P, "admin")),
        put(grant(U, "system", "reader", target="system")),
        put(grant(U, "default", "reader", target="domain")),
    )
    await made.apply()


@pytest.fixture
async def place(tmp_path):
    async with region(tmp_path) as made:
        await furnished(made)
        yield made


async def token(place, scope=SCOPE_P, user=U):
    return (await place.login(scope, user=user)).text


async def filled(place, server, text):
    """A process that has put what this token needs into the cache, and the entry."""
    first = await place.process(server)
    assert b'"token"' in await first.says(text)
    await first.written()
    (key,) = server.keys()
    return first, key, server.entries()[key]


# --- one finds, all use ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", SCOPES)
async def test_what_one_process_has_validated_costs_another_no_read(place, server, scope):
    text, other = await token(place, scope), await token(place, scope, V) if scope == SCOPE_P else None
    first, second, without = [await place.process(one) for one in (server, server, None)]
    if scope is not None:
        await second.validator.catalog()  # each process renders catalogs by itself
    said = await first.says(text)
    await first.written()
    second.store.asked.clear()
    assert await second.says(text) == said == await without.says(text)
    assert b'"token"' in said
    assert set(second.store.asked) <= {("ServiceProvider",)}  # what all tokens offer each process reads by itself, once
    assert (first.lookups, second.lookups) == ({"miss": 1}, {"hit": 1})
    assert other is None or await second.says(other) == await without.says(other)


async def test_a_hit_is_remembered_and_the_cache_not_asked_again(place, server):
    text = await token(place)
    await filled(place, server, text)
    second = await place.process(server)
    for _ in range(3):
        await second.says(text)
    await second.says(await token(place))
    assert second.lookups == {"hit": 1}


async def test_each_process_renders_the_catalog_that_its_own_settings_ask_for(place, server):
    place.change(put(endpoint("RegionOne", "see:$(public_endpoint)s/v3", interface="internal")))
    await place.apply()
    text = await token(place)
    fronts = ["https://one", "https://two"]
    settings = [dataclasses.replace(SETTINGS, listen=Listen(public_endpoint=front)) for front in fronts]
    processes = [await place.process(server, settings=one) for one in settings]
    for process, front in zip(processes, fronts, strict=True):
        assert f"see:{front}/v3".encode() in await process.says(text)
        await process.written()
    assert processes[1].lookups == {"hit": 1}


async def test_nothing_that_is_stored_can_be_read(place, server):
    text = await token(place)
    _, key, entry = await filled(place, server, text)
    for word in (U, P, ROLE["member"], "member", "default", "RegionOne", text, text[:40], "grants"):
        assert word.encode() not in entry
        assert word not in key
    assert Seal(bytes(64), region="RegionOne", cluster="cluster").name(U, "ProjectScope", P) not in key


async def test_nobody_who_is_refused_leaves_anything(place, server):
    """What strangers ask must not push out what is used."""
    process = await place.process(server)
    good = await token(place)
    refused = ["x", good[:-8] + "AAAAAAAA", await token(place, None, V)]
    place.change(remove(User(id=V, name="v", domain_id="default")))
    for text in refused * 20:
        assert (await process.says(text))[0] == "NotFound"
    await process.written()
    assert server.keys() == []


# --- what is done to it ----------------------------------------------------------------------------------------------


def spoilt(entry):
    """Every way to damage an entry, by name."""
    size = Seal._HEADER.size
    parts = {"format": 0, "whose": 3, "salt": 12, "number": 30, "position": 40, "time": 48, "content": size, "tag": -1}
    for name, place in parts.items():
        changed = bytearray(entry)
        changed[place] ^= 1
        yield name, bytes(changed)
    for length in (0, 1, size - 1, size, size + 15, size + 16, len(entry) - 16, len(entry) - 1):
        yield f"cut to {length}", entry[:length]
    admin = {"who": V, "roles": ["admin"]}
    yield "longer", entry + b"\x00"
    yield "twice", entry * 2
    yield "random", random.Random(1).randbytes(len(entry))
    yield "json", json.dumps(admin).encode()
    yield "pickle", pickle.dumps(admin)
    yield "msgpack", msgspec.msgpack.encode(admin)
    yield "plain with our header", entry[:size] + msgspec.msgpack.encode(admin) + bytes(16)


async def test_a_damaged_entry_is_a_miss_and_nothing_else(place, server):
    text = await token(place)
    _, key, entry = await filled(place, server, text)
    without = await (await place.process()).says(text)
    for name, value in spoilt(entry):
        server.write({key: value})
        victim = await place.process(server)
        assert await victim.says(text) == without, name
        assert victim.lookups in ({"garbage": 1}, {"foreign": 1}), name
        if name in ("format", "whose", "salt", "number", "position", "time", "content", "tag"):
            assert victim.lookups == {"foreign" if name in ("format", "whose") else "garbage": 1}
        await victim.written()
        healed = await place.process(server)
        assert await healed.says(text) == without
        assert healed.lookups == {"hit": 1}, "what was spoilt is written again"


async def test_entries_swapped_between_users_and_scopes_are_misses(place, server):
    texts = [await token(place, scope) for scope in SCOPES] + [await token(place, user=V)]
    first, without = await place.process(server), await place.process()
    said = [await without.says(text) for text in texts]
    assert len(set(said)) == len(texts)
    for text in texts:
        await first.says(text)
    await first.written()
    entries = server.entries()
    assert len(entries) == len(texts)
    for shift in range(1, len(texts)):
        values = list(entries.values())
        server.write(dict(zip(entries, values[shift:] + values[:shift], strict=True)))
        victim = await place.process(server)
        assert [await victim.says(text) for text in texts] == said
        assert victim.lookups == {"garbage": len(texts)}
        await victim.written()


OTHERS = {
    "region": Seal(SECRET, region="RegionTwo", cluster="cluster"),
    "cluster": Seal(SECRET, region="RegionOne", cluster="another"),
    "version": Seal(SECRET, region="RegionOne", cluster="cluster", version=f"{__version__}.1"),
    "secret": Seal(SECRET[:-1] + b"x", region="RegionOne", cluster="cluster"),
}


@pytest.mark.parametrize("which", OTHERS)
async def test_an_entry_of_another_region_cluster_version_or_secret_is_foreign(place, server, which):
    text = await token(place)
    _, key, _ = await filled(place, server, text)
    other = await place.process(server, seal=OTHERS[which])
    await other.says(text)
    await other.written()
    assert other.lookups == {"miss": 1}, "it has names of its own"
    (theirs,) = set(server.keys()) - {key}
    server.write({key: server.entries()[theirs]})
    victim = await place.process(server)
    assert b'"token"' in await victim.says(text)
    assert victim.lookups == {"foreign": 1}


async def test_a_server_full_of_another_programs_values(place, server):
    text = await token(place)
    _, key, _ = await filled(place, server, text)
    with server.attacker() as attacker:
        attacker.set(key, b"S'whatever'\np0\n.", expire=300, flags=1)
    victim = await place.process(server)
    assert b'"token"' in await victim.says(text)
    assert victim.lookups == {"foreign": 1} or victim.lookups == {"garbage": 1}


# --- what was true once ----------------------------------------------------------------------------------------------

CHANGES = {
    "role taken": lambda: [remove(grant(U, P, "member"))],
    "role given": lambda: [put(grant(U, P, "admin"))],
    "user disabled": lambda: [put(User(id=U, name="u", domain_id="default", enabled=False))],
    "user gone": lambda: [remove(User(id=U, name="u", domain_id="default"))],
    "project disabled": lambda: [put(Project(id=P, name="p", domain_id="default", parent_id="default", enabled=False))],
    "group joined": lambda: [put(Membership(user_id=U, group_id=G)), put(grant(G, P, "admin", actor="group"))],
    "implication gone": lambda: [remove(Implication(prior_role_id=ROLE["member"], implied_role_id=ROLE["reader"]))],
    "role renamed": lambda: [put(Role(id=ROLE["member"], name="m"), Role(id=ROLE["member"], name="member"))],
    "domain renamed": lambda: [put(Project(id="default", name="D", is_domain=True))],
}


@pytest.mark.parametrize("what", CHANGES)
async def test_an_old_entry_put_back_after_a_change_is_stale(place, server, what):
    text = await token(place)
    _, key, entry = await filled(place, server, text)
    victims = [await place.process(server, remembered=1) for _ in range(2)]
    without = await place.process()
    await victims[0].says(text)
    before = await without.says(text)
    place.change(*CHANGES[what]())
    for victim in victims:
        server.write({key: entry})
        after = await victim.says(text)
        assert after == await without.says(text) != before
        assert victim.lookups.get("stale") == 1
        await victim.written()  # what it has looked up takes the old one's place, and not that of the next


async def test_an_old_entry_put_back_after_a_new_password_saves_no_token(place, server):
    text = await token(place)
    _, key, entry = await filled(place, server, text)
    victim = await place.process(server)
    old = await place.overlay.get(User, U)
    await place.clock.advance(5)
    changed = msgspec.structs.replace(old, password_hash=await hash_password("another one", 4))
    place.change(put(changed, old))
    place.revoke(user_id=U)
    server.write({key: entry})
    assert await victim.says(text) == ("NotFound", "Failed to validate token")


async def test_a_hit_skips_neither_revocation_nor_expiry_nor_freshness(place, server):
    texts = [await token(place), await token(place), await token(place, SYSTEM)]
    first = await place.process(server)
    for text in texts:
        await first.says(text)
    await first.written()
    audit_id = (await first.validator.check(texts[0])).token.audit_id
    place.revoke(audit_id=audit_id)
    second = await place.process(server)  # it begins where the log ends, so what is there is too old for it
    for text in texts:
        await second.says(text)
    await second.written()
    third = await place.process(server)
    third.known.age = 31.0
    assert await third.says(texts[0]) == ("NotFound", "Failed to validate token")
    assert b'"token"' in await third.says(texts[1])
    assert (await third.says(texts[2]))[0] == "Unavailable"
    assert third.lookups == {"hit": 2}
    await place.clock.advance(3599)
    fourth = await place.process(server, ttl_s=10_000)
    assert b'"token"' in await fourth.says(texts[1])
    await place.clock.advance(2)
    assert (await fourth.says(texts[1]))[0] == "NotFound"


async def test_what_was_found_before_a_process_began_is_not_believed(place, server):
    """It does not know what was changed between."""
    text = await token(place)
    _, key, entry = await filled(place, server, text)
    place.change(remove(grant(U, P, "member")), put(grant(U, P, "reader")))
    fresh, without = await place.process(server), await place.process()
    server.write({key: entry})
    assert await fresh.says(text) == await without.says(text)
    assert fresh.lookups == {"old": 1}


@pytest.mark.parametrize(("earlier", "result"), [(0, "old"), (1, "hit")])
async def test_what_may_have_been_made_of_a_row_that_was_put_right_is_not_believed_by_who_begins_later(
    place, server, earlier, result
):
    text = await token(place)
    first, _, _ = await filled(place, server, text)
    later = await place.process(server, repaired=first.known.position - earlier)
    assert await later.says(text) == await (await place.process()).says(text)
    assert later.lookups == {result: 1}


async def test_how_far_rows_were_put_right_is_remembered_and_doubted_where_it_cannot_be_read(tmp_path):
    path = tmp_path / REPAIRED
    assert repaired_at(path) == 0
    await note_repair(path, 7)
    assert repaired_at(path) == 7
    path.write_text("rubbish")
    assert repaired_at(path) > 10**15
    with pytest.raises(Unavailable):
        await note_repair(tmp_path / "nowhere" / REPAIRED, 7)


async def test_a_process_that_is_put_together_late_believes_nothing_from_before(place, server):
    """Even one whose memory nobody has told to start anew."""
    from regional_keystone.fastpath import FastPath

    text = await token(place)
    first, *_ = await filled(place, server, text)
    place.change(remove(grant(U, P, "member")))
    late = FastPath(place.known)
    facts = next(iter(first.fastpath._derived.values()), None)
    assert not late.covers(place.known.position - 1)
    assert late.covers(place.known.position)
    assert facts is None or not late.keep(facts)


async def test_what_is_older_than_the_window_of_changes_is_old(place, server):
    text = await token(place)
    first, key, entry = await filled(place, server, text)
    begun = await place.process(server)
    for number in range(4200):
        begun.fastpath.disturb(place.known.position + 1 + number, {("regions", str(number))})
    begun.known.position = first.known.position = place.known.position + 4200
    server.write({key: entry})
    assert b'"token"' in await begun.says(text)
    assert begun.lookups == {"old": 1}


async def test_after_a_snapshot_replaced_the_replica_nothing_from_before_is_believed(place, server):
    text = await token(place)
    await filled(place, server, text)
    process = await place.process(server)
    process.known.position += 10
    process.fastpath.forget_all()
    await process.says(text)
    assert process.lookups == {"old": 1}


async def test_an_entry_is_no_older_than_its_time_whatever_the_server_says(place, server):
    text = await token(place)
    _, key, entry = await filled(place, server, text)
    await place.clock.advance(301)
    server.write({key: entry})
    process = await place.process(server)
    await process.says(text)
    assert process.lookups == {"old": 1}


async def test_an_entry_from_the_future_is_not_believed(place, server):
    text = await token(place)
    await filled(place, server, text)
    place.clock.jump(-61)
    process = await place.process(server)
    await process.validator.facts(U, ON_P)
    assert process.lookups == {"old": 1}


async def test_a_process_that_is_behind_does_not_mix_newer_facts_with_older_revocations(place, server):
    """A user's tokens are revoked, then the user is made administrator: no old token may ever show that role."""
    text = await token(place)
    behind, ahead = await place.process(server), await place.process(server)
    before = await behind.says(text)
    await place.clock.advance(5)
    behind.fastpath.forget_all()
    behind.lags = True
    place.revoke(user_id=U)
    place.change(put(grant(U, P, "admin")))
    await place.clock.advance(5)
    fresh = await token(place)
    assert b"admin" in await ahead.says(fresh)
    await ahead.written()
    assert await behind.says(text) == before
    assert behind.lookups["ahead"] == 1
    behind.catch_up()
    assert (await behind.says(text))[0] == "NotFound"
    behind.fastpath.recall((U, ON_P)).stale = True
    assert b"admin" in await behind.says(fresh)


# --- asked together, written in between ------------------------------------------------------------------------------


async def test_many_who_ask_for_the_same_ask_the_store_once(place, server):
    texts = [await token(place) for _ in range(20)]
    for cached in (server, None):
        process = await place.process(cached)
        said = await asyncio.gather(*(process.says(text) for text in texts * 3))
        assert len(set(said)) == 20
        assert [kind for kind, *_ in process.store.asked].count("User") == 1
        assert process.validator._under_way == {}


async def test_one_who_goes_away_takes_nobody_along(place, server):
    text = await token(place)
    process = await place.process(server)
    tasks = [asyncio.create_task(process.says(text)) for _ in range(10)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    said = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(said[0], asyncio.CancelledError)
    assert set(said[1:]) == {await process.says(text)}
    assert process.validator._under_way == {}


async def test_one_who_comes_after_a_change_does_not_get_what_was_found_before_it(place, server):
    text = await token(place)
    process = await place.process()
    real = process.store.find
    reached = asyncio.Event()

    async def find(kind, **equals):
        found = await real(kind, **equals)
        if not reached.is_set():
            reached.set()
            await asyncio.sleep(0.05)
        return found

    process.store.find = find
    first = asyncio.create_task(process.says(text))
    await reached.wait()
    place.change(remove(grant(U, P, "member")))
    assert (await process.says(text))[0] == "NotFound"
    assert (await first)[0] == "NotFound"


@pytest.mark.parametrize("how", ["frozen", "killed"])
async def test_a_server_that_is_away_delays_an_answer_by_its_deadline_and_no_more(place, mortal, how):
    text, more = await token(place), [await token(place, scope) for scope in SCOPES[1:]]
    await filled(place, mortal, text)
    process = await place.process(mortal, timeout_s=0.05)
    mortal.freeze() if how == "frozen" else mortal.kill()
    began = time.monotonic()
    assert b'"token"' in await process.says(text)
    assert time.monotonic() - began < 2.0
    assert not any(process.shared._cache.servers().values())
    for one in more:
        assert b'"token"' in await process.says(one)
    assert process.shared._cache.failures().total() == 1
    mortal.thaw() if how == "frozen" else mortal.start()
    await eventually(lambda: all(process.shared._cache.servers().values()), 2.0)
    first, second = [await place.process(mortal) for _ in range(2)]
    for one in (first, second):
        one.fastpath.forget_all()
        await one.says(text)
        await one.written()
    assert second.lookups == {"hit": 1}


async def test_evicted_is_a_miss(place, server):
    text = await token(place)
    await filled(place, server, text)
    server.flush()
    process = await place.process(server)
    assert b'"token"' in await process.says(text)
    assert process.lookups == {"miss": 1}


class Stuck:
    """A cache that takes its time."""

    def __init__(self):
        self.taken = []
        self.go_on = asyncio.Event()
        self.closed = False

    async def get_many(self, keys):
        return {}

    async def set_many(self, values, ttl_s):
        self.taken.append(len(values))
        await self.go_on.wait()

    async def close(self):
        self.closed = True


async def test_writing_delays_nobody_is_bounded_and_leaves_no_task(place):
    process = await place.process()
    from regional_keystone.shared import SharedFacts

    before = asyncio.all_tasks()
    cache = Stuck()
    seal = Seal(SECRET, region="RegionOne", cluster="cluster")
    shared = SharedFacts(cache, seal, process.fastpath, process.known, clock=place.clock, ttl_s=300)
    facts = await process.validator.facts(U, Unscoped())
    for number in range(3000):
        shared.offer(f"user {number}", ON_P, facts)
        if number % 100 == 0:
            await asyncio.sleep(0)
    assert len(asyncio.all_tasks() - before) == 1
    assert len(shared._waiting) == 1000
    assert len(cache.taken) == 1
    await shared.close()
    assert asyncio.all_tasks() == before
    assert cache.closed


# --- the seal --------------------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8)
TOUCHES = st.lists(SCALARS | st.lists(SCALARS, max_size=3).map(tuple), min_size=1, max_size=5).map(tuple)
NAMED = st.builds(Named, st.text(max_size=8), st.text(max_size=8), st.none() | st.text(max_size=8))


@given(
    st.frozensets(TOUCHES, max_size=10), NAMED, st.none() | NAMED, st.lists(NAMED, max_size=3).map(tuple), st.binary()
)
def test_facts_come_back_exactly_as_they_went(reads, who, project, roles, text):
    facts = Facts(
        "key", reads, 7, who=who, home_id="d", project=project, domain=None, roles=roles, user=text, rest=text
    )
    back = _read(decode_content(_written(facts)), "key", 7)
    for name in ("key", "reads", "position", "who", "home_id", "project", "domain", "roles", "user", "rest", "catalog"):
        assert getattr(back, name) == getattr(facts, name)
    assert {repr(one) for one in back.reads} == {repr(one) for one in reads}, "True is not 1, a tuple no list"


@given(st.binary(), st.integers(0, 2**63), st.integers(0, 2**63), st.text(), st.text())
def test_only_the_same_name_opens_an_entry_and_every_entry_differs(content, position, at, name, other):
    seal, reader = [Seal(SECRET, region="r", cluster="c") for _ in range(2)]
    entries = [one.seal(name, position, at, content) for one in (seal, seal, reader)]
    assert len(set(entries)) == 3
    for entry in entries:
        opened = reader.open(name, entry)
        assert (opened.position, opened.at, opened.content) == (position, at, content)
        if other != name:
            with pytest.raises(Garbage):
                reader.open(other, entry)


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_are_more_than_refused(entry, framed):
    seal = Seal(SECRET, region="r", cluster="c")
    head = bytes([FORMAT]) + seal._whose if framed else b""
    with pytest.raises((Garbage, Foreign)):
        seal.open("name", head + entry)


def test_names_differ_by_every_part_and_are_the_same_everywhere():
    one, same, other = [Seal(SECRET, region=name, cluster="c") for name in ("r", "r", "s")]
    parts = [("u", "Unscoped"), ("u", "ProjectScope", "p"), ("u", "DomainScope", "p"), ("up", "ProjectScope", ""), ("u", "SystemScope")]  # fmt: skip
    names = [seal.name(*part) for seal in (one, other) for part in parts]
    assert len(set(names)) == 2 * len(parts)
    assert [same.name(*part) for part in parts] == names[: len(parts)]


def test_a_seal_remembers_only_so_many_writers():
    seal = Seal(SECRET, region="r", cluster="c")
    for _ in range(300):
        writer = Seal(SECRET, region="r", cluster="c")
        assert seal.open("n", writer.seal("n", 1, 1, b"x")).content == b"x"
    assert len(seal._others) <= 256


# --- the secret ------------------------------------------------------------------------------------------------------


def test_a_secret_is_made_once_and_for_its_owner_only(tmp_path):
    path = tmp_path / "cache.secret"
    secret = cache_secret(path)
    assert len(secret) == 64
    assert cache_secret(path) == secret
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o400)
    assert cache_secret(path) == secret


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [(b"x" * 64, 0o640, "chmod 600"), (b"x" * 31 + b"\n", 0o600, "openssl rand"), (b"", 0o600, "openssl rand")],
)
def test_what_is_no_secret_is_refused_with_its_cure(tmp_path, content, mode, why):
    path = tmp_path / "cache.secret"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(StoreRefused, match=why) as refused:
        cache_secret(path)
    assert str(path) in str(refused.value)


def test_a_secret_that_can_neither_be_read_nor_made_is_refused(tmp_path):
    with pytest.raises(StoreRefused, match="No such file"):
        cache_secret(tmp_path / "none" / "cache.secret")


# --- any history -----------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("login"), st.sampled_from([U, V]), st.sampled_from(SCOPES)),
        st.tuples(st.just("set"), st.sampled_from(sorted(ROLE)), st.sampled_from([U, V]), st.booleans()),
        st.tuples(st.just("enable"), st.sampled_from([U, P]), st.booleans()),
        st.tuples(st.just("revoke"), st.sampled_from([U, V])),
        st.tuples(st.just("elapse"), st.sampled_from([0.5, 30, 1800])),
        st.tuples(st.just("age"), st.sampled_from([0.0, 31.0])),
        st.tuples(st.just("lag"), st.booleans()),
        st.tuples(st.just("keep")),
        st.tuples(st.just("replay"), st.integers(0, 5)),
        st.tuples(st.just("garble"), st.integers(0, 2**32)),
        st.tuples(st.just("swap"), st.integers(1, 5)),
        st.tuples(st.just("evict")),
        st.tuples(st.just("apply")),
        st.tuples(st.just("restart")),
    ),
    min_size=8,
    max_size=30,
)


class History:
    """Processes with the cache whole, poisoned and frozen, and one without, all asked the same after each step."""

    def __init__(self, place, server, frozen):
        self.place, self.server, self.frozen = place, server, frozen
        self.texts, self.kept = [], []

    async def run(self, steps):
        self.without = await self.place.process()
        self.cached = [await self.place.process(self.server, remembered=1) for _ in range(2)]
        self.cached.append(await self.place.process(self.frozen, timeout_s=0.01, remembered=1))
        for step in [("login", U, SCOPE_P), ("login", V, SCOPE_P), *steps]:
            await getattr(self, step[0])(*step[1:])
            await self.compare()

    async def compare(self):
        for text in self.texts:
            said = await self.without.says(text)
            for process in self.cached:
                if not process.lags:
                    assert await process.says(text) == said
                    await process.written()

    async def login(self, user, scope):
        from regional_keystone.errors import IdentityError

        try:
            self.texts.append(await token(self.place, scope, user))
            del self.texts[:-4]
        except IdentityError:
            pass

    async def set(self, role, user, there):
        row = grant(user, P, role)
        self.place.change(put(row) if there else remove(row))

    async def enable(self, whose, enabled):
        kind = User if whose == U else Project
        old = await self.place.overlay.get(kind, whose)
        self.place.change(put(msgspec.structs.replace(old, enabled=enabled), old))

    async def revoke(self, user):
        self.place.revoke(user_id=user)

    async def elapse(self, seconds):
        await self.place.clock.advance(seconds)

    async def age(self, seconds):
        for process in (self.without, *self.cached):
            process.known.age = seconds

    async def lag(self, lags):
        """One fills the cache from behind, or learns everything at once."""
        if lags:
            self.cached[0].lags = True
        else:
            self.cached[0].catch_up()

    async def keep(self):
        self.kept.append(self.server.entries())
        del self.kept[:-6]

    async def replay(self, number):
        if number < len(self.kept):
            self.server.write(self.kept[number])

    async def garble(self, seed):
        chance = random.Random(seed)
        for key, value in self.server.entries().items():
            changed = bytearray(value)
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
            self.server.write({key: bytes(changed)})

    async def swap(self, shift):
        entries = {key: value for kept in (*self.kept, self.server.entries()) for key, value in kept.items()}
        values = list(entries.values())
        shift %= max(1, len(values))
        self.server.write(dict(zip(entries, values[shift:] + values[:shift], strict=True)))

    async def evict(self):
        self.server.flush()

    async def apply(self):
        for process in self.cached:
            process.catch_up()
        await self.place.apply()

    async def restart(self):
        """One of those with a cache begins anew."""
        await self.apply()
        old = self.cached.pop(1)
        self.place.processes.remove(old)
        await old.shared.close()
        age = old.known.age
        self.cached.insert(1, await self.place.process(self.server, remembered=1))
        self.cached[1].known.age = age


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_answers_are_the_same_with_the_cache_on_off_poisoned_and_frozen(tmp_path_factory, server, mortal, steps):
    mortal.freeze()

    async def run():
        async with region(tmp_path_factory.mktemp("history")) as place:
            await furnished(place)
            server.flush()
            await History(place, server, mortal).run(steps)

    asyncio.run(run())


# --- a whole site ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def cloud(tmp_path):
    async with running_cloud(tmp_path, ()) as made:
        hashed = await hash_password("correct horse", 4)
        user = User(id="u", domain_id="default", name="u", password_hash=hashed)
        await made.controller.write(Project(id="default", name="Default", is_domain=True), user)
        yield made


async def test_a_site_shares_through_the_servers_that_are_named_and_says_what_comes_of_it(cloud, server, tmp_path):
    identity = Identity(tmp_path / "site" / "identity")
    await identity.join(JoinToken.read(await cloud.controller.sites.invite("RegionOne")))
    section = MemcachedSection(servers=(server.address,), timeout_s=30.0)
    settings = Settings(site=Site(state_dir=tmp_path / "site"), memcached=section)
    async with AsyncExitStack() as stack:
        site = site_.Site(settings, SystemClock(), identity)
        await site.build(stack)
        tasks = [asyncio.create_task(one) for one in site.tasks()]
        await eventually(lambda: site.part.follower.projected > 0 and site.part.follower.age_s() < 2)
        user = {"name": "u", "domain": {"id": "default"}, "password": "correct horse"}
        auth = {"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}}
        body = json.dumps(auth).encode()
        asked = Request(id="1", method="POST", path="/v3/auth/tokens", body=body)
        assert (await site.door.api.answer(asked)).status == 201
        await eventually(lambda: len(server.keys()) == 1)
        exported = site.door.metrics.text().decode()
        for line in (
            'cache_lookups_total{result="miss"} 1.0',
            'cache_lookups_total{result="hit"} 0.0',
            f'cache_up{{server="{server.address}"}} 1.0',
        ):
            assert f"regional_keystone_{line}\n" in exported
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert (tmp_path / "site" / "cache.secret").stat().st_mode & 0o777 == 0o600
    await eventually(lambda: not any(one.name.startswith("cache") for one in threading.enumerate()))


@pytest.mark.parametrize("section", [{"servers": ("nowhere:0",)}, {"servers": ("a:1",), "tls_ca": Path("none.pem")}])
def test_servers_that_cannot_be_meant_are_a_wrong_setting(section):
    with pytest.raises(ConfigurationError, match=r"\[memcached\]"):
        region_cache(Settings(memcached=MemcachedSection(**section)))


def test_without_servers_there_is_no_cache():
    assert region_cache(Settings()) is None


async def validated(part, text):
    """The answer of one process of a site to a token that asks for itself."""
    headers = {"x-auth-token": text, "x-subject-token": text}
    answer = await part.door.api.answer(
        Request(id=os.urandom(8).hex(), method="GET", path="/v3/auth/tokens", headers=headers)
    )
    return answer.status, answer.body


async def test_a_token_validated_by_one_worker_is_a_hit_for_the_others_until_something_changes(tmp_path, server):
    section = MemcachedSection(servers=(server.address,), timeout_s=30.0)

    def prepare(cell):
        cell.settings = dataclasses.replace(cell.settings, memcached=section)

    async with working(tmp_path, prepare=prepare) as cell:
        text = (await login(cell.site)).headers["X-Subject-Token"]
        await eventually(lambda: len(server.keys()) == 1)
        said = await validated(cell.site, text)
        assert said[0] == 200
        others = [cell.worker(number) for number in cell.processes]
        assert len(others) == 2
        for worker in others:
            assert await validated(worker, text) == said
            assert worker.door.shared.lookups["hit"] == 1
        entries = server.entries()
        user = await cell.site.part.overlay.get(User, "u")
        position = await cell.write(msgspec.structs.replace(user, enabled=False))
        await eventually(lambda: all(worker.part.follower.position >= position for worker in others))
        server.write(entries)
        for process in (cell.site, *others):
            process.door.fastpath._young.clear()
            assert (await validated(process, text))[0] in (401, 404)
            assert process.door.shared.lookups["stale"] == 1
