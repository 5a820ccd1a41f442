"""Audit ids: what was made from a token is known by its id, whoever made the token, and nothing else is."""

import random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from regional_keystone.token import DEFAULT_METHODS, Token, Unscoped, child_audit_id, new_audit_id, pack, unpack

PRECISE = 4  # levels below the first; from the next on, what is as deep below the same third counts as one


def first(chance):
    ids = (new_audit_id(chance.randbytes(16)),)
    return Token(user_id="u", methods=("password",), scope=Unscoped(), expires_at=10**12, issued_at=0, audit_ids=ids)


def made_from(token, chance, *, elsewhere=False):
    """A token by this one: made here, or by a Keystone, which gives random ids."""
    random_bytes = chance.randbytes(16)
    own = new_audit_id(random_bytes) if elsewhere else child_audit_id(token.audit_ids, random_bytes)
    return msgspec.structs.replace(token, audit_ids=(own, token.audit_ids[-1]))


def is_below(token, other):
    """Whether revoking the other one reaches this one."""
    found = token.lines if len(token.audit_ids) == 1 else (token.chain_id, *token.lines)
    return other.line in found


def tree(chance, size):
    """(token, level, the tokens above it) of a chain that grew at random."""
    found = [(first(chance), 0, [])]
    for _ in range(size):
        token, level, above = chance.choice(found)
        found.append((made_from(token, chance), level + 1, [*above, token]))
    return found


@given(st.integers(), st.integers(1, 30))
def test_what_was_made_from_a_token_is_known_and_nothing_else(seed, size):
    found = tree(random.Random(seed), size)
    for one, level, above in found:
        for other, other_level, _ in found:
            if other in above:
                assert is_below(one, other)
            elif is_below(one, other):
                assert min(level, other_level + 1) > PRECISE


@given(st.integers())
def test_what_is_made_here_from_a_keystones_token_is_known(seed):
    chance = random.Random(seed)
    for elsewhere in ({0}, {0, 1}):
        root = first(chance)
        theirs = made_from(root, chance, elsewhere=True)
        theirs = made_from(theirs, chance, elsewhere=True) if 1 in elsewhere else theirs
        child = made_from(theirs, chance)
        assert is_below(child, theirs)
        assert is_below(child, root)
        assert is_below(made_from(child, chance), theirs)
        assert not is_below(made_from(root, chance), theirs)


def test_a_chain_without_end_is_known_to_its_end():
    chance = random.Random(1)
    tokens = [first(chance)]
    for _ in range(300):
        tokens.append(made_from(tokens[-1], chance))
    for place in (0, 1, 2, 3, 4, 5, 254, 255, 256, 299):
        assert all(is_below(one, tokens[place]) for one in tokens[place + 1 :])
    assert not any(is_below(tokens[1], one) for one in tokens[1:])


def test_ids_stay_different_and_are_written_as_ever():
    chance = random.Random(2)
    root = first(chance)
    tokens = [made_from(made_from(root, chance), chance) for _ in range(1000)]
    assert len({one.audit_id for one in tokens}) == 1000
    assert {len(one.audit_id) for one in tokens} == {22} == {len(one.line) for one in tokens}
    for one in tokens[:10]:
        assert unpack(pack(one, DEFAULT_METHODS), 0).audit_ids == one.audit_ids
