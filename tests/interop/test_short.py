"""`make interop` in short: a few turns beside a real Keystone, with all payloads."""

import pytest

from tests.interop.run import keystone_turns, payloads

pytestmark = pytest.mark.compat


def test_tokens_of_every_payload_are_read_by_the_other_over_a_turn_of_ours(upstream, tmp_path):
    part = payloads(tmp_path, turns=1)
    assert part.failures == []
    assert part.counts["payloads"] == 11


def test_a_directory_that_keystone_turns_is_followed(upstream, tmp_path):
    part = keystone_turns(tmp_path, turns=1)
    assert part.failures == []
    assert part.counts["seen"] == 1


@pytest.fixture(scope="module")
def upstream():
    """Keystone is installed by whoever is first, under a lock."""
    from tests.compat import installed

    return installed.keystone_python()
