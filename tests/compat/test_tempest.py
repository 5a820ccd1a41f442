"""OpenStack's own tests of the Identity API, unmodified: at the controller, and at a site that passes changes on."""

import pytest

from tests.compat import tempest

pytestmark = [pytest.mark.compat, pytest.mark.federation, pytest.mark.takes(100), pytest.mark.together("stock")]


@pytest.mark.parametrize("number", [0, 1], ids=["controller", "site"])
def test_every_test_passes_and_one_member_answers_all(number, federation, tempest_python, tmp_path):
    place = federation.members()[number]
    found = tempest.run(tempest_python, federation, place, tmp_path)
    assert not found.faults(place), "\n".join(found.faults(place))
