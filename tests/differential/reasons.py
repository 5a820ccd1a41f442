"""The reviewed table of differences: each reason is a line of docs/divergences.md under the same id.

A row says which requests it speaks of, by whom, what both answered, and what else must hold. The first row that fits a
cell counts. What matters most is never explained by the way, but only by a row that says so itself (`despite`):

lets    something is done or told here that is refused there
tells   whether something exists is told here to those to whom it is not told there
lacks   an attribute is not in an answer that is in theirs, or a list has not as many rows
babble  a refusal is in the words of the library that reads records
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

_LESS = re.compile(r"body\..*?(: missing, |: expected \d+ members, )")


@dataclass(frozen=True, kw_only=True)
class Reason:
    """`asked`: of "section METHOD path kind"; `statuses`: pairs of theirs and ours."""

    id: str
    asked: str
    statuses: tuple
    by: tuple = ()  # personas; (): anybody
    holds: Callable = lambda cell: True
    despite: str = ""

    def explains(self, cell):
        """Whether this is why the answers differ."""
        return (
            (cell.theirs.status, cell.ours.status) in self.statuses
            and (not self.by or cell.persona in self.by)
            and re.fullmatch(self.asked, f"{cell.case.section} {cell.case.name}") is not None
            and _harm(cell) <= set(self.despite.split())
            and self.holds(cell)
        )


def reason_of(cell):
    """The place in the table of the row that explains a cell that differs; None if there is none."""
    return next((place for place, one in enumerate(REASONS) if one.explains(cell)), None)


def _harm(cell):
    """Of `lets`, `tells`, `lacks` and `babble`, what is so."""
    theirs, ours = cell.theirs, cell.ours
    found = set()
    if ours.status < 400 <= theirs.status:
        found.add("lets")
    if theirs.status in (401, 403) and ours.status == 404:
        found.add("tells")
    if theirs.ok and ours.ok and any(_LESS.match(one) for one in cell.unlike):
        found.add("lacks")
    if "Expected `" in ours.message:
        found.add("babble")
    return found


def _only(*starts):
    """Nothing differs but what is at these places."""
    return lambda cell: all(one.startswith(starts) for one in cell.unlike)


_MESSAGE = _only("body.error.message")


def _says(theirs="", ours=""):
    """Both refuse in these words (of HEAD nothing is known)."""
    return lambda cell: (
        cell.case.method == "HEAD"
        or bool(re.search(theirs, cell.theirs.message) and re.search(ours, cell.ours.message))
    )


def _no_keystone_error(cell):
    """It answers in HTML or in the web framework's own form, this one in the form of all errors."""
    theirs, ours = cell.theirs.raw, cell.ours.raw
    plain = isinstance(theirs, str | None) or (isinstance(theirs, dict) and theirs.keys() == {"message"})
    formed = ours is None or ours["error"]["code"] == cell.ours.status
    return plain and formed and _only("body", "headers.content-type", "headers.allow")(cell)


def _same_reason(cell):
    """Other words around the same reason; what may be a secret is not repeated."""
    return _MESSAGE(cell) and _bare(cell.theirs.message) == _bare(cell.ours.message) != ""


def _bare(message):
    reason = re.sub(r"^Invalid input for field(/attribute \S+\. Value: .*\. | '\S+': )", "", message, flags=re.DOTALL)
    return re.sub(r"^\S+ is not", "it is not", reason)


def _hidden(cell):
    """The same words, but for what may be a password."""
    parts = re.split(r"'\*\*\*'|\*\*\*", cell.ours.message)
    return len(parts) > 1 and bool(re.fullmatch(".+".join(map(re.escape, parts)), cell.theirs.message, re.DOTALL))


def _pages(cell):
    """Both bodies, and the rows of both."""
    bodies = [one.shown["body"] for one in (cell.theirs, cell.ours)]
    return bodies, [body.get(cell.case.section) for body in bodies]


def _another_page(cell):
    """A page of one row, after which both have more; the rows differ in what only some have."""
    bodies, rows = _pages(cell)
    if [len(found or ()) for found in rows] != [1, 1] or not all(body.get("truncated") for body in bodies):
        return False
    follows = all(
        body["links"]["next"].endswith(f"&marker={found[0]['id']}") for body, found in zip(bodies, rows, strict=True)
    )
    return follows and set(rows[0][0]) - set(rows[1][0]) <= {"email"}


def _filtered_page(cell):
    """What is of one's domain: there, a page of all rows is taken first, and what is not seen then left out."""
    (theirs, _), (some, own) = _pages(cell)
    mine = [one["id"] == "<alpha>" or one.get("domain_id") == "<alpha>" for one in own or ()]
    return cell.persona == "domain-manager" and mine == [True] and theirs.get("truncated") is True and some in ([], own)


