"""Random histories of records, and the dictionary that each of them amounts to."""

from hypothesis import strategies as st

from regional_keystone.log import Entry, Put, put, remove
from regional_keystone.model import Endpoint, Grant, Project
from regional_keystone.record import Like, decode, facts

IDS = st.sampled_from(["a", "b", "c", "é"])
SOME = st.none() | st.sampled_from(["a", "b"])
RECORDS = st.one_of(
    st.builds(
        Project, id=IDS, name=st.sampled_from(["x", "y"]), domain_id=SOME, parent_id=SOME, description=st.sampled_from(["", "new"])
    ),
    st.builds(Endpoint, id=IDS, service_id=IDS, interface=st.just("public"), url=st.sampled_from(["https://u", "https://v"]), region_id=SOME),
    st.builds(
        Grant,
        actor_id=st.sampled_from(["a", "b"]),
        actor=st.sampled_from(["user", "group"]),
        target=st.just("project"),
        target_id=IDS,
        role_id=st.sampled_from(["a", "b"]),
        inherited=st.booleans(),
    ),
)  # fmt: skip
KINDS = (Project, Endpoint, Grant)
LIKE = st.just(()) | st.tuples(
    st.builds(Like, st.sampled_from(["name", "domain_id"]), st.sampled_from(["contains", "startswith", "endswith"]), st.sampled_from("axy"))
)  # fmt: skip
STEPS = st.lists(st.lists(st.tuples(RECORDS, st.booleans()), min_size=1, max_size=4), max_size=8)


def entries_of(steps, first=1):
    """One entry per step; a step is (record, whether it stays) in order, and what is not there is not removed."""
    state = {}
    entries = []
    for number, step in enumerate(steps, first):
        changes = []
        for record, stays in step:
            row = (type(record), facts(type(record)).key_of(record))
            old = state.get(row)
            if stays:
                state[row] = record
                changes.append(put(record, old))
            elif old is not None:
                del state[row]
                changes.append(remove(old))
        entries.append(Entry(number, f"t{number}", number * 10, tuple(changes)))
    return entries


HISTORIES = STEPS.map(entries_of)


def states(entries):
    """The dictionary (kind, key) -> record at every position, the empty one first."""
    kinds = {facts(kind).name: kind for kind in KINDS}
    found = [{}]
    for entry in entries:
        state = dict(found[-1])
        for change in entry.changes:
            kind = kinds[change.table]
            if isinstance(change, Put):
                state[kind, change.key] = decode(kind, change.row)
            else:
                state.pop((kind, change.key), None)
        found.append(state)
    return found


def found_in(state, kind, equals, like=()):
    """What `find`, or a page without end, must answer, in the order of keys."""
    rows = [row for (one, _), row in state.items() if one is kind]
    rows = [row for row in rows if all(getattr(row, name) == value for name, value in equals.items())]
    rows = [row for row in rows if all(rule.admits(row) for rule in like)]
    return sorted(rows, key=facts(kind).key_of)


def questions(kind):
    """Every `find` that has an answer other than nothing, and some that have not."""
    table = facts(kind)
    values = {name: [None, "a", "b", "c", "é"] for name in (*table.key, *table.indexed)}
    values |= {"name": ["x", "y", "z"]}
    for group in table.groups:
        choices = [{}]
        for name in group:
            choices = [choice | {name: value} for choice in choices for value in values[name]]
        yield from choices
