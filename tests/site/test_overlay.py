import asyncio
from contextlib import asynccontextmanager
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regional_keystone.errors import Unavailable
from regional_keystone.log import LOG, Collision, Entry, disturbed, put, remove
from regional_keystone.model import Endpoint, Grant, Project, Region
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.record import facts
from tests.histories import IDS, KINDS, LIKE, SOME, STEPS, entries_of, found_in, states


class Below:
    """Tables that show a history up to `shown`; every read waits for leave before and after it looks."""

    def __init__(self, entries):
        self.entries = entries
        self.states = states(entries)
        self.shown = 0
        self.waiting = []

    async def pause(self):
        leave = asyncio.get_running_loop().create_future()
        self.waiting.append(leave)
        await leave

    async def get(self, kind, *key):
        await self.pause()
        row = self.states[self.shown].get((kind, key))
        await self.pause()
        return row

    async def find(self, kind, **equals):
        await self.pause()
        rows = found_in(self.states[self.shown], kind, equals)
        await self.pause()
        return rows

    async def page(self, kind, after, limit, like=(), **equals):
        rows = [row for row in await self.find(kind, **equals) if all(rule.admits(row) for rule in like)]
        return [row for row in rows if after is None or facts(kind).key_of(row) > after][:limit]

    async def scan(self, kind):
        last = ()
        while True:  # each row as it is when its turn comes, as pages are
            await self.pause()
            rows = [row for row in found_in(self.states[self.shown], kind, {}) if facts(kind).key_of(row) > last]
            if not rows:
                return
            last = facts(kind).key_of(rows[0])
            await self.pause()
            yield rows[0]

    async def tail(self, feed, after, limit=1000):
        await self.pause()
        return [entry for entry in self.entries[: self.shown] if entry.number > after][:limit]

    async def applied(self, feed):
        return self.shown


ASKS = st.one_of(
    st.tuples(st.just("get"), st.tuples(st.just(Project), IDS)),
    st.tuples(st.just("find"), st.tuples(st.just(Project), st.fixed_dictionaries({"domain_id": SOME}))),
    st.tuples(st.just("find"), st.tuples(st.just(Endpoint), st.fixed_dictionaries({"region_id": SOME}))),
    st.tuples(st.just("find"), st.tuples(st.just(Grant), st.fixed_dictionaries({"target_id": IDS}))),
    st.tuples(
        st.just("page"),
        st.tuples(st.just(Project), st.just({}), st.none() | st.tuples(IDS), st.integers(1, 3), LIKE),
    ),
    st.tuples(
        st.just("page"),
        st.tuples(st.just(Project), st.fixed_dictionaries({"parent_id": SOME}), st.none(), st.integers(1, 3), LIKE),
    ),
    st.tuples(st.just("scan"), st.tuples(st.sampled_from(KINDS))),
    st.tuples(st.just("tail"), st.tuples(st.integers(0, 8), st.integers(1, 4))),
)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), ASKS),
        st.sampled_from([("note",), ("show",), ("drop",), ("settle",)]),
        st.tuples(st.just("leave"), st.integers(0, 5)),
        st.tuples(st.just("replace"), st.integers(1, 3)),
    ),
    max_size=40,
)


async def breathe():
    for _ in range(4):
        await asyncio.sleep(0)


async def answer(overlay, ask, jumps):
    name, arguments = ask
    since, jumped = overlay.position, len(jumps)
    match name:
        case "get":
            found = await overlay.get(arguments[0], arguments[1])
        case "find":
            found = await overlay.find(arguments[0], **arguments[1])
        case "scan":
            found = [row async for row in overlay.scan(arguments[0])]
        case "page":
            kind, equals, after, limit, like = arguments
            found = await overlay.page(kind, after, limit, like, **equals)
        case "tail":
            found = await overlay.tail(LOG, *arguments)
    return ask, since, overlay.position, found, jumped != len(jumps)


