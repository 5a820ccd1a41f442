"""A token that is revoked at a site while no controller is there is refused at all others, and is in the log once."""

import contextlib
import time

import pytest

from controller.probe import Client
from tests.processes import admin_token, read, until

pytestmark = pytest.mark.federation
BOUND_S = 5.0  # a second is promised; others use this machine as well
FRESH_CONNECTIONS = 8  # a site is several processes, and the kernel chooses which one answers


def validate(member, caller, subject):
    with Client(member, caller) as client:
        return client.validate(subject)


@contextlib.contextmanager
def frozen(cluster, names):
    """These processes stand still meanwhile."""
    for name in names:
        cluster.signal(name, "STOP")
    try:
        yield
    finally:
        for name in names:
            cluster.signal(name, "CONT")


def refused_after_s(member, caller, subject):
    """How long until every process of this site refuses the token."""
    began = time.monotonic()
    in_a_row = 0
    while in_a_row < FRESH_CONNECTIONS:
        status = validate(member, caller, subject)
        assert status in {200, 404}
        in_a_row = in_a_row + 1 if status == 404 else 0
        if not in_a_row:
            last = time.monotonic()
            assert last - began < 10 * BOUND_S
    return time.monotonic() - began


def test_what_is_revoked_without_a_controller_is_refused_at_every_site_and_in_the_log_once(engine_federation):
    home = engine_federation.home
    here, *others = [one for one in home.members() if not one.is_controller]
    callers = {one.name: admin_token(home, one) for one in others}
    subjects = [admin_token(home, here) for _ in range(3)]
    for one in others:
        assert [validate(one, callers[one.name], subject) for subject in subjects] == [200] * 3
    audit_ids = []
    for subject in subjects:
        with Client(here, subject) as client:
            token = client.expect(200, "GET", "/v3/auth/tokens", X_Subject_Token=subject)["token"]
        audit_ids.append(token["audit_ids"][0])
    figures = []
    controllers = [one.name for one in home.members() if one.is_controller]
    with frozen(engine_federation, controllers):
        until(lambda: all(one.page("/status")["state"] == "isolated" for one in (here, *others)), "isolation")
        ages = [one.page("/status")["age_s"] for one in others]
        for subject in subjects:
            with Client(here, subject) as client:
                client.expect(204, "DELETE", "/v3/auth/tokens", X_Subject_Token=subject)
            figures += [refused_after_s(one, callers[one.name], subject) for one in others]
        assert all(one.page("/status")["age_s"] > age for one, age in zip(others, ages, strict=True))
    print("refused at another site after", ", ".join(f"{one * 1000:.0f} ms" for one in sorted(figures)))
    assert max(figures) < BOUND_S
    until(lambda: not here.page("/status")["own_feed"]["pending"], "the log to have it")
    chief = next(one for one in home.members() if one.is_controller)
    until(lambda: read(chief, None, "/v3").status == 200, "the proxy to know that controllers are back")
    with Client(chief, admin_token(home, chief)) as client:
        events = client.expect(200, "GET", "/v3/OS-REVOKE/events")["events"]
    told = [one.get("audit_id") for one in events]
    assert [told.count(one) for one in audit_ids] == [1] * 3
    for one in others:
        assert [validate(one, callers[one.name], subject) for subject in subjects] == [404] * 3
