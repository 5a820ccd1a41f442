"""The short road says nothing or what the long road says; and what it must never forget to ask."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regional_keystone.errors import IdentityError
from regional_keystone.fastpath import Derived, FastPath
from regional_keystone.keys import KeyRing, digest
from regional_keystone.log import put, remove
from regional_keystone.model import Endpoint, Group, Implication, Membership, Project, Role, User
from regional_keystone.record import facts
from regional_keystone.revocation import RevocationIndex
from tests.site.realm import KEYS, ROLE, SCOPE_P, SYSTEM, P, U, endpoint, grant, realm

V, G = "ac" * 16, "99" * 16
HOUR = 3_600_000_000


@pytest.fixture
async def place(tmp_path):
    async with realm(tmp_path) as made:
        made.change(
            put(
                User(id=V, name="v", domain_id="default", password_hash=(await made.overlay.get(User, U)).password_hash)
            )
        )
        made.change(put(grant(V, P, "admin")), put(grant(U, "system", "reader", target="system")))
        yield made


async def remembered(place, scope=SCOPE_P, user=U):
    issued = await place.login(scope, user=user)
    await place.validator.check(issued.text)
    return issued.text


def hit(place, caller, subject, **more):
    return place.fastpath.ask(caller, subject, more.pop("catalog", True), more.pop("now", place.clock.now()), **more)


async def test_a_hit_is_what_the_long_road_says(place):
    mine, admins = await remembered(place), await remembered(place, user=V)
    for catalog in (True, False):
        said = (await place.forgetful().check(mine)).body(catalog=catalog)
        assert hit(place, admins, mine, catalog=catalog) == said
        assert (b'"catalog"' in said) is catalog
    assert hit(place, mine, mine) == hit(place, admins, mine)


async def test_what_was_never_seen_takes_the_long_road(place):
    mine, unseen = await remembered(place), (await place.login()).text
    assert hit(place, mine, unseen) is None
    assert hit(place, unseen, mine) is None
    for strange in ("", "é", "\ud800", mine + "=", mine + "\n"):
        assert hit(place, mine, strange) is None
        assert hit(place, strange, mine) is None


async def test_a_caller_without_right_to_it_gets_nothing_from_the_short_road(place):
    mine, admins = await remembered(place), await remembered(place, user=V)
    assert hit(place, mine, admins) is None
    assert hit(place, admins, mine) is not None
    assert hit(place, mine, await remembered(place, None)) is not None, "a user may validate its own tokens"


async def test_head_has_a_policy_of_its_own(place):
    place.change(put(grant(V, P, "service")), remove(grant(V, P, "admin")))
    mine, services = await remembered(place), await remembered(place, user=V)
    assert hit(place, services, mine) is not None
    assert hit(place, services, mine, head=True) is None
    assert hit(place, mine, mine, head=True) is not None


@pytest.mark.parametrize("whose", ["caller", "subject"])
async def test_a_hit_never_outlives_a_revocation(place, whose):
    mine, admins = await remembered(place), await remembered(place, user=V)
    assert hit(place, admins, mine)
    place.revoke(user_id=V if whose == "caller" else U)
    assert hit(place, admins, mine) is None
    assert hit(place, admins, mine) is None


async def test_a_revocation_that_is_in_the_index_before_the_log_has_it_counts(place):
    mine = await remembered(place)
    assert hit(place, mine, mine)
    from regional_keystone.revocation import Revocation

    now = place.clock.now()
    place.known.index.add(Revocation(issued_before=now, revoked_at=now, user_id=U), now + HOUR)
    assert hit(place, mine, mine) is None


async def test_another_index_is_asked_as_well(place):
    mine = await remembered(place)
    token = (await place.validator.check(mine)).token
    old, place.known.index = place.known.index, RevocationIndex()
    assert hit(place, mine, mine)
    place.known.index = old
    place.revoke(audit_id=token.audit_id)
    assert hit(place, mine, mine) is None


async def test_a_hit_ends_with_the_token(place):
    mine = await remembered(place)
    expires_at = (await place.validator.check(mine)).expires_at
    assert hit(place, mine, mine, now=expires_at - 1)
    assert hit(place, mine, mine, now=expires_at) is None


async def test_a_token_of_a_clock_far_ahead_is_no_hit(place):
    mine = await remembered(place)
    assert hit(place, mine, mine, now=place.clock.now() - 61_000_000) is None


async def test_a_key_that_is_taken_away_takes_its_tokens_along(place):
    mine = await remembered(place)
    place.known.ring = KeyRing({0: KEYS[2], 1: KEYS[1], 2: KEYS[0]}, 2)
    assert hit(place, mine, mine), "a rotation keeps what it sealed"
    place.known.ring = KeyRing({0: KEYS[3], 2: KEYS[0], 3: KEYS[2]}, 3)
    assert hit(place, mine, mine) is None


async def test_old_knowledge_gives_no_hit_for_the_system(place):
    mine, systems = await remembered(place), await remembered(place, SYSTEM)
    place.known.age = 30.5
    assert hit(place, systems, systems) is None
    assert hit(place, systems, mine) is None, "nor by a caller with the system as scope"
    assert hit(place, mine, mine)
    place.known.age = 29.5
    assert hit(place, systems, systems)


CHANGES = {
    "role taken": lambda: remove(grant(U, P, "member")),
    "role given": lambda: put(grant(U, P, "service")),
    "group joined": lambda: put(Membership(user_id=U, group_id=G)),
    "inherited role": lambda: put(grant(U, "default", "service", target="domain", inherited=True)),
    "implication": lambda: put(Implication(prior_role_id=ROLE["reader"], implied_role_id=ROLE["service"])),
    "role renamed": lambda: put(Role(id=ROLE["member"], name="citizen"), Role(id=ROLE["member"], name="member")),
    "user renamed": lambda: put(User(id=U, name="w", domain_id="default"), User(id=U, name="u", domain_id="default")),
    "user disabled": lambda: put(User(id=U, name="u", domain_id="default", enabled=False)),
    "project renamed": lambda: put(Project(id=P, name="q", domain_id="default", parent_id="default")),
    "project moved": lambda: put(Project(id=P, name="p", domain_id="default", parent_id=None)),
    "domain disabled": lambda: put(Project(id="default", name="Default", is_domain=True, enabled=False)),
    "endpoint made": lambda: put(endpoint("RegionOne", "http://new/")),
    "endpoint gone": lambda: remove(endpoint("RegionOne", "http://RegionOne/v3")),
}


@pytest.mark.parametrize("what", CHANGES)
async def test_a_change_of_what_a_verdict_says_makes_it_stale(place, what):
    mine = await remembered(place)
    assert hit(place, mine, mine)
    place.change(CHANGES[what]())
    assert hit(place, mine, mine) is None


async def test_a_change_elsewhere_leaves_a_verdict_alone(place):
    mine = await remembered(place)
    place.change(put(Group(id=G, name="g", domain_id="default")), put(grant(V, P, "reader")))
    place.change(put(Project(id="cc" * 16, name="other", domain_id="default", parent_id="default")))
    assert hit(place, mine, mine)


async def test_what_was_computed_before_a_change_is_not_remembered_after_it(place):
    verdict = await place.forgetful().check((await place.login(SCOPE_P)).text)
    place.change(remove(grant(U, P, "member")))
    assert not place.fastpath.remember(verdict)
    assert place.fastpath.verdict(verdict.digest, place.clock.now()) is None


async def test_what_is_older_than_the_window_of_changes_is_not_remembered(place):
    verdict = await place.forgetful().check((await place.login(SCOPE_P)).text)
    for number in range(5000):
        place.fastpath.disturb(place.overlay.position + 1 + number, {("regions", str(number))})
    assert not place.fastpath.remember(verdict)


async def test_nothing_is_left_after_forget_all(place):
    mine = await remembered(place)
    place.fastpath.forget_all()
    assert hit(place, mine, mine) is None
    assert len(place.fastpath) == 0
    assert await remembered(place)


async def test_memory_is_bounded_and_what_is_used_stays(tmp_path):
    async with realm(tmp_path, remembered=20) as place:
        mine = await remembered(place)
        for _ in range(100):
            await remembered(place, None)
            assert hit(place, mine, mine)
        assert len(place.fastpath) <= 20


async def test_derived_things_are_bounded_and_their_touches_forgotten(place):
    path = FastPath(place.known, 10)
    for number in range(100):
        assert path.keep(Derived(number, frozenset({("users", str(number)), ("roles",)}), place.known.position))
    assert path.recall(5) is None
    assert path.recall(99) is not None
    assert len(path._readers) == 11
    path.disturb(place.known.position + 1, {("roles",)})
    assert not path._readers
    assert path.recall(99) is None


# --- any history -----------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), st.sampled_from([U, V, G]), st.sampled_from([P, "default", "system"]), st.sampled_from(sorted(ROLE)), st.booleans()),
        st.tuples(st.just("ungrant"), st.sampled_from([U, V, G]), st.sampled_from([P, "default", "system"]), st.sampled_from(sorted(ROLE)), st.booleans()),
        st.tuples(st.just("join"), st.sampled_from([U, V])),
        st.tuples(st.just("leave"), st.sampled_from([U, V])),
        st.tuples(st.just("imply"), st.sampled_from(sorted(ROLE)), st.sampled_from(sorted(ROLE))),
        st.tuples(st.just("enable"), st.sampled_from([U, V, P, "default"]), st.booleans()),
        st.tuples(st.just("rename"), st.sampled_from([U, V, P, "default"])),
        st.tuples(st.just("endpoint"), st.sampled_from(["http://a/$(project_id)s", "http://b", "http://c/%(user_id)s"])),
        st.tuples(st.just("revoke"), st.sampled_from(["user_id", "project_id", "role_id", "audit_id", "audit_chain_id"]), st.integers(0, 5)),
        st.tuples(st.just("pass"), st.sampled_from([0.5, 1, 1800, 3600])),
        st.tuples(st.just("turn"), st.booleans()),
        st.tuples(st.just("age"), st.sampled_from([0.0, 31.0])),
        st.tuples(st.just("login"), st.sampled_from([U, V]), st.sampled_from([None, SCOPE_P, SYSTEM, {"domain": {"id": "default"}}])),
        st.tuples(st.just("check"), st.integers(0, 5)),
        st.tuples(st.just("race"), st.integers(0, 5), st.integers(0, 8), st.booleans()),
    ),
    min_size=5, max_size=30,
)  # fmt: skip


class History:
    """A realm that lives through steps; after each, every pair of tokens is asked about on both roads."""

    def __init__(self, place):
        self.place, self.tokens = place, []

    async def run(self, steps):
        for step in steps:
            await getattr(self, step[0].replace("pass", "elapse"))(*step[1:])
            await self.compare()

    async def compare(self):
        place = self.place
        for caller in self.tokens:
            for subject in self.tokens:
                for head in (False, True):
                    said = place.fastpath.ask(caller, subject, True, place.clock.now(), head=head)
                    if said is not None:
                        assert said == await self.long_road(caller, subject, head)

    async def long_road(self, caller, subject, head):
        validator = self.place.forgetful()
        principal, _ = await validator.proven(caller)
        verdict = await validator.check(subject)
        action = "identity:check_token" if head else "identity:validate_token"
        self.place.policy.check(principal, action, {"target": {"token": {"user_id": verdict.token.user_id}}})
        return verdict.body()

    async def login(self, user, scope):
        try:
            self.tokens.append((await self.place.login(scope, user=user)).text)
            del self.tokens[:-6]
            await self.check(len(self.tokens) - 1)
        except IdentityError:
            pass

    async def check(self, number):
        if number < len(self.tokens):
            try:
                await self.place.validator.check(self.tokens[number])
            except IdentityError:
                pass

    async def race(self, number, turns, there):
        """A role comes or goes while the long road is on its way."""

        async def later():
            for _ in range(turns):
                await asyncio.sleep(0.0003)
            await self.set(grant(U, P, "service"), there)

        self.place.fastpath.forget_all()
        await asyncio.gather(self.check(number), later())

    async def grant(self, actor_id, target_id, role, inherited, *, there=True):
        target = {"default": "domain", "system": "system"}.get(target_id, "project")
        actor = "group" if actor_id == G else "user"
        row = grant(actor_id, target_id, role, target=target, actor=actor, inherited=inherited and target != "system")
        await self.set(row, there)

    async def ungrant(self, *row):
        await self.grant(*row, there=False)

    async def join(self, user, there=True):
        await self.set(Membership(user_id=user, group_id=G), there)

    async def leave(self, user):
        await self.join(user, there=False)

    async def imply(self, prior, implied):
        row = Implication(prior_role_id=ROLE[prior], implied_role_id=ROLE[implied])
        await self.set(row, await self.place.overlay.get(Implication, row.prior_role_id, row.implied_role_id) is None)

    async def enable(self, one, enabled):
        await self.alter(one, enabled=enabled)

    async def rename(self, one):
        await self.alter(one, name=f"n{self.place.overlay.position}")

    async def endpoint(self, url):
        row = endpoint("RegionOne", url)
        await self.set(row, await self.place.overlay.get(Endpoint, row.id) is None)

    async def revoke(self, trait, number):
        if trait.startswith("audit"):
            if number >= len(self.tokens):
                return
            try:
                value = (await self.place.validator.check(self.tokens[number])).token.audit_id
            except IdentityError:
                return
        else:
            value = {"user_id": (U, V), "project_id": (P,), "role_id": tuple(ROLE.values())}[trait]
            value = value[number % len(value)]
        self.place.revoke(**{trait: value})

    async def elapse(self, seconds):
        await self.place.clock.advance(seconds)

    async def turn(self, forget):
        known = self.place.known
        if known.ring.epoch < 5:  # as many keys as there are
            retire = [number for number in known.ring.numbers if 0 < number < known.ring.primary] if forget else []
            known.ring = known.ring.rotated(KEYS[known.ring.epoch + 1], retire)

    async def age(self, seconds):
        self.place.known.age = seconds

    async def set(self, row, there):
        old = await self.place.overlay.get(type(row), *facts(type(row)).key_of(row))
        if there and old != row:
            self.place.change(put(row, old))
        elif not there and old is not None:
            self.place.change(remove(old))

    async def alter(self, one, **fields):
        import msgspec

        kind = User if one in {U, V} else Project
        old = await self.place.overlay.get(kind, one)
        self.place.change(put(msgspec.structs.replace(old, **fields), old))


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_for_any_history_the_short_road_says_nothing_or_what_the_long_road_says(steps):
    async def live(directory):
        async with realm(directory) as place:
            hashed = (await place.overlay.get(User, U)).password_hash
            place.change(put(User(id=V, name="v", domain_id="default", password_hash=hashed)))
            place.change(put(grant(V, P, "admin")), put(grant(U, "system", "reader", target="system")))
            place.change(put(Group(id=G, name="g", domain_id="default")))
            history = History(place)
            for user, scope in ((U, SCOPE_P), (V, SCOPE_P), (U, SYSTEM), (U, None)):
                await history.login(user, scope)
            await history.run(steps)

    directory = Path(tempfile.mkdtemp())
    try:
        asyncio.run(live(directory))
    finally:
        shutil.rmtree(directory)


async def test_digests_name_the_canonical_text(place):
    mine = await remembered(place)
    assert place.fastpath.verdict(digest(mine), place.clock.now()) is not None