def check(below, ask, since, until, found, replaced):
    name, arguments = ask
    until = max(until, below.shown)
    between = below.states[since : until + 1]
    if name == "tail":
        after, limit = arguments
        numbers = [entry.number for entry in found]
        assert numbers == list(range(after + 1, after + 1 + len(found)))
        assert len(found) >= (min(since - after, limit) if after < since and not replaced else 0)
        return
    if name == "get":
        assert found in [state.get((arguments[0], (arguments[1],))) for state in between]
        return
    kind = arguments[0]
    equals = {} if name == "scan" else arguments[1]
    like = arguments[4] if name == "page" else ()
    keys = [facts(kind).key_of(row) for row in found]
    assert keys == sorted(set(keys))
    if name == "find" and not replaced:
        assert found in [found_in(state, kind, equals) for state in between]
        return
    for row in found:
        assert row in [state.get((kind, facts(kind).key_of(row))) for state in between]
    always = set.intersection(
        *({facts(kind).key_of(row) for row in found_in(state, kind, equals, like)} for state in between)
    )
    if name == "page":
        after, limit = arguments[2:4]
        assert len(keys) <= limit
        last = keys[-1] if len(keys) == limit else None
        always = {key for key in always if (after is None or key > after) and (last is None or key <= last)}
        assert all(after is None or key > after for key in keys)
        assert all(getattr(row, one) == value for row in found for one, value in equals.items())
        assert all(rule.admits(row) for row in found for rule in like)
    assert always <= set(keys)


async def run_history(entries, actions):
    below = Below(entries)
    overlay = Overlay(below)
    await overlay.start()
    asked, jumps = [], []
    for action in actions:
        match action:
            case ("ask", ask):
                asked.append(asyncio.create_task(answer(overlay, ask, jumps)))
            case ("note",):
                overlay.note(entries[overlay.position : overlay.position + 1])
                continue  # without giving way
            case ("show",) if below.shown < overlay.position:
                below.shown += 1
                continue
            case ("drop",):
                overlay.drop(below.shown)
                continue
            case ("leave", which) if below.waiting:
                below.waiting.pop(which % len(below.waiting)).set_result(None)
            case ("replace", ahead) if overlay.position + ahead <= len(entries):
                jumps.append(ahead)
                below.shown = overlay.position + ahead
                await overlay.start()
        await breathe()
    while any(not task.done() for task in asked):
        for leave in below.waiting:
            leave.set_result(None)
        below.waiting.clear()
        await asyncio.sleep(0)
    for task in asked:
        check(below, *await task)
    overlay.drop(below.shown)
    if below.shown == overlay.position:
        assert not any(overlay._rows.values())
        assert not overlay._entries


@settings(max_examples=400)
@given(STEPS, ACTIONS)
def test_an_answer_is_never_older_than_the_position_and_whole(steps, actions):
    asyncio.run(run_history(entries_of(steps), actions))


@pytest.mark.parametrize("seed", range(60))
def test_long_crowded_histories(seed):
    """What hypothesis rarely reaches: many reads under way while entries come, are shown and go."""
    random = Random(seed)
    record = lambda: Project(  # noqa: E731
        id=random.choice("abcdef"), name=random.choice("xy"), domain_id=random.choice([None, "a", "b"]),
        description=str(random.random()),
    )  # fmt: skip
    entries = entries_of([[(record(), random.random() < 0.7) for _ in range(3)] for _ in range(60)])
    actions = []
    for _ in range(600):
        actions.append(
            random.choice(
                [
                    ("ask", ("find", (Project, {"domain_id": random.choice([None, "a", "b"])}))),
                    ("ask", ("get", (Project, random.choice("abcdef")))),
                    ("ask", ("scan", (Project,))),
                    ("ask", ("page", (Project, {}, random.choice([None, ("b",)]), random.randint(1, 4), ()))),
                    ("note",), ("note",), ("show",), ("show",), ("drop",), ("drop",),
                    ("leave", random.randrange(6)), ("leave", random.randrange(6)), ("leave", 0),
                    ("replace", 1) if random.random() < 0.05 else ("settle",),
                ]
            )
        )  # fmt: skip
    asyncio.run(run_history(entries, actions))


def a_log(count):
    old = None
    entries = []
    for number in range(1, count + 1):
        new = Region(id="a", description=str(number))
        entries.append(Entry(number, str(number), 0, (put(new, old),)))
        old = new
    return entries


async def test_a_missing_entry_is_refused_and_a_known_one_ignored():
    entries = a_log(3)
    overlay = Overlay(Below([]))
    await overlay.start()
    overlay.note(entries[:1])
    with pytest.raises(ValueError, match="entry 3 cannot follow 1"):
        overlay.note(entries[2:])
    overlay.note(entries[:2])
    assert overlay.position == await overlay.applied(LOG) == 2
    assert await overlay.get(Region, "a") == Region(id="a", description="2")


