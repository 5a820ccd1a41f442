"""`rkctl keys compromised` and `rkctl keys confirm`: keys that may be in other hands are refused everywhere."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from controller.command_line import STATE, AsJson, ConfigFile, State, ask_controller, errors
from controller.durations import span

NOT_EVERYWHERE = 6
"""Exit code: it is done, and some site is not known yet to refuse."""
_POLL_S = 0.05
_HOURS = 6  # that people are shown; --json has all that are known

Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Wait = Annotated[float, typer.Option("--wait", help="Seconds to wait for the sites.", min=0)]


def compromised(
    key: Annotated[str, typer.Option("--key", help="The id of one key.", metavar="ID")] = "",
    site: Annotated[str, typer.Option("--site", help="All keys that this site held.", metavar="NAME")] = "",
    all_: Annotated[bool, typer.Option("--all", help="Every key.")] = False,
    rings: Annotated[bool, typer.Option("--rings", help="Of a site that signs: the shared rings' keys too.")] = False,
    why: Annotated[str, typer.Option("--why", help="For the record in the log.")] = "",
    keep_site: Annotated[bool, typer.Option("--keep-site", help="Do not remove the site of --site.")] = False,
    unknown: Annotated[bool, typer.Option("--unknown", help="With --key, also one that nobody has seen.")] = False,
    prepare: Annotated[bool, typer.Option("--prepare", help="Let another person confirm it within an hour.")] = False,
    yes: Yes = False,
    wait: Wait = 10.0,
    state: State = STATE,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Refuse what stolen keys have sealed, and turn the rings away from them, at once and for good.

    First it shows what that costs, and asks. What was condemned before stays so: it says that, and changes nothing. A
    key that nobody has seen, as one of an old backup, is refused unless --unknown is given. With --prepare, and always
    where [keys] two_person is set, one person prepares it and another confirms it: both show the password of a user
    with the role admin on the system, from OS_USERNAME, OS_PASSWORD and OS_USER_DOMAIN_NAME, or when asked. Exit code
    6: done, but not at every site yet.

    Example: rkctl keys compromised --site Oslo --why "stolen from the rack"
    """
    if sum(map(bool, (key, site, all_))) != 1:
        raise typer.BadParameter("say one of --key ID, --site NAME and --all")
    with errors():
        asked: dict[str, Any] = {
            "wanted": {"key": key, "unknown": unknown, "site": site, "all": all_, "rings": rings, "why": why},
            "keep_site": keep_site,
        }
        cost = ask_controller(state, config, "/keys/compromised/cost", asked)
        _show_cost(cost, quiet=as_json)
        if _is_done(cost):
            _tell_when(cost, quiet=as_json)
            _finish(_nothing_new(cost), cost, time.monotonic(), state, config, wait, as_json=as_json)
            return
        if prepare:
            made = ask_controller(state, config, "/keys/compromised/prepare", {**asked, "login": _login()})
            confirm_ = f"prepared; another person confirms it within an hour: rkctl keys confirm {made['id']}"
            print(json.dumps({**made, "cost": cost}) if as_json else confirm_)
            return
        _ask("Condemn these keys? There is no way back.", yes=yes)
        began = time.monotonic()
        done = ask_controller(state, config, "/keys/compromised", asked)
        _finish(done, cost, began, state, config, wait, as_json=as_json)


