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


def _crash(cell):
    return cell.theirs.status == 500 and cell.ours.status in (400, 401, 403, 404, 405, 409)


def _kept(cell):
    """It crashes on a value that harms nobody."""
    kinds = ("blob=''", "legacy_endpoint_id=")
    return (
        cell.ours.status in (200, 201)
        and cell.theirs.status in (400, 500)
        and any(one in cell.case.kind for one in kinds)
    )


def _html(cell):
    """No error of Keystone's: HTML, or the web framework's own message."""
    body = cell.theirs.raw
    plain = not isinstance(body, dict) or "error" not in body
    return plain and cell.theirs.status in (404, 405) and cell.ours.status in (404, 405)


def _accident(cell):
    """The route is there by accident: its handler is not made for it, and says so in Python's words."""
    theirs = cell.theirs.message
    python = "required positional argument" in theirs or "unexpected keyword argument" in theirs
    return python and cell.ours.status in (404, 405)


def _door(cell):
    return cell.case.method == "OPTIONS" and _statuses(cell) == (200, 200)


def _rules(cell):
    """Access rules are asked there before anything else, here where a token is needed; with another header."""
    if cell.persona != "app-cred-rules" or cell.theirs.status != 401:
        return False
    public = cell.case.path in ("", "/")
    refused = cell.ours.status == 401 and _only(cell, "headers.www-authenticate")
    return refused or public or cell.ours.status in (400, 403, 404, 405, 410)


def _wrapper(cell):
    wrong = ("two wrappers", "wrong wrapper", "no body", "empty object", "as text")
    absent = cell.ours.message.endswith("is a required property")
    return cell.ours.status == 400 and (cell.case.kind.endswith(wrong) or absent)


def _order(cell):
    """A body or query that means nothing is refused before anybody asks who sent it; and the other way round."""
    says = cell.case.method in ("POST", "PUT", "PATCH") or "?" in cell.case.path
    return says and {*_statuses(cell)} in ({400, 401}, {400, 403})


def _nowhere(cell):
    return (
        cell.case.section == "application_credentials" and cell.persona == "unscoped" and _statuses(cell) == (400, 403)
    )


def _words(cell):
    """The same refusal in other words."""
    return _statuses(cell) in ((400, 400), (409, 409)) and _only(cell, "body.error.message")


def _first(cell):
    """Of several things that are not there another is named."""
    return _statuses(cell) == (404, 404) and _only(cell, "body.error.message")


def _strict_query(cell):
    return "?" in cell.case.path and _statuses(cell) == (400, 200)


def _paging(cell):
    return any(one in cell.case.path for one in ("?limit=", "?marker=")) and cell.theirs.status == 200


def _blank(cell):
    return "?" in cell.case.path and _only(cell, "body.links.self")


def _exists(cell):
    return _statuses(cell) == (404, 403)


def _inherit_ghost(cell):
    return "/OS-INHERIT/" in cell.case.path and "unknown" in cell.case.kind and cell.ours.status == 404


def _auth_identity(cell):
    return _statuses(cell) == (401, 401) and _only(cell, "body.error.identity")


def _credential_login(cell):
    return cell.case.section == "login" and _statuses(cell) == (404, 401)


def _region_empty(cell):
    return (
        cell.case.section == "endpoints"
        and cell.case.kind.endswith(("region=''", "region_id=''"))
        and cell.ours.status == 400
    )


def _domain_id(cell):
    kinds = ("change other id", "change explicit_domain_id=")
    return cell.case.section == "domains" and cell.case.kind.startswith(kinds) and _statuses(cell) == (200, 400)


def _assigned_system(cell):
    filters = ("inherited_to=projects", "scope.system")
    return "/role_assignments?" in cell.case.path and any(one in cell.case.path for one in filters) and cell.ours.ok


REASONS = (
    Reason("crash", _crash),
    Reason("harmless", _kept),
    Reason("accident", _accident),
    Reason("html", _html),
    Reason("door", _door),
    Reason("access-rules", _rules),
    Reason("credential-nowhere", _nowhere),
    Reason("wrapper", _wrapper),
    Reason("order", _order),
    Reason("words", _words),
    Reason("first-missing", _first),
    Reason("strict-query", _strict_query),
    Reason("paging", _paging),
    Reason("blank", _blank),
    Reason("exists", _exists),
    Reason("inherit-ghost", _inherit_ghost),
    Reason("auth-identity", _auth_identity),
    Reason("credential-login", _credential_login),
    Reason("region-empty", _region_empty),
    Reason("domain-id", _domain_id),
    Reason("assigned-system", _assigned_system),
)
