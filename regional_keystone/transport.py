"""What proxies say of who asks, what browsers are told, and the health check: all that HTTP adds to an answer.

Below the public port, which reads and writes. Source: oslo_middleware: cors, healthcheck, http_proxy_to_wsgi; RFC 7239.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Final, NamedTuple, Protocol

from regional_keystone.messages import Response
from regional_keystone.settings import Cors

_HOST: Final = re.compile(r"(?:[A-Za-z0-9._~-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+){0,8}")
_PROTO: Final = re.compile("https?")
_PAIR: Final = re.compile(r'([A-Za-z]+)\s*=\s*(?:"([^"\\]*)"|([^\s;,"]*))')  # no two of its parts take one sign
_SIMPLE: Final = frozenset(
    {
        "accept",
        "accept-language",
        "content-type",
        "cache-control",
        "content-language",
        "expires",
        "last-modified",
        "pragma",
    }
)
_HEALTH: Final = "/healthcheck"
_HTML: Final = (
    b"<HTML>\n<HEAD><TITLE>Healthcheck Status</TITLE></HEAD>\n<BODY>\n\n<H2>Result of 0 checks:</H2>\n"
    b'<TABLE bgcolor="#ffffff" border="1">\n<TBODY>\n<TR>\n\n<TH>\nReason\n</TH>\n</TR>\n\n</TBODY>\n</TABLE>\n'
    b"<HR></HR>\n\n</BODY>\n</HTML>"
)
_HEALTHY: Final[Mapping[str, tuple[str, bytes]]] = {
    "text/plain": ("text/plain; charset=UTF-8", b""),
    "text/html": ("text/html; charset=UTF-8", _HTML),
    "application/json": ("application/json", b'{\n    "detailed": false,\n    "reasons": []\n}'),
}


class Headers(Protocol):
    """Header lines by name, whatever its case."""

    def get(self, name: str, default: str, /) -> str:
        """The first line of this name."""
        ...

    def getall(self, name: str, default: Sequence[str], /) -> Sequence[str]:
        """All lines of this name."""
        ...


class Origin(NamedTuple):
    """Who asks, and under which address."""

    peer: str
    scheme: str
    host: str
    prefix: str = ""


def shared(cors: Cors, method: str, headers: Headers, vary: str) -> Mapping[str, str]:
    """What the answer to this request says besides; `vary` is what it says already."""
    origin = headers.get("Origin", "")
    if not origin or not cors.allowed_origin:
        return {}
    if origin not in cors.allowed_origin:
        if "*" not in cors.allowed_origin:
            return {}
        origin = "*"
    told = {"Access-Control-Allow-Origin": origin}
    if cors.allow_credentials:
        told["Access-Control-Allow-Credentials"] = "true"
    if method == "OPTIONS":
        allowed = _allowed(cors, headers)
        return {**told, **allowed, "Vary": "Origin"} if allowed else {}
    if cors.expose_headers:
        told["Access-Control-Expose-Headers"] = ",".join(cors.expose_headers)
    return {**told, "Vary": f"{vary},Origin" if vary else "Origin"}


def forwarded(origin: Origin, headers: Headers, trusts: Callable[[str], bool]) -> Origin:
    """Who asks by the word of the nearest proxy; `trusts` tells the addresses of ours.

    `Forwarded` counts only where no X-Forwarded header is: a proxy that knows the one passes on the other as it came.
    """
    said = {name: ",".join(headers.getall(f"X-Forwarded-{name}", ())) for name in ("Proto", "Host", "Prefix", "For")}
    chain = said["For"].split(",")
    if not any(said.values()):
        hops = [dict(_pairs(hop)) for hop in ",".join(headers.getall("Forwarded", ())).split(",")]
        said = {"Proto": hops[-1].get("proto", ""), "Host": hops[-1].get("host", ""), "Prefix": ""}
        chain = [_node(hop.get("for", "")) for hop in hops]
    return Origin(
        _client(chain, origin.peer, trusts),
        _last(said["Proto"], _PROTO, origin.scheme),
        _last(said["Host"], _HOST, origin.host),
        _last(said["Prefix"], _PREFIX, origin.prefix),
    )


def is_host(host: str) -> bool:
    """May this stand in a Host header? A name or an address, with or without a port."""
    return _HOST.fullmatch(host) is not None


def is_address(text: str) -> bool:
    """Whether this is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_health(path: str) -> bool:
    """Whether this is the health check, whose path may go on."""
    return path == _HEALTH or path.startswith(f"{_HEALTH}/")


def healthy(method: str, accept: str) -> Response:
    """As oslo.middleware's health check answers without backends, to any method."""
    if method == "HEAD":
        return Response(status=204)
    kind, body = _HEALTHY[_preferred(accept)]
    return Response(status=200, headers={"Content-Type": kind}, body=body)


def _preferred(accept: str) -> str:
    """The best liked form that there is; the first one where the client does not care."""
    weights = {}
    for part in accept.split(","):
        kind, *options = (one.strip() for one in part.split(";"))
        weight = next((one[2:] for one in options if one.startswith("q=")), "1")
        weights[kind.lower()] = float(weight) if re.fullmatch(r"[01](\.\d{0,3})?", weight) else 1.0
    liked = {
        kind: weights.get(kind, weights.get(f"{kind.partition('/')[0]}/*", weights.get("*/*", 0.0)))
        for kind in _HEALTHY
    }
    return max(liked, key=lambda kind: liked[kind])


def _pairs(hop: str) -> Iterable[tuple[str, str]]:
    for part in hop.split(";"):
        if found := _PAIR.fullmatch(part.strip()):
            yield found[1].lower(), found[2] if found[2] is not None else found[3]


def _node(said: str) -> str:
    """The address of a node, without its port."""
    return said[1:].partition("]")[0] if said.startswith("[") else said.partition(":")[0]


def _client(chain: Iterable[str], peer: str, trusts: Callable[[str], bool]) -> str:
    """The last address in the chain that no proxy of ours has."""
    for address in reversed([part.strip() for part in chain]):
        if not is_address(address):
            break
        peer = address
        if not trusts(address):
            break
    return peer


def _last(said: str, form: re.Pattern[str], default: str) -> str:
    """What the nearest proxy said, when it has this form."""
    value = said.rpartition(",")[2].strip()
    return value if value and form.fullmatch(value) else default


def _allowed(cors: Cors, headers: Headers) -> Mapping[str, str]:
    """What the request that is announced may be; nothing when it may not."""
    method = headers.get("Access-Control-Request-Method", "")
    wanted = [one.strip() for one in headers.get("Access-Control-Request-Headers", "").split(",") if one.strip()]
    known = _SIMPLE | {one.lower() for one in cors.allow_headers}
    if method not in cors.allow_methods or not {one.lower() for one in wanted} <= known:
        return {}
    allowed = {"Access-Control-Allow-Methods": method}
    if cors.max_age:
        allowed["Access-Control-Max-Age"] = str(cors.max_age)
    if wanted:
        allowed["Access-Control-Allow-Headers"] = ",".join(wanted)
    return allowed
