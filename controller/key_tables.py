"""How `rkctl keys` draws rings: sites by keys, what each key is and until when, and the next turn."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from controller.durations import span
from controller.key_marks import CONDEMNED
from regional_keystone.holder import TOKEN

_MARKS = {"staged": "[cyan]S[/]", "primary": "[green]P[/]", "held": "H", "?": "[yellow]?[/]", "": "[red]-[/]"}
_REFUSED = "[bold red]C[/]"
_LEGEND = "S staged, P primary: seals there; H held: opens what it has sealed; C condemned; - not there; ? not known"
_LISTED = 10  # condemned keys that are in no ring; --json has all
_COLUMNS = 6  # keys of their own column; of those that are older one tells
_SECOND = 1_000_000


def drawn(status: Mapping[str, Any], rings: Iterable[str] = ()) -> Group:
    """Everything that the controller told, or these rings of it."""
    wanted = tuple(rings) or tuple(status["rings"])
    shown = [part for name in wanted if name in status["rings"] for part in _ring(name, status)]
    return Group(*_followed(status), *shown, *_elsewhere(status, wanted), *_next_turn(status))


def _followed(status: Mapping[str, Any]) -> list[Text]:
    """What is told below does not hold for keys that a Keystone turns."""
    if not (found := status.get("follows")):
        return []
    text = f"this controller follows {found['directory']}, whose keys a Keystone turns and retires: of those nothing is"
    return [Text(f"{text} promised here", style="yellow")]


def _ring(name: str, status: Mapping[str, Any]) -> list[Any]:
    ring, now = status["rings"][name], status["now"]
    keys = [key for key in ring["keys"] if key["number"] is not None]
    shown, older = keys[:_COLUMNS], keys[_COLUMNS:]
    sites = Table(title=f"{name} keys, epoch {ring['epoch']}", title_justify="left", title_style="bold")
    sites.add_column("site")
    sites.add_column("state")
    sites.add_column("epoch", justify="right")
    for key in shown:
        sites.add_column(f"{key['number']}\n{key['id'][:8]}", justify="center")
    if older:
        sites.add_column(f"{len(older)}\nolder", justify="center")
    for site, held in sorted(ring["sites"].items()):
        away = held["state"] != "active"
        cells = [_cell(held["keys"].get(key["id"], ""), key) for key in shown]
        more = [held["keys"].get(key["id"], "") for key in older]
        cells += ["H" if all(one == "held" for one in more) else "[red]-[/]"] if older else []
        style = "bold red" if away else ""
        sites.add_row(escape(site), _site_state(held, now), str(held["epoch"] or "-"), *cells, style=style)
    return [sites, _keys(ring, now), *_notes(ring), Text()]


def _cell(part: str, key: Mapping[str, Any]) -> str:
    """What a key is to a site."""
    return _REFUSED if part and key["state"] == CONDEMNED else _MARKS[part]


def _site_state(held: Mapping[str, Any], now: int) -> str:
    if held["state"] != "active":
        away = "" if held["connected"] else ", not connected"
        return f"{held['state'].upper()} {span(now - held['since'])}{away}"
    return "active" if held["connected"] else "active, not connected"


def _keys(ring: Mapping[str, Any], now: int) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("key", "fingerprint", "state", "age", "since", "until"):
        table.add_column(column)
    for key in ring["keys"]:
        since, until = _since_until(key, now, by_time=ring["expected_keys"] is not None)
        began = key.get("staged_at") or key.get("primary_at")
        age = span(now - began) if began else "-"
        number, style = "-" if key["number"] is None else str(key["number"]), "red" if key["state"] == CONDEMNED else ""
        table.add_row(number, key["id"], key["state"], age, since, until, style=style)
    return table


def _elsewhere(status: Mapping[str, Any], wanted: Iterable[str]) -> list[Any]:
    """Condemned keys that the rings which are shown do not tell of."""
    shown = {key["id"] for name in wanted if name in status["rings"] for key in status["rings"][name]["keys"]}
    if set(wanted) != set(status["rings"]):
        return []
    found = [one for one in status.get("condemned", ()) if one["id"] not in shown]
    if not found:
        return []
    table = Table(title="condemned, and in no ring", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in ("key", "ring", "since", "by", "why"):
        table.add_column(column)
    for one in found[:_LISTED]:
        since = _ago(one["condemned_at"], status["now"])
        table.add_row(one["id"], one["ring"] or "-", since, escape(_by(one)), escape(one["why"] or "-"))
    more = len(found) - _LISTED
    rest = [Text(f"and {more} more, which --json tells", style="dim")] if more > 0 else []
    return [table, *rest, Text()]


def _by(one: Mapping[str, Any]) -> str:
    return " and ".join(who for who in (one["by"], one["confirmed_by"]) if who) or "-"


def _since_until(key: Mapping[str, Any], now: int, *, by_time: bool) -> tuple[str, str]:
    """How long the key has been so, and what comes next; unless `by_time`, the ring's keys go with the next turn."""
    match key["state"]:
        case "secondary" | "draining" if not by_time:
            return _ago(key.get("ceased_at"), now), "the next turn, which removes it"
        case "primary":
            return _ago(key.get("primary_at"), now), "the next turn"
        case "secondary":
            return _ago(key.get("ceased_at"), now), f"{_ahead(key['seal_until'], now)}: nobody seals with it"
        case "draining":
            since = key.get("seal_until") or key.get("ceased_at")  # one that was brought in never seals
            return _ago(since, now), f"{_ahead(key['keep_until'], now)}: the first turn then retires it"
        case "condemned":
            return _ago(key["condemned_at"], now), "for good"
        case "retired":
            return _ago(key.get("retired_at"), now), "-"
        case _:
            return _ago(key.get("staged_at"), now), "the next turn"


def _notes(ring: Mapping[str, Any]) -> list[Text]:
    expected, notes = ring["expected_keys"], []
    if expected is not None and ring["active_keys"] > expected:
        text = f"{ring['active_keys']} keys, more than the expected {expected}: keys go by time, however many they are"
        notes.append(Text(text, style="yellow"))
    return notes


def _next_turn(status: Mapping[str, Any]) -> list[Text]:
    turn, now = status["next_turn"], status["now"]
    if turn["at"] is None:
        when = "when `rkctl keys rotate` asks for it ([keys] rotation_interval is 0)"
    else:
        when = "now" if turn["is_due"] else f"{_ahead(turn['at'], now)}, every {span(turn['interval_s'] * _SECOND)}"
    lines = [Text(f"next turn: {when}")]
    for site, why in turn["waits_for"].items():
        lines.append(Text(f"  waits for {site}: {why}", style="yellow"))
    sites = status["rings"][TOKEN]["sites"]
    lines += [
        Text(f"  does not wait for {site}, {_until(site, sites[site])}", style="red") for site in status["quarantined"]
    ]
    return [*lines, Text(_LEGEND, style="dim")]


def _until(name: str, site: Mapping[str, Any]) -> str:
    """Until when a quarantined site is not waited for, and why."""
    why = f" ({site['why']})" if site["why"] else ""
    if site["by_operator"]:
        return f"which an operator has quarantined{why}: `rkctl region rejoin {name}` takes it back"
    return f"which is quarantined until it holds the newest keys{why}"


def _ago(at: int | None, now: int) -> str:
    return f"{span(now - at)} ago" if at else "-"


def _ahead(at: int, now: int) -> str:
    return f"in {span(at - now)}" if at > now else f"{span(now - at)} ago"
