"""Whether the keys turn as they should, by what a controller tells of its rings: overdue, waiting, never done. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from controller.durations import span

_SECOND = 1_000_000
_SLACK_S = 60.0  # a turn may be so late beyond its deadline, as while controllers are started anew
_SETTLED_S = 30.0  # what was made so long ago, every site that is well has acknowledged
_REFUSED = "its log says `ring_refused` or `key_directory_not_mended`, with the reason"
_SELDOM_S = 30 * 86_400.0  # without a schedule


class Finding(NamedTuple):
    """What was found, in the words of the doctor's checks: OK, WARN or FAIL, the detail, and the cure."""

    state: str
    detail: str
    cure: str = ""


def turn_checks(status: Mapping[str, Any]) -> Iterator[Finding]:
    """Everything that there is to say; one line, if all is well. `status`: what `/keys/status` answers."""
    found = [*_schedule(status), *_waiting(status)]
    yield from found or [Finding("OK", _well(status))]


def _schedule(status: Mapping[str, Any]) -> Iterator[Finding]:
    turn, now = status["next_turn"], status["now"]
    if turn["at"] is None:
        if now - status["rings"]["token"]["turned_at"] > _SELDOM_S * _SECOND:
            cure = "set [keys] rotation_interval, or let a timer call `rkctl keys rotate`"
            yield Finding("WARN", f"nothing turns the keys ([keys] rotation_interval is 0): {_last(status)}", cure)
        return
    late_us, every = now - turn["at"], span(turn["interval_s"] * _SECOND)
    if late_us > (turn["deadline_s"] + _SLACK_S) * _SECOND:
        what = "the schedule has never run: a turn" if _never(status) else "a turn"
        cure = "`rkctl keys rotate` says what stops it; the controllers' logs have `turn_put_off` with the reason"
        yield Finding("FAIL", f"{what} every {every} is overdue for {span(late_us)}; {_last(status)}", cure)


def _waiting(status: Mapping[str, Any]) -> Iterator[Finding]:
    turn = status["next_turn"]
    for site, why in turn["waits_for"].items():
        lacks = [ring for ring in status["rings"].values() if site in ring["waits_for"]]
        since = max(_since(ring, site) for ring in lacks) if lacks else status["now"]
        waited_us = status["now"] - since
        if waited_us < _SETTLED_S * _SECOND:
            continue
        is_heard = any(ring["sites"][site]["connected"] for ring in lacks)
        mend = _REFUSED if is_heard else "start it, or mend its network"
        cure = f"{mend}; `rkctl region quarantine {site}` lets turns go on without it"
        yield Finding("WARN", f"the next turn waits for {site} since {span(waited_us)}: {why}", cure)


def _since(ring: Mapping[str, Any], site: str) -> int:
    """Since when this site could have held the ring as it is."""
    return int(max(ring["turned_at"], ring["sealed_at"], ring["sites"][site]["since"]))


def _well(status: Mapping[str, Any]) -> str:
    turn, now = status["next_turn"], status["now"]
    when = "when it is asked for" if turn["at"] is None else f"in {span(turn['at'] - now)}"
    return f"the next turn comes {when}; {_last(status)}"


def _last(status: Mapping[str, Any]) -> str:
    ago = span(status["now"] - status["rings"]["token"]["turned_at"])
    return f"the ring was made {ago} ago and has not turned since" if _never(status) else f"the last was {ago} ago"


def _never(status: Mapping[str, Any]) -> bool:
    """Whether the key that seals is the one with which the ring began, as far as that was written down."""
    keys = status["rings"]["token"]["keys"]
    primary = max((key for key in keys if key["number"] is not None), key=lambda key: int(key["number"]))
    return bool(primary.get("primary_in") == 1)
