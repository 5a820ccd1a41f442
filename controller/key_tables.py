"""How `rkctl keys` draws rings: sites by keys, what each key is and until when, and the next turn."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from regional_keystone.holder import TOKEN

_MARKS = {"staged": "[cyan]S[/]", "primary": "[green]P[/]", "held": "H", "?": "[yellow]?[/]", "": "[red]-[/]"}
_LEGEND = "S staged, P primary: seals there; H held: opens what it has sealed; - not there; ? not known"
_COLUMNS = 6  # keys of their own column; of those that are older one tells
_SECOND = 1_000_000


def drawn(status: Mapping[str, Any], rings: Iterable[str] = ()) -> Group:
    """Everything that the controller told, or these rings of it."""
    wanted = tuple(rings) or tuple(status["rings"])
    shown = [part for name in wanted if name in status["rings"] for part in _ring(name, status)]
    return Group(*_followed(status), *shown, *_next_turn(status))


def _followed(status: Mapping[str, Any]) -> list[Text]:
    """What is told below does not hold for keys that a Keystone turns."""
    if not (found := status.get("follows")):
        return []
    text = f"this controller follows {found['directory']}, whose keys a Keystone turns and retires: of those nothing is"
    return [Text(f"{text} promised here", style="yellow")]


def _ring(name: str, status: Mapping[str, Any]) -> list[Any]:
    ring, now = status["rings"][name], status["now"]
    keys = [key for key in ring["keys"] if key["state"] != "retired"]
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
        cells = [_MARKS[held["keys"].get(key["id"], "")] for key in shown]
        more = [held["keys"].get(key["id"], "") for key in older]
        cells += ["H" if all(one == "held" for one in more) else "[red]-[/]"] if older else []
        style = "bold red" if away else ""
        sites.add_row(escape(site), _site_state(held, now), str(held["epoch"] or "-"), *cells, style=style)
    return [sites, _keys(ring, now), *_notes(ring), Text()]


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
        since, until = _since_until(key, now)
        began = key.get("staged_at") or key.get("primary_at")
        age = span(now - began) if began else "-"
        table.add_row("-" if key["number"] is None else str(key["number"]), key["id"], key["state"], age, since, until)
    return table


def _since_until(key: Mapping[str, Any], now: int) -> tuple[str, str]:
    """How long the key has been so, and what comes next."""
    match key["state"]:
        case "primary":
            return _ago(key.get("primary_at"), now), "the next turn"
        case "secondary":
            return _ago(key.get("ceased_at"), now), f"{_ahead(key['seal_until'], now)}: nobody seals with it"
        case "draining":
            return _ago(key.get("seal_until"), now), f"{_ahead(key['keep_until'], now)}: the first turn then retires it"
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


def span(us: int) -> str:
    """A duration, as people say it, in the two largest units."""
    seconds = max(0, us // _SECOND)
    parts = [
        (seconds // 86_400, "d"),
        (seconds % 86_400 // 3600, "h"),
        (seconds % 3600 // 60, "min"),
        (seconds % 60, "s"),
    ]
    first = next((place for place, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count or first == len(parts) - 1)


def _ago(at: int | None, now: int) -> str:
    return f"{span(now - at)} ago" if at else "-"


def _ahead(at: int, now: int) -> str:
    return f"in {span(at - now)}" if at > now else f"{span(now - at)} ago"
