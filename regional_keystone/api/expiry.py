"""The filter `password_expires_at=operator:timestamp` of lists of users.

Source: keystone/identity/core.py (_translate_expired_password_hints), keystone/identity/backends/sql.py.
"""

import operator
from collections.abc import Callable

from regional_keystone.api.shapes import Call
from regional_keystone.document import instant
from regional_keystone.errors import Invalid
from regional_keystone.model import User

_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}
_TIMESTAMP = (
    "Timestamp not in expected format. The server could not comply with the request since it is either malformed or "
    "otherwise incorrect. The client is assumed to be in error."
)


def expiring(call: Call) -> Callable[[User], bool] | None:
    """Whether a user's password expires when the query says; one that never expires is no answer. None: all are.

    Raises Invalid for what is no operator or no timestamp.
    """
    asked = [_test(value) for name, value in call.request.query if name == "password_expires_at"]
    if not asked:
        return None
    return lambda user: user.password_expires_at is not None and all(test(user.password_expires_at) for test in asked)


def _test(said: str) -> Callable[[int], bool]:
    name, _, timestamp = said.partition(":") if ":" in said[2:4] else ("eq", "", said)
    try:
        wanted = instant(timestamp)
    except (ValueError, OverflowError):
        raise Invalid(_TIMESTAMP) from None
    compare = _COMPARE.get(name)
    if compare is None:
        known = "'eq', 'neq', 'lt', 'lte', 'gt', or 'gte'"
        raise Invalid(f"The given operator {name} is not valid. It must be one of the following: {known}.")
    return lambda at: compare(at, wanted)
