"""An override file of policy rules: read as oslo.policy reads it, with everything that cannot be meant named at once.

Separate from `policy`, which decides: the same reading refuses a start and answers `rkctl policy check`.
Source: oslo_policy/policy.py (parse_file_contents), _parser.py, _checks.py.
"""

import ast
import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from oslo_policy import policy

from regional_keystone.policy_keys import ACTION, Checks, Unsupplied, leaves, reachable, references, unsupplied

_TIED = ("user_id", "user_domain_id", "domain_id", "project_id", "project_domain_id")
CALLER = frozenset([*_TIED, "system_scope", "roles", "is_admin_project", "token"])
"""What a rule may ask of who calls; whatever else it asks for nobody has."""

_ALWAYS, _NEVER = "@", "!"
_NEVER_ALONE = re.compile(r"(?<![^\s(])!(?![^\s)])")


class Remark(NamedTuple):
    """What is to be said of one name in the file, and in which line it stands, if that is known."""

    name: str
    line: int | None
    what: str


class Override(NamedTuple):
    """One rule of the file beside the default of the same name; `effect`: same, tightens, loosens, differs or new.

    `unbound` are its parts that the default has not and that ask for neither target nor scope, where the default does.
    `unsupplied` is what it asks for of a request and no request gives.
    """

    name: str
    line: int | None
    effect: str
    unbound: tuple[str, ...]
    unsupplied: tuple[Unsupplied, ...] = ()


class Reading(NamedTuple):
    """The rules of a file; with `problems` no program starts on it, `notes` are what is legal and perhaps not meant."""

    rules: dict[str, Any]
    overrides: list[Override]
    problems: list[Remark]
    notes: list[Remark]


def read(path: str, known: Checks) -> Reading:
    """The file beside the rules that there are without it. Raises ValueError for one that is no file of rules."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        found: Any = policy.parse_file_contents(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"policy file {path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"policy file {path} cannot be read: it holds no names with rules")
    rules: dict[str, Any] = {}
    problems: list[Remark] = []
    for name, said in found.items():
        why = _why_not(name, said, known)
        if why:
            problems.append(Remark(str(name), line_of(text, str(name)), why))
        else:
            rules[name] = policy.RuleDefault(name, said).check
    whole = {**known, **rules}
    problems += [Remark(name, line_of(text, name), why) for name in rules for why in _dangling(name, whole)]
    overrides = [_judged(name, line_of(text, name), check, known) for name, check in rules.items()]
    notes = [
        *_unused(text, rules, whole, known),
        *_twice(text, rules),
        *_unknown(text, rules, known),
        *_empty(text, rules, known),
    ]
    return Reading(rules, overrides, problems, notes)


def line_of(text: str, name: str) -> int | None:
    """The line in which a name is given its rule, the last one if there are several: that is the one that counts."""
    lines = _lines(text, name)
    return lines[-1] if lines else None


def nearest(name: str, known: Checks) -> str:
    """A hint at the name that was perhaps meant; empty if none is like it."""
    kinds = {one.removeprefix(ACTION): one for one in known if one.startswith(ACTION) == name.startswith(ACTION)}
    found = difflib.get_close_matches(name.removeprefix(ACTION), kinds, 1)
    return f"; did you mean {kinds[found[0]]}?" if found else ""


def effect(check: Any, default: Any) -> str:
    """What becomes of the default, as far as the form of both shows it: same, tightens, loosens, or differs."""
    now, before = _alternatives(check), _alternatives(default)
    if now.keys() == before.keys():
        return "same"
    if _NEVER in now and len(now) == 1:
        return "tightens"
    if _ALWAYS in before:
        return "same" if _ALWAYS in now else "tightens"
    if _ALWAYS in now or now.keys() > before.keys() or str(check) in _conditions(default):
        return "loosens"
    if now.keys() < before.keys() or str(default) in _conditions(check):
        return "tightens"
    return "differs"


def _why_not(name: Any, said: Any, known: Checks) -> str:
    """Why this cannot be meant; empty if it can."""
    if not isinstance(name, str):
        return "a name is text"
    if name.startswith(ACTION) and name not in known:
        return f"there is no action {name}{nearest(name, known)}"
    if not _is_rule(said):
        return f"the rule of {name} is no text; write '@' for everybody, '!' for nobody"
    return "" if _is_understood(name, said) else f"the rule of {name} cannot be understood: {said}"


def _is_understood(name: str, said: Any) -> bool:
    try:
        check = policy.RuleDefault(name, said).check
    except (TypeError, ValueError, AttributeError):
        return False
    # what oslo.policy does not understand it takes for `!`, whole or in part
    if len(_NEVER_ALONE.findall(str(check))) > str(said).count(_NEVER):
        return False
    return all(_can_be_asked(leaf) for leaf in leaves(check))


def _can_be_asked(leaf: Any) -> bool:
    """Whether it can be put to a request: what cannot would fail at each one."""
    if isinstance(leaf, policy.RuleCheck) or not hasattr(leaf, "match"):
        return True
    try:
        leaf.match % _Anything()
    except (TypeError, ValueError):
        return False
    try:
        ast.literal_eval(leaf.kind)
    except ValueError:
        return True  # a name, which is looked up
    except (TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


class _Anything(dict[str, str]):
    """A target that has whatever is asked for."""

    def __missing__(self, name: str) -> str:
        return name


def _is_rule(said: Any) -> bool:
    """Whether it is text, or lists as older files have them; nothing at all would let everybody in."""
    return isinstance(said, str | list)


def _dangling(name: str, whole: Checks) -> Iterator[str]:
    """What a rule refers to that is not there, or that leads back to it."""
    for other in sorted(references(whole[name])):
        if other not in whole:
            yield f"{name} refers to rule:{other}, which does not exist{nearest(other, whole)}"
    if name in reachable(name, whole):
        yield f"{name} refers to itself"


def _judged(name: str, line: int | None, check: Any, known: Checks) -> Override:
    lacking = tuple(dict.fromkeys(one for _, one in _unsupplied(name, check, known)))
    if name not in known:
        return Override(name, line, "new", (), lacking)
    verdict = effect(check, known[name])
    more = {text: part for text, part in _alternatives(check).items() if text not in _alternatives(known[name])}
    loose = [text for text, part in more.items() if text != _NEVER and not _is_bound(part)]
    if verdict in {"same", "tightens"} or not _is_bound(known[name]):
        loose = []
    return Override(name, line, verdict, tuple(loose), lacking)


def _unsupplied(name: str, check: Any, known: Checks) -> Iterator[tuple[Any, Unsupplied]]:
    """The parts that ask for what no request gives, but for those of the default of the same name."""
    usual = {str(leaf) for leaf in leaves(known[name])} if name in known else set()
    for leaf in leaves(check):
        if str(leaf) not in usual:
            yield from ((leaf, one) for one in unsupplied(name, leaf))


def _unused(text: str, rules: Checks, whole: Checks, known: Checks) -> Iterator[Remark]:
    """Rules of the file's own that nothing asks for: most often an action without its prefix, or a misspelt name."""
    used = {other for check in whole.values() for other in references(check)}
    for name in rules:
        if name in known or name in used:
            continue
        meant = f"; did you mean {ACTION}{name}?" if ACTION + name in known else nearest(name, known)
        yield Remark(name, line_of(text, name), f"no action asks for {name}{meant}")


