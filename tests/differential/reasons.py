"""The reviewed table of differences: each row is a line of docs/divergences.md under the same id.

A reason says of a cell that differs whether the line is why; the first that does counts. Each is as narrow as it can
be: by the request, and by what both answered. What is *more* permitted here than there is never explained.
"""

from collections.abc import Callable
from typing import NamedTuple


class Reason(NamedTuple):
    id: str
    explains: Callable


def _statuses(cell):
    return cell.theirs.status, cell.ours.status


def _only(cell, *starts):
    """Whether nothing differs but what is at these places."""
    return all(one.startswith(starts) for one in cell.unlike)


def _words(cell):
    """Whether the same refusal is told in other words."""
    return cell.theirs.status == cell.ours.status and _only(cell, "body.error.message")


def _crash(cell):
    return cell.theirs.status == 500 and cell.ours.status in (400, 401, 403, 404, 405, 409)


def _html(cell):
    """No error of Keystone's: HTML, or the web framework's own message."""
    body = cell.theirs.raw
    plain = not isinstance(body, dict) or "error" not in body
    return plain and cell.theirs.status in (404, 405) and cell.ours.status in (404, 405)


def _door(cell):
    return cell.case.method == "OPTIONS" and _statuses(cell) == (200, 200)


def _wrapper(cell):
    wrong = ("two wrappers", "wrong wrapper", "no body", "empty object", "as text")
    return cell.case.kind.endswith(wrong) and cell.ours.status == 400


def _strict_query(cell):
    return "?" in cell.case.path and _statuses(cell) == (400, 200)


def _paging(cell):
    return any(one in cell.case.path for one in ("?limit=", "?marker=")) and cell.ours.status == 200


def _blank(cell):
    return "?" in cell.case.path and _only(cell, "body.links.self")


def _exists(cell):
    return _statuses(cell) == (404, 403)


def _inherit_ghost(cell):
    return "/OS-INHERIT/" in cell.case.path and "unknown" in cell.case.kind and cell.ours.status == 404


def _auth_identity(cell):
    return _statuses(cell) == (401, 401) and _only(cell, "body.error.identity")


REASONS = (
    Reason("crash", _crash),
    Reason("html", _html),
    Reason("door", _door),
    Reason("wrapper", _wrapper),
    Reason("strict-query", _strict_query),
    Reason("paging", _paging),
    Reason("blank", _blank),
    Reason("exists", _exists),
    Reason("inherit-ghost", _inherit_ghost),
    Reason("auth-identity", _auth_identity),
)