def confirm(
    id_: Annotated[str, typer.Argument(metavar="ID", help="What --prepare has printed.")],
    yes: Yes = False,
    wait: Wait = 10.0,
    state: State = STATE,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Do what another person has prepared with `rkctl keys compromised --prepare`, once and within an hour of it.

    Example: rkctl keys confirm 3f0a9b2c11d4
    """
    with errors():
        cost = ask_controller(state, config, "/keys/compromised/cost", {"id": id_})
        _show_cost(cost, quiet=as_json)
        _ask("Condemn these keys? There is no way back.", yes=yes)
        login = _login()
        began = time.monotonic()
        done = ask_controller(state, config, "/keys/compromised/confirm", {"id": id_, "login": login})
        _finish(done, cost, began, state, config, wait, as_json=as_json)


def _ask(question: str, *, yes: bool) -> None:
    if not yes:
        typer.confirm(question, err=True, abort=True)


def _login() -> dict[str, str]:
    """Who this is. Never from the command line, where everybody on the machine can read it."""
    username = os.environ.get("OS_USERNAME") or typer.prompt("User", err=True)
    password = os.environ.get("OS_PASSWORD") or typer.prompt(f"Password of {username}", hide_input=True, err=True)
    return {"username": username, "password": password, "domain": os.environ.get("OS_USER_DOMAIN_NAME", "Default")}


def _show_cost(cost: dict[str, Any], *, quiet: bool) -> None:
    if quiet:
        return
    from controller.display import console, table

    screen = console(stderr=True)
    tokens: dict[str, int] = {}
    for one in cost["tokens"]:
        tokens[one["key"]] = tokens.get(one["key"], 0) + one["tokens"]
    rows = [
        (one["id"], one["ring"] or "-", one["state"], tokens.get(one["id"], 0), _before(one, cost["now"]))
        for one in cost["keys"]
    ]
    screen.print(table(("key", "ring", "state", "live tokens, about", "condemned before"), rows))
    columns = ("site", "live tokens, about", "as of", "issued by hour (UTC), the newest first")
    screen.print(table(columns, issued(cost)))
    reach = [(one["name"], one["state"], _when(one, cost["removes"])) for one in cost["sites"]]
    screen.print(table(("site", "state", "refuses"), reach))
    if not _is_done(cost):
        print(f"about {cost['tokens_live']} live tokens end", file=sys.stderr)
    for sentence in cost["what_happens"]:
        print(f"- {sentence}", file=sys.stderr)


def _when(site: dict[str, Any], removes: str) -> str:
    if site["name"] == removes:
        return "never: it is removed and told nothing more; end it there, or keep it from its clients"
    return "at once" if site["connected"] else "out of reach: when it is back"


def _before(key: dict[str, Any], now: int) -> str:
    return f"{span(now - key['condemned_at'])} ago by {key['condemned_by']}" if key["condemned"] else ""


def _is_done(cost: dict[str, Any]) -> bool:
    """Whether there is nothing left to condemn, nor a site to remove."""
    return all(key["condemned"] for key in cost["keys"]) and not cost["removes"]


def _tell_when(cost: dict[str, Any], *, quiet: bool) -> None:
    """Of each key when it was condemned."""
    if quiet:
        return
    for key in cost["keys"]:
        print(f"{key['id']} was condemned before, {_before(key, cost['now'])}; nothing is left to do")
    if not cost["keys"]:
        print("no key that it had is in use any more; nothing is left to do")


def _nothing_new(cost: dict[str, Any]) -> dict[str, Any]:
    """What the controller would answer that had condemned all of it before."""
    before = [key["id"] for key in cost["keys"]]
    return {"condemned": before, "before": before, "position": cost["position"], "turned": {}, "not_turned": ""}


def _as_of(ages_s: dict[str, float | None], site: str) -> str:
    """How old what is known of this site's tokens may be."""
    age_s = ages_s.get(site)
    if age_s is None:
        return "not known"
    return f"{span(int(age_s * 1_000_000))} ago" if age_s else "now"


def issued(cost: dict[str, Any]) -> list[tuple[str, int, str, str]]:
    """For each site that has issued with these keys: its live tokens, how old that is, and its last hours."""
    live, rows = dict.fromkeys(cost["issued_by_hour"], 0), []
    for one in cost["tokens"]:
        live[one["site"]] += one["tokens"]
    for site, keys in cost["issued_by_hour"].items():
        hours: dict[int, int] = {}
        for counts in keys.values():
            for hour, count in counts.items():
                hours[int(hour)] = hours.get(int(hour), 0) + count
        newest = sorted(hours, reverse=True)[:_HOURS]
        said = [f"{time.strftime('%d %b %H:00', time.gmtime(hour * 3600))}: {hours[hour]}" for hour in newest]
        if said:
            rows.append((site, live[site], _as_of(cost["counted_s_ago"], site), ", ".join(said)))
    return rows


def _finish(
    done: dict[str, Any],
    cost: dict[str, Any],
    began: float,
    state: Path,
    config: Path | None,
    wait_s: float,
    *,
    as_json: bool,
) -> None:
    """Wait until all sites refuse, tell how far that is, and end with the code that says so."""
    if not as_json:
        _tell_what(done)
        for ring, epoch in done["turned"].items():
            print(f"the {ring} ring has turned away, epoch {epoch}")
        if done["not_turned"]:
            print(f"the rings are still to turn away, which is tried again: {done['not_turned']}", file=sys.stderr)
    found, said = _refused(done["position"], state, config), -1
    while True:
        count, total = len(found["refused"]), sum(map(len, found.values()))
        took_s = time.monotonic() - began
        if not as_json and count != said:
            print(f"refused at {count} of {total} sites after {took_s:.1f} s")
            said = count
        if not found["waiting"] or took_s > wait_s:
            break
        time.sleep(_POLL_S)
        found = _refused(done["position"], state, config)
    if as_json:
        print(json.dumps({**done, **found, "after_s": round(took_s, 2), "cost": cost}))
    elif rest := found["waiting"] + found["out_of_reach"]:
        print(f"not yet: {', '.join(rest)}; a site that is cut off learns it when it is back", file=sys.stderr)
    if count != total or done["not_turned"]:
        raise SystemExit(NOT_EVERYWHERE)


def _tell_what(done: dict[str, Any]) -> None:
    before = set(done.get("before", ()))
    if fresh := [key for key in done["condemned"] if key not in before]:
        print(f"condemned: {', '.join(fresh)}")
        if before:
            print(f"condemned before: {', '.join(sorted(before))}")


def _refused(position: int, state: Path, config: Path | None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = ask_controller(state, config, "/keys/compromised/refused", {"position": position})
    return found
