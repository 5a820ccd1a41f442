"""Mints revocations.json: random events and tokens with the verdict of Keystone's own SQL filter and rule.

Run it in a throw-away venv with `pip install keystone==30.0.0`:

    python tests/golden/mint_revocations.py > tests/golden/revocations.json

No event names an access token: upstream stores its id but compares it nowhere, so such an event would void everything.
Instants are microseconds since 1970 UTC; the token's are whole seconds, as Fernet has them.
"""

import datetime as dt
import json
import random
import sys
import tempfile

import keystone.conf
from keystone.common import sql
from keystone.models import revoke_model
from keystone.revoke.backends import sql as revoke_sql
from keystone.server import configure  # noqa: F401  (registers every option)
from oslo_db import options as db_options

SEED, CASES = 20300102, 400
BASE = 1893553445
EVENT_FIELDS = "user_id domain_id project_id role_id trust_id consumer_id audit_id audit_chain_id expires_at".split()
# Few values, so that matches and near misses are both common.
VALUES = {name: [f"{name[:4]}{n}" for n in range(2)] for name in EVENT_FIELDS}
USERS, DOMAINS, ROLES = ["u0", "u1", "u2"], ["d0", "d1"], ["r0", "r1", "r2"]
VALUES |= {
    "user_id": USERS,
    "domain_id": DOMAINS,
    "role_id": ROLES,
    "expires_at": [(BASE + n) * 1_000_000 for n in (3600, 3601)],
}


def instant(microseconds):
    """Upstream's form of an instant."""
    return dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=microseconds)


def event(dice):
    """A random event with one to four fields."""
    names = dice.sample(EVENT_FIELDS, dice.choice([1, 1, 2, 2, 3, 4]))
    times = {name: (BASE + dice.randrange(-2, 3)) * 1_000_000 for name in ("issued_before", "revoked_at")}
    return times | {name: dice.choice(VALUES[name]) for name in names}


def token(dice):
    """A random token, in the words of revoke_model.build_token_values."""
    maybe = lambda values: dice.choice([*values, None])  # noqa: E731
    values = {name: maybe(VALUES[name]) for name in ("project_id", "trust_id", "consumer_id", "audit_chain_id")}
    return values | {
        "issued_at": (BASE + dice.randrange(-2, 3)) * 1_000_000,
        "expires_at": dice.choice(VALUES["expires_at"]),
        "audit_id": dice.choice(VALUES["audit_id"]),
        "access_token_id": maybe(["a0"]),
        "user_id": dice.choice(USERS),
        "trustor_id": maybe(USERS),
        "trustee_id": maybe(USERS),
        "identity_domain_id": maybe(DOMAINS),
        "assignment_domain_id": maybe(DOMAINS),
        "roles": dice.sample(ROLES, dice.randrange(3)),
    }


def upstream_event(case):
    """The event as upstream makes it."""
    times = {name: instant(case[name]) for name in ("issued_before", "revoked_at", "expires_at") if name in case}
    return revoke_model.RevokeEvent(**case | times)


def voids(driver, one, values):
    """Keystone's own filter and rule for one event.

    The rule is asked about the event as it was made: the SQL table has no column for the domain of an event with an
    expiry, so what comes back from it has lost that.
    """
    with sql.session_for_write() as session:
        session.query(revoke_sql.RevocationEvent).delete()
    driver.revoke(upstream_event(one))
    return bool(driver.list_events(token=values)) and revoke_model.matches(upstream_event(one), values)


def verdict(driver, events, case):
    """What Keystone answers with these events."""
    values = case | {name: instant(case[name]) for name in ("issued_at", "expires_at")}
    return any(voids(driver, one, values) for one in events)


def main():
    """Writes all cases to standard output."""
    dice, driver = random.Random(SEED), revoke_sql.Revoke()
    with tempfile.TemporaryDirectory() as directory:
        keystone.conf.configure()
        keystone.conf.CONF([], project="keystone", default_config_files=[])
        db_options.set_defaults(keystone.conf.CONF, connection=f"sqlite:///{directory}/keystone.sqlite")
        with sql.session_for_write() as session:
            sql.ModelBase.metadata.create_all(session.get_bind(), [revoke_sql.RevocationEvent.__table__])
        cases = []
        for _ in range(CASES):
            events, one = [event(dice) for _ in range(dice.randrange(1, 5))], token(dice)
            cases.append({"events": events, "token": one, "revoked": verdict(driver, events, one)})
    lines = ",\n".join(json.dumps(case) for case in cases)
    sys.stdout.write(f'{{"keystone": "30.0.0", "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
