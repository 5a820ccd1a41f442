"""`rkctl policy`: what a policy.yaml says before a server starts on it, and every rule that it may replace."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from controller.command_line import PLAIN, AsJson, errors, show

if TYPE_CHECKING:
    from regional_keystone.policy_file import Override, Reading, Remark

app = typer.Typer(help="Who may do what: policy.yaml, with oslo.policy's syntax.", **PLAIN)

_HEAD = """\
# Every action with its default rule. A line that is no comment takes the place of the default;
# `[policy] file` names the file, `rkctl policy check` tells what it means.
"""
_WRONG = 2
_COLUMNS = ("line", "name", "effect", "asks only for", "never given")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="policy.yaml, as [policy] file names it.")], as_json: AsJson = False
) -> None:
    """Tell what each rule of the file changes. Exit code 2, with every reason, for a file that no server starts on.

    Example: rkctl policy check /etc/regional-keystone/policy.yaml
    """
    with errors():
        from regional_keystone import policy, policy_file
        from regional_keystone.settings import ConfigurationError

        try:
            found = policy_file.read(str(file), policy.checks(policy.defaults()))
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        if as_json:
            print(json.dumps(_plain(file, found)))
        else:
            _show(file, found)
        raise SystemExit(_WRONG if found.problems else 0)


@app.command()
def sample(as_json: AsJson = False) -> None:
    """Print every rule with its default as a comment: what it is asked for, and in which scopes.

    Example: rkctl policy sample > policy.yaml
    """
    from regional_keystone.policy import defaults

    if as_json:
        print(json.dumps([_plain_rule(rule) for rule in defaults()]))
        return
    print(_HEAD)
    for rule in defaults():
        print("\n".join(_described(rule)), end="\n\n")


def _described(rule: Any) -> Iterator[str]:
    from regional_keystone.operations import OPERATIONS
    from regional_keystone.policy_keys import ACTION

    action = rule.name.removeprefix(ACTION)
    words = action.replace("_", " ")
    yield f"# {words[:1].upper()}{words[1:]}" if action != rule.name else f"# Asked for by others as rule:{rule.name}"
    for methods, path in OPERATIONS.get(action, ()):
        yield f"# {methods} {path}"
    if rule.scope_types:
        yield f"# Scopes: {', '.join(rule.scope_types)}"
    yield f"#{json.dumps(rule.name)}: {json.dumps(rule.check_str)}"


def _plain_rule(rule: Any) -> dict[str, Any]:
    from regional_keystone.operations import OPERATIONS
    from regional_keystone.policy_keys import ACTION

    operations = [
        {"methods": methods, "path": path} for methods, path in OPERATIONS.get(rule.name.removeprefix(ACTION), ())
    ]
    return {"name": rule.name, "check": rule.check_str, "scopes": rule.scope_types or [], "operations": operations}


def _plain(file: Path, found: "Reading") -> dict[str, Any]:
    return {
        "file": str(file),
        "valid": not found.problems,
        "problems": [one._asdict() for one in found.problems],
        "notes": [one._asdict() for one in found.notes],
        "overrides": [
            one._asdict() | {"unsupplied": [key._asdict() for key in one.unsupplied]} for one in found.overrides
        ],
    }


def _show(file: Path, found: "Reading") -> None:
    if found.overrides:
        show([_row(one) for one in found.overrides], _COLUMNS, as_json=False)
    for note in found.notes:
        print(f"note: {_placed(file, note)}")
    for problem in found.problems:
        print(f"rkctl: {_placed(file, problem)}", file=sys.stderr)
    if not found.problems:
        counted = Counter(one.effect for one in found.overrides)
        told = ", ".join(f"{number} {effect}" for effect, number in sorted(counted.items())) or "it changes nothing"
        print(f"{file}: {len(found.overrides)} rules: {told}")


def _row(one: "Override") -> dict[str, Any]:
    never = ", ".join(key.key for key in one.unsupplied)
    return {**one._asdict(), "asks only for": ", ".join(one.unbound) or None, "never given": never or None}


def _placed(file: Path, remark: "Remark") -> str:
    return f"{file}{'' if remark.line is None else f':{remark.line}'}: {remark.what}"
