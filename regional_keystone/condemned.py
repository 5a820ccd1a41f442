"""Which keys were condemned, and which key a site seals with when its primary is one of them. Pure.

A condemned key may be in other hands: nothing that it sealed is believed, and it seals nothing. What is known of it
only grows: no bundle, no snapshot, no lagging message makes it good again. Source: docs/adr/0026-condemned-keys.md.
"""

import re
from collections.abc import Collection, Iterable

from regional_keystone.keys import KeyRing
from regional_keystone.log import Change, Put
from regional_keystone.model import Ring

KEY_ID = re.compile(r"[0-9a-f]{16}")
SETTLE_US = 8_000_000
"""For so long a primary that nobody had staged seals nothing, unless every site is known to hold it sooner.

By then a site that has not heard of it has been apart for longer than `follow.APART_S`, whatever the clocks' skew, and
says of its tokens that it may lack the key, not that they are worth nothing.
"""


def ids_in(changes: Iterable[Change]) -> frozenset[str]:
    """The keys that these changes condemn."""
    return frozenset(change.key[0] for change in changes if isinstance(change, Put) and change.table == "condemned")


def sealing_number(ring: KeyRing, condemned: Collection[str], record: Ring | None, now: int) -> int | None:
    """The number of the key to seal with, None for none: the primary, else the latest former one that still may.

    A former primary may for as long as a site that missed the turn seals with it, so everybody keeps it for as long as
    that takes. `record` is the log's of this ring, else of a newer one, if any is known: while that has a primary which
    must not be used yet, so may this one. The staged key never seals: others may lack it.
    """
    good = [number for number, name in ring.key_ids.items() if number and name not in condemned]
    if record is None or record.epoch != ring.epoch:
        settled = record is None or now >= record.settles_at
        return ring.primary if ring.primary in good and settled else None
    if ring.primary in good and now >= record.settles_at:
        return ring.primary
    former = (number for number in good if number != ring.primary and number in record.times)
    return next((number for number in former if now < record.times[number].seal_until), None)