def _twice(text: str, rules: Checks) -> Iterator[Remark]:
    for name in rules:
        lines = _lines(text, name)
        if len(lines) > 1:
            shown = ", ".join(map(str, lines))
            yield Remark(name, lines[-1], f"{name} stands in lines {shown}; only the last one counts")


def _unknown(text: str, rules: Checks, known: Checks) -> Iterator[Remark]:
    """Parts that ask for what no caller has, so that they never hold: a misspelt `role`, most often.

    What the default of the same name asks for as well is upstream's.
    """
    words = ("role", "rule", *sorted(CALLER))
    for name, check in rules.items():
        usual = {str(leaf) for leaf in leaves(known[name])} if name in known else set()
        for leaf in leaves(check):
            if not (str(leaf) in usual or _can_hold(leaf)):
                meant = "".join(f"; did you mean {one}?" for one in difflib.get_close_matches(leaf.kind, words, 1))
                yield Remark(name, line_of(text, name), f"{name}: nobody has {leaf.kind}, {leaf} never holds{meant}")


def _empty(text: str, rules: Checks, known: Checks) -> Iterator[Remark]:
    """Parts that ask for what no request gives: a misspelt `target`, or a name that stood there in older releases."""
    for name, check in rules.items():
        for leaf, lacking in _unsupplied(name, check, known):
            meant = f"; did you mean {lacking.meant}?" if lacking.meant else ""
            said = f"{name}: no request gives {lacking.key}, {leaf} never holds{meant}"
            yield Remark(name, line_of(text, name), said)


def _can_hold(leaf: Any) -> bool:
    is_looked_up = type(leaf).__name__ == "GenericCheck" and not _is_literal(leaf.kind)
    return not is_looked_up or leaf.kind.partition(".")[0] in CALLER


def _is_literal(kind: str) -> bool:
    """Whether it is a value itself, which is compared with something of the target: 'member', None, 1."""
    try:
        ast.literal_eval(kind)
    except ValueError:
        return False
    return True


def _lines(text: str, name: str) -> list[int]:
    wanted = re.compile(rf"""(?:^|[\s{{,])(["']?){re.escape(name)}\1\s*:(?:\s|$)""")
    return [
        number for number, line in enumerate(text.splitlines(), 1) if wanted.search(line) and line.lstrip()[:1] != "#"
    ]


def _alternatives(check: Any) -> dict[str, Any]:
    """The parts of which one is enough, by their text."""
    if not isinstance(check, policy.OrCheck):
        return {str(check): check}
    found: dict[str, Any] = {}
    for part in check.rules:
        found |= _alternatives(part)
    return found


def _conditions(check: Any) -> set[str]:
    """The parts that must all hold, where there are several."""
    return {str(part) for part in check.rules} if isinstance(check, policy.AndCheck) else set()


def _is_bound(check: Any) -> bool:
    """Whether it asks where the caller stands, or to whom the target belongs, and not for roles alone."""
    found = [leaf for leaf in leaves(check) if hasattr(leaf, "match")]
    return any(leaf.kind == "system_scope" or "%(" in leaf.match for leaf in found)