def _whole_list(cell):
    """All rows, where it has said that there are more."""
    (theirs, ours), (some, every) = _pages(cell)
    told = "truncated" in theirs and "truncated" not in ours and ours["links"]["next"] is None
    return told and all(row in every for row in some)


_OTHER_WORDS = (  # theirs, ours
    ("^Cannot change policy ID$", "^Cannot change ID$"),
    ("^Invalid input for field/attribute id. Value: . '' should be non-empty$", "^Cannot change ID$"),
    (r"should not be valid under \{'required': \['secret'\]\}$", "^The secret of a consumer cannot be changed.$"),
    (r"Additional properties are not allowed \('\w+' was unexpected\)$", "'blob' is a required property$"),
    ("remote_id_attribute. Value: |should be non-empty$", "'mapping_id' is a required property$"),
    ("^ImmutableMultiDict.* is valid under each of", "^Specify a user or group, not both$"),
)


def _other_words(cell):
    """One of these refusals, and nothing else differs."""
    return _MESSAGE(cell) and any(_says(*pair)(cell) for pair in _OTHER_WORDS)


def _without_system(cell):
    """All that it lists beside what was granted on the system, which nothing inherits."""
    theirs, ours = (one.shown["body"].get("role_assignments", ()) for one in (cell.theirs, cell.ours))
    return len(theirs) > len(ours) and [one for one in theirs if "system" not in one["scope"]] == ours


_LACKS_WRAPPER = _says("", r"^'(mapping|consumer|policy|endpoint|user)' is a required property$")
_NO_METHOD = "^The method is not allowed for the requested URL.$"
_BY_ACCIDENT = r"/(OS-FEDERATION/mappings|OS-OAUTH1/consumers|policies)"
_RULES = ("app-cred-rules",)

