"""The rules of [security_compliance]: who is locked out, whose password has expired, which new password is refused.

Pure: what is counted and what is stored is given. Source: keystone/identity/backends/sql.py, sql_model.py,
keystone/common/validation/validators.py.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from regional_keystone.errors import Invalid
from regional_keystone.model import Attempts, User
from regional_keystone.settings import SecurityCompliance

_SECOND = 1_000_000
DAY = 86_400 * _SECOND
_LOCKED = (
    "You cannot change your password at this time due to password policy disallowing password changes. "
    "Please contact your administrator to reset your password."
)


class Count(NamedTuple):
    """What all places know of a user's logins: failures that count, the last of them, what no longer counts."""

    failed: int = 0
    failed_at: int = 0
    cleared_at: int = 0


def counted(rows: Iterable[Attempts]) -> Count:
    """All places together. A place's failures count until any place has cleared what was up to then."""
    known = list(rows)
    cleared_at = max((row.cleared_at for row in known), default=0)
    live = [row for row in known if row.failed_at > cleared_at]
    failed_at = max((row.failed_at for row in live), default=0)
    return Count(sum(row.failed for row in live), failed_at, cleared_at)


def joined(known: Attempts | None, said: Attempts) -> Attempts:
    """One place's row with one more report: `failed` more failures at `failed_at`, cleared up to `cleared_at`."""
    if known is None:
        return said
    cleared_at = max(known.cleared_at, said.cleared_at)
    before = known.failed if known.failed_at > cleared_at else 0
    return msgspec.structs.replace(
        known,
        failed=before + said.failed,
        failed_at=max(known.failed_at, said.failed_at),
        cleared_at=cleared_at,
        active_at=max(known.active_at, said.active_at),
    )


def counts(rules: SecurityCompliance, user: User) -> bool:
    """Whether this user's failed logins count."""
    return bool(rules.lockout_failure_attempts) and not user.options.get("ignore_lockout_failure_attempts")


def current(rules: SecurityCompliance, count: Count, now: int) -> Count:
    """The count once a lock that has run out is forgotten."""
    limit, lasts = rules.lockout_failure_attempts, rules.lockout_duration
    if limit and lasts and count.failed >= limit and count.failed_at + lasts * _SECOND <= now:
        return Count(cleared_at=max(count.cleared_at, count.failed_at))
    return count


def attempts_left(rules: SecurityCompliance, count: Count, now: int) -> int:
    """How many more failures it takes to lock the user out; 0: locked out now."""
    return max(0, (rules.lockout_failure_attempts or 0) - current(rules, count, now).failed)


def is_expired(user: User, now: int) -> bool:
    """Whether the password must be changed before it opens anything."""
    at = user.password_expires_at
    return at is not None and at <= now and not user.options.get("ignore_password_expiry")


def expires_at(rules: SecurityCompliance, options: Mapping[str, Any], now: int) -> int | None:
    """When a password that is set now expires; None: never."""
    if not rules.password_expires_days or options.get("ignore_password_expiry"):
        return None
    return now // _SECOND * _SECOND + rules.password_expires_days * DAY


def must_change(rules: SecurityCompliance, options: Mapping[str, Any]) -> bool:
    """Whether a password that an administrator has set opens nothing but its own change."""
    return rules.change_password_upon_first_use and not options.get("ignore_change_password_upon_first_use")


def is_inactive(rules: SecurityCompliance, user: User, now: int, active_at: int = 0) -> bool:
    """Whether the user has not logged in for too many days; `active_at`: a login that the record does not show yet."""
    until = active_until(rules, user, active_at)
    return until is not None and now >= until


def active_until(rules: SecurityCompliance, user: User, active_at: int = 0) -> int | None:
    """From when on the user is inactive who does not log in again; None: never. `active_at` as in `is_inactive`."""
    limit = rules.disable_user_account_days_inactive
    last = max(user.last_active_at or user.created_at, active_at)
    if not limit or not last or user.options.get("ignore_user_inactivity"):
        return None
    return (last // DAY + limit) * DAY


def too_weak(rules: SecurityCompliance) -> Invalid:
    """The refusal of a password that is not as it must be."""
    return Invalid(f"The password does not match the requirements: {rules.password_regex_description or None}.")


def check_change(rules: SecurityCompliance, user: User, now: int) -> None:
    """Raise Invalid for a user who may not change the own password, or not yet."""
    if user.options.get("lock_password"):
        raise Invalid(_LOCKED)
    if not user.password_self_service or user.password_changed_at is None:
        return
    days = rules.minimum_password_age
    until = user.password_changed_at + days * DAY
    if now < until:
        raise Invalid(
            "You cannot change your password at this time due to the minimum password age. "
            f"Once you change your password, it must be used for {days} day(s) before it can be changed. "
            f"Please try again in {(until - now) // DAY} day(s) or contact your administrator to reset your password."
        )


def former(rules: SecurityCompliance, user: User) -> list[str]:
    """Hashes of passwords that the user may not choose again, the present one first."""
    return [one for one in (user.password_hash, *reversed(user.password_history)) if one][
        : rules.unique_last_password_count
    ]


def kept(rules: SecurityCompliance, user: User) -> tuple[str, ...]:
    """The history once the present password has been replaced, oldest first: no more than is asked for."""
    room = rules.unique_last_password_count - 1
    known = (*user.password_history, *([user.password_hash] if user.password_hash else []))
    return known[-room:] if room > 0 else ()


def repeated(rules: SecurityCompliance) -> Invalid:
    """The refusal of a password that was used before."""
    return Invalid(
        "The new password cannot be identical to a previous password. The total number which includes the new password "
        f"must be unique is {rules.unique_last_password_count}."
    )
