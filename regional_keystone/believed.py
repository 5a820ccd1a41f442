"""What is believed of a site's own feed: by a controller that takes it over, and by a site that reads it. Pure.

Little: revocations under ids of the site's name, its own counts, both bounded in time. That a key was stolen is
believed of any site: in doubt tokens are refused, and nobody is let in. Source: docs/feeds.md, "A site's own feed".
"""

from collections import Counter
from collections.abc import Mapping
from operator import attrgetter
from typing import NamedTuple

import msgspec

from regional_keystone.condemned import KEY_ID
from regional_keystone.errors import TooLarge
from regional_keystone.issue import SKEW_S
from regional_keystone.issued import LATE
from regional_keystone.log import Entry, Put
from regional_keystone.model import Condemned, RevocationEvent
from regional_keystone.own_feed import is_too_large
from regional_keystone.record import decode, spread, unspread
from regional_keystone.watermarks import WATERMARK

MEMBERS = frozenset({"active", "quarantined"})
"""States of a site whose feed counts: a turn of the keys that did not wait for it takes nothing from its word."""
SKEW_US = 2_000_000
MOST_CONDEMNED = 256  # keys of one site's saying
_LATE_US = int(SKEW_S * 1_000_000)  # of an answer to a revocation: a token that others take may be dated so far ahead
_WORDS = 200
_TEXT = 255  # characters of whom or what a revocation is about, as columns of Keystone's tables have at most
_OF = (  # the narrowest first
    *("audit_id", "audit_chain_id", "access_token_id", "trust_id", "user_id"),
    *("consumer_id", "project_id", "role_id", "domain_id"),
)
_texts = attrgetter(*_OF)


class Said(NamedTuple):
    """An entry, sorted: revocations as they count, rows of logins, and what it says of stolen keys, by their ids."""

    revocations: list[RevocationEvent]
    counts: list[Put]
    stolen: dict[str, Put]


def said(feed: str, entry: Entry, now: int, keep_us: int, refused: Counter[str]) -> Said:
    """What an entry of this feed says; what is not believed of it is counted in `refused`.

    `keep_us`: how long a revocation can matter to any token. Raises TooLarge, or ValueError for rubbish.
    """
    if is_too_large(entry):
        raise TooLarge
    found, site = Said([], [], {}), feed.partition("/")[0]
    for place, change in enumerate(entry.changes):
        if not isinstance(change, Put):
            refused["changes"] += 1
        elif change.table == "revocations":
            event = decode(RevocationEvent, change.row)
            if any(len(text) > _TEXT for text in _texts(event) if text):  # no token says such a thing
                refused["too_long"] += 1
            elif not any(_texts(event)):  # it would end all tokens of everybody
                refused["of_everybody"] += 1
            else:
                found.revocations.append(_revocation(f"{feed}/{entry.number}/{place}", event, now, keep_us, refused))
        elif change.table == "attempts" and change.key[1:] == (site,):
            found.counts.append(change)
        elif change.table == "condemned" and len(change.key) == 1 and KEY_ID.fullmatch(str(change.key[0])):
            found.stolen.setdefault(str(change.key[0]), change)
        else:
            refused["changes"] += 1
    return found


def condemned(
    site: str, stolen: Mapping[str, Put], known: Mapping[str, str], now: int, refused: Counter[str]
) -> list[Condemned]:
    """What is new of what a site says of stolen keys; in the site's name, whatever the rows say.

    `known` are the keys that are condemned already, each with the place that said so. Raises ValueError for rubbish.
    """
    fresh = [change for key, change in stolen.items() if key not in known]
    room = max(0, MOST_CONDEMNED - sum(place == site for place in known.values())) if fresh else 0
    if fresh[room:]:
        refused["keys"] += len(fresh[room:])
    rows = [(str(change.key[0]), decode(Condemned, change.row)) for change in fresh[:room]]
    return [
        msgspec.structs.replace(
            row,
            id=key,
            ring=row.ring[:_WORDS],
            at=min(row.at, now),
            by=row.by[:_WORDS],
            why=row.why[:_WORDS],
            place=site,
            confirmed_by="",
        )
        for key, row in rows
    ]


def _revocation(name: str, said: RevocationEvent, now: int, keep_us: int, refused: Counter[str]) -> RevocationEvent:
    event = _of_one_thing(said, refused)
    late = LATE if unspread(event.id).startswith(LATE) else ""
    if unspread(event.id).removeprefix(LATE).startswith(WATERMARK):  # one row, however often
        name = f"{name.rsplit('/', 2)[0]}/{WATERMARK}{event.user_id}/{event.trust_id}"
    # a token may be from a fast clock; all tokens of somebody are not to be void in advance
    latest = now + (_LATE_US if late else SKEW_US)
    end = now + keep_us + _LATE_US  # of whatever lives
    of_a_chain = event.audit_id or event.audit_chain_id
    if of_a_chain:
        latest = end
    if event.issued_before > latest or (event.issued_from and not of_a_chain):
        refused["ahead_of_time"] += 1
    # a site with a shorter life for tokens may void those of others
    least = (now if event.issued_from else _within(event.issued_before, now)) + keep_us
    return msgspec.structs.replace(
        event,
        id=spread(f"{late}{name}"),
        issued_before=_within(event.issued_before, latest),
        revoked_at=_within(event.revoked_at, now + SKEW_US),
        issued_from=event.issued_from if of_a_chain else None,
        keep_until=min(max(event.keep_until, least), end),
    )


def _of_one_thing(event: RevocationEvent, refused: Counter[str]) -> RevocationEvent:
    """What a revocation is about; one that asks for several things at once ends all that have the narrowest of them.

    No site makes such. Each combination would be one more question at every validation; in doubt tokens are refused.
    """
    about = next(name for name in _OF if getattr(event, name))
    others = {name: None for name in (*_OF, "expires_at") if name != about and getattr(event, name) is not None}
    if others:
        refused["of_several_things"] += 1
    return msgspec.structs.replace(event, **others)


def _within(at: int, latest: int) -> int:
    """An instant that can be: one beyond any calendar could not even be shown."""
    return max(0, min(at, latest))