REASONS = (
    Reason(
        id="access-rules",
        asked=".*",
        statuses=((401, 401),),
        by=_RULES,
        holds=_only("headers.www-authenticate: expected 'Keystone uri=\"<url>\"', got 'Keystone uri=\"<url>/v3\"'"),
    ),
    Reason(id="access-rules", asked="routes GET / unknown ids", statuses=((401, 300),), by=_RULES, despite="lets"),
    Reason(
        id="access-rules",
        asked=rf"routes \w+ ({_BY_ACCIDENT}(/<gone>)?|/users/<gone>/password) unknown ids",
        statuses=((401, 405),),
        by=_RULES,
    ),
    Reason(
        id="access-rules",
        asked="(routes|auth) (GET /OS-SIMPLE-CERT/.*|POST /auth/tokens|POST /users/<gone>/password"
        "|GET /auth/tokens/OS-PKI/.*) (unknown ids|single)",
        statuses=((401, 410), (401, 400), (401, 403)),
        by=_RULES,
    ),
    Reason(
        id="access-token",
        asked="routes DELETE /users/<gone>/OS-OAUTH1/access_tokens/<gone> unknown ids",
        statuses=((403, 403), (404, 403)),
        holds=_says("identity:ec2_delete_credential.$|^Access token not found$", "identity:delete_access_token.$"),
    ),
    Reason(
        id="accident",
        asked=rf"routes (PUT|PATCH|DELETE) {_BY_ACCIDENT} unknown ids",
        statuses=((400, 405),),
        holds=_says("missing 1 required positional argument", _NO_METHOD),
    ),
    Reason(
        id="accident",
        asked=rf"routes POST {_BY_ACCIDENT}/<gone> unknown ids",
        statuses=((400, 405),),
        holds=_says("got an unexpected keyword argument", _NO_METHOD),
    ),
    Reason(
        id="accident",
        asked="routes (PATCH|DELETE) /limits/model no such method",
        statuses=((400, 405), (404, 405)),
        holds=_says("'limit' is a required property|^Could not find limit for model.$", _NO_METHOD),
    ),
    Reason(
        id="accident",
        asked="routes OPTIONS (/OS-FEDERATION/mappings|/(OS-OAUTH1/consumers|policies)(/<gone>)?|/limits/model"
        "|/users/<gone>/password) options",
        statuses=((200, 200),),
        holds=_only("headers.content-type: missing, expected 'text/html", "headers.allow: "),
    ),
    Reason(
        id="assigned-system",
        asked="assignments GET .*scope.OS-INHERIT:inherited_to=projects query",
        statuses=((200, 200),),
        holds=_without_system,
        despite="lacks",
    ),
    Reason(
        id="auth-identity",
        asked="login POST /auth/tokens body (unknown|totp)",
        statuses=((401, 401),),
        holds=_only("body.error.identity: missing, expected {'methods': "),
    ),
    Reason(
        id="blank", asked=r"\w+ GET /\w+\?\S+= query", statuses=((200, 200),), holds=_only("body.links.self: expected")
    ),
    Reason(
        id="crash",
        asked=r"(consumers|mappings) (POST|PUT|PATCH) \S+ (create|change) (null|text|list|number) member"
        r"|mappings (PUT|PATCH) \S+ (create|change) schema_version=.*|services POST /services create wrong wrapper"
        r"|(identity|service)_providers (PUT|PATCH) \S+ (create|change) (enabled=''|relay_state_prefix=None)",
        statuses=((500, 400),),
    ),
    Reason(
        id="crash",
        asked="(routes|projects|services) POST /(projects|services) (unknown ids|create (no body|empty object))",
        statuses=((500, 400),),
    ),
    Reason(
        id="crash",
        asked=r"\w+ GET /(users|groups|projects|domains|roles)\?limit=x query",
        statuses=((500, 400), (500, 401), (500, 403)),
    ),
    Reason(id="crash", asked=r"\w+ (POST|PATCH) \S+ (create|change) (enabled|is_domain)=''", statuses=((500, 400),)),
    Reason(
        id="crash",
        asked=r"endpoints (POST|PATCH) \S+ (create|change) legacy_endpoint_id=(\[\]|\{\})",
        statuses=((500, 400),),
    ),
    Reason(
        id="credential-login",
        asked="login POST /auth/tokens body credential",
        statuses=((404, 401),),
        holds=_says("^Could not find Application Credential: ", "^The request you have made requires authentication.$"),
    ),
    Reason(
        id="credential-nowhere",
        asked="application_credentials POST /users/<user>/application_credentials create",
        statuses=((400, 403),),
        by=("unscoped",),
        holds=_says("unassigned role$", "An application credential is for a project, so the token has to be.$"),
    ),
    Reason(
        id="domain-id",
        asked="domains PATCH /domains/<new:domain> change (other id|explicit_domain_id=.*)",
        statuses=((200, 400),),
    ),
    Reason(
        id="dumps",
        asked=r"(credentials|application_credentials) (POST|PATCH) \S+ (create|change)"
        " ((text|number) member|without (type|user_id|name)|(blob|secret)=5|unknown attribute|other id)",
        statuses=((400, 400),),
        holds=_hidden,
    ),
    Reason(
        id="dumps",
        asked=r"users (POST|PATCH) \S+ (create|change) (password=5|(number|text) member|without name)",
        statuses=((400, 400),),
        holds=_hidden,
    ),
    Reason(
        id="empty",
        asked="routes OPTIONS .* options|tags PUT /projects/<new:project>/tags/red edge",
        statuses=((200, 200), (201, 201)),
        holds=_only("headers.content-type: missing, expected 'text/html"),
    ),
    Reason(
        id="first-missing",
        asked=r"inherited (GET|DELETE) /OS-INHERIT/(projects|domains)/.* edge unknown <(project|alpha|new:user|new:group)>",
        statuses=((404, 404),),
        holds=_says("^Could not find role assignment", "^Could not find (project|domain|user|group): "),
    ),
    Reason(
        id="harmless",
        asked="credentials PATCH /credentials/<new:credential> change blob=''",
        statuses=((500, 200),),
        despite="lets",
    ),
    Reason(
        id="html",
        asked=r"routes \w+ .* no such method",
        statuses=((405, 405),),
        by=("cloud-admin",),
        holds=_no_keystone_error,
    ),
    Reason(
        id="html",
        asked="routes GET /users/<gone>/(password/?|tokens/) (unknown ids|trailing slash)",
        statuses=((405, 405),),
        holds=_no_keystone_error,
    ),
    Reason(
        id="inherit-ghost",
        asked=r"inherited PUT /OS-INHERIT/(projects|domains)/.* edge unknown <new:(user|group)>",
        statuses=((204, 404),),
    ),
    Reason(
        id="limit-nobody",
        asked="limits POST /limits create project_id=None",
        statuses=((500, 400),),
        holds=_says("", "^A limit is a project's or a domain's.$"),
    ),
    Reason(
        id="limit-nothing",
        asked="limits PATCH /limits/<new:limit> change description=''",
        statuses=((200, 200),),
        holds=_only("body.limit.description: expected None, got ''"),
    ),
    Reason(
        id="order",
        asked=r"assignments GET /role_assignments\?(user.id=<user>&group.id=<group>|include_subtree) query",
        statuses=((400, 403), (400, 401)),
        by=("owner", "anonymous"),
    ),
    Reason(
        id="order",
        asked="routes PATCH /projects/<gone> unknown ids",
        statuses=((404, 400),),
        by=("cloud-admin", "system-admin"),
        holds=_says("^Could not find project", "^'project' is a required property$"),
    ),
    Reason(
        id="paging",
        asked=r"\w+ GET /(users|groups|projects|domains|roles)\?limit=1 query",
        statuses=((200, 200),),
        holds=lambda cell: _another_page(cell) or _filtered_page(cell),
        despite="lacks",
    ),
    Reason(
        id="paging",
        asked=r"\w+ GET /(users|groups|projects|domains|roles)\?limit=0 query",
        statuses=((200, 200),),
        holds=_whole_list,
        despite="lacks",
    ),
    Reason(
        id="region-empty",
        asked="last PATCH /endpoints/<new:endpoint> change (region|region_id)=''",
        statuses=((200, 400),),
    ),
    Reason(
        id="words",
        asked=r"(policies|consumers) (POST|PATCH) \S+ (create|change)"
        r" ((null|text|list|empty|number) member|without (type|blob)|(type|blob|description)=.*)",
        statuses=((400, 400),),
        holds=_same_reason,
    ),
    Reason(
        id="words",
        asked=r"(policies|regions) PATCH \S+ change (other id|id='')"
        r"|(consumers|credentials|protocols) PATCH \S+ change (empty member|\w+=.*)"
        r"|assignments GET /role_assignments\?user.id=<user>&group.id=<group> query",
        statuses=((400, 400),),
        holds=_other_words,
    ),
    Reason(
        id="words",
        asked=r"domain_config (PUT|PATCH) \S+ body \{'config': 'x'\}",
        statuses=((400, 400),),
        holds=_says("^string indices must be integers", "attribute config. It is not of type 'object'$"),
    ),
    Reason(
        id="words",
        asked=r"\w+ GET \S+\?enabled__contains=t query",
        statuses=((400, 400),),
        holds=_says("^argument of type 'bool' is not iterable$", "^What is true or false cannot be compared"),
    ),
    Reason(
        id="words",
        asked=r"limits POST /limits create domain_id=.*",
        statuses=((400, 400),),
        holds=_says("^Invalid input for field/attribute domain_id", "is (not )?valid under (any|each) of"),
    ),
    Reason(
        id="words",
        asked=r"roles PATCH \S+ change domain_id=.*",
        statuses=((400, 400),),
        holds=_says("^Invalid input for field/attribute domain_id", "^Update of `domain_id` is not allowed.$"),
    ),
    Reason(
        id="words",
        asked=r"(users|groups) PATCH \S+ change domain_id=.*",
        statuses=((400, 400),),
        holds=_says("^Invalid input for field/attribute domain_id", "^Cannot change Domain ID$"),
    ),
    Reason(
        id="words",
        asked="people POST /users/<new:user>/password .*",
        statuses=((400, 400),),
        holds=_same_reason,
    ),
    Reason(
        id="wrapper",
        asked=r"(credentials|services|regions|identity_providers|mappings|policies|consumers) \w+ \S+"
        " (create|change) two wrappers",
        statuses=((200, 400), (201, 400)),
        holds=_says("", r"^Additional properties are not allowed \('other' was unexpected\)$"),
    ),
    Reason(
        id="wrapper",
        asked=r"(mappings|policies|consumers) \w+ \S+ (create|change) (no body|empty object|wrong wrapper)",
        statuses=((400, 400), (201, 400)),
        holds=_LACKS_WRAPPER,
    ),
    Reason(
        id="wrapper",
        asked=r"(registered_limits|limits|trusts) (POST|PATCH) \S+ (create|change) wrong wrapper",
        statuses=((400, 400),),
        holds=_says(
            r"^Additional properties are not allowed \('other' was", "^'(registered_limit|limit|trust)' is a req"
        ),
    ),
    Reason(
        id="wrapper",
        asked="projects PATCH /projects/<new:project> change (no body|empty object)",
        statuses=((200, 400),),
        holds=_says("", "^'project' is a required property$"),
    ),
    Reason(
        id="wrapper",
        asked=r"routes \w+ (/OS-FEDERATION/mappings/<gone>|/OS-OAUTH1/consumers/<gone>|/policies(/<gone>)?|/endpoints"
        "|/users/<gone>/password) unknown ids|endpoints POST /endpoints create (no body|empty object)",
        statuses=((400, 400),),
        holds=_LACKS_WRAPPER,
    ),
    Reason(
        id="wrapper", asked="routes POST /OS-OAUTH1/consumers unknown ids", statuses=((201, 400),), holds=_LACKS_WRAPPER
    ),
)