async def test_a_removed_row_is_gone_at_once():
    below = Below([])
    overlay = Overlay(below)
    region = Region(id="a")
    overlay.note([Entry(1, "1", 0, (put(region),)), Entry(2, "2", 0, (remove(region),))])
    assert await overlay.get(Region, "a") is None


# --- transactions ---------------------------------------------------------------------------------------------------


class Commits:
    """Puts transactions in order by the rule of `collides` alone."""

    def __init__(self, overlay):
        self.overlay = overlay
        self.entries = []
        self.collisions = 0
        self.waiting = asyncio.Lock()
        self.held_by = None

    @asynccontextmanager
    async def alone(self):
        async with self.waiting:
            self.held_by = asyncio.current_task()
            try:
                yield
            finally:
                self.held_by = None

    async def commit(self, transaction):
        await asyncio.sleep(0)
        if self.held_by is not asyncio.current_task():
            async with self.waiting:
                return self._commit(transaction)
        return self._commit(transaction)

    def _commit(self, transaction):
        since = self.entries[transaction.position :]
        if transaction.collides({touch for entry in since for touch in disturbed(entry.changes)}):
            self.collisions += 1
            raise Collision
        entry = Entry(len(self.entries) + 1, transaction.id, 0, transaction.changes)
        self.entries.append(entry)
        self.overlay.note([entry])
        return entry.number


class Empty:
    """Tables that show nothing, slowly."""

    async def get(self, kind, *key):
        await asyncio.sleep(0)

    async def find(self, kind, **equals):
        await asyncio.sleep(0)
        return []

    async def applied(self, feed):
        return 0


async def test_transactions_behave_as_if_one_after_another():
    overlay = Overlay(Empty())
    commits = Commits(overlay)

    async def count(reading):
        old = await reading.get(Region, "counter")
        await asyncio.sleep(0)
        new = Region(id="counter", description=str(int(old.description) + 1 if old else 1))
        return [put(new, old)], int(new.description)

    results = await asyncio.gather(*(transact(overlay, commits, f"t{one}", count) for one in range(30)))
    assert sorted(result for result, _ in results) == list(range(1, 31))
    assert sorted(position for _, position in results) == list(range(1, 31))
    assert commits.collisions > 30


async def test_a_name_is_taken_once():
    overlay = Overlay(Empty())
    commits = Commits(overlay)

    def take(one):
        async def decide(reading):
            if await reading.find(Project, domain_id=None, name="x"):
                return [], False
            return [put(Project(id=one, name="x"))], True

        return decide

    results = await asyncio.gather(*(transact(overlay, commits, one, take(one)) for one in "abcdef"))
    assert [won for won, _ in results].count(True) == 1
    assert [position for won, position in results if not won] == [None] * 5
    assert len(await overlay.find(Project, domain_id=None, name="x")) == 1


async def test_what_is_read_is_remembered_and_the_position_is_from_before():
    overlay = Overlay(Empty())
    reading = Recording(overlay)
    overlay.note(a_log(1))
    await reading.get(Region, "a")
    await reading.find(Project, name="x", domain_id=None)
    await reading.find(Project, id="p")
    await reading.find(Grant, actor_id="u")
    assert reading.position == 0
    assert reading.reads == {
        ("regions", "a"), ("projects", ("domain_id", "name"), (None, "x")), ("projects", "p"), ("grants", ("actor_id",), ("u",)),
    }  # fmt: skip
    with pytest.raises(LookupError):
        await reading.find(Project, description="x")
    reading.scan(Region)
    assert ("regions",) in reading.reads
    region = Region(id="b")
    assert reading.transaction("t", [put(region), remove(region)]).changes == ()


async def test_who_always_loses_is_told_so():
    class Loses(Commits):
        async def commit(self, transaction):
            self.collisions += 1
            raise Collision

    commits = Loses(Overlay(Empty()))

    async def decide(reading):
        return [put(Region(id="a"))], None

    with pytest.raises(Unavailable):
        await transact(commits.overlay, commits, "t", decide)
    assert commits.collisions == 23
