"""One of the two servers as a client sees it: symbols go out as its own ids, and come back as symbols."""

import http.client
import json
import re
from typing import NamedTuple
from urllib.parse import quote

from tests.golden.record_upstream import normalise

GONE = "0123456789abcdef0123456789abcdef"
_SYMBOL = re.compile(r"<([a-z0-9_:-]+)>")
_HEX = re.compile(r"\b[0-9a-f]{32,64}\b")
_HEADERS = (
    "allow",
    "content-type",
    "location",
    "vary",
    "www-authenticate",
    "x-openstack-request-id",
    "x-subject-token",
)
_SHORT = 19  # no text that is shorter holds an id, a time or an address
_SECRET = ("secret", "access")  # random words of no known form
_UNORDERED = ("tags", "methods")


class Answer(NamedTuple):
    """What came back: `shown` is comparable between both sides, `raw` the parsed body as it was."""

    status: int
    shown: dict
    raw: object
    headers: dict

    @property
    def ok(self):
        return self.status < 300

    @property
    def message(self):
        """The sentence of a refusal without the dump at the end of some of upstream's, "" if there is none."""
        body = self.shown["body"]
        error = body.get("error") if isinstance(body, dict) else None
        return str(error.get("message", "")).partition("\n\nFailed validating")[0] if isinstance(error, dict) else ""


class Request(NamedTuple):
    method: str
    path: str
    body: object = None
    headers: dict = {}
    raw: str | None = None


class Side:
    def __init__(self, url):
        self.url = url
        self.values = {"gone": GONE}
        self._names = {}
        self._connection = None

    def bind(self, symbol, value):
        self.values[symbol] = value
        if isinstance(value, str) and len(value) >= 32:
            self._names[value] = f"<{symbol}>"

    def expand(self, data, quoted=False):
        """Replace symbols by this side's values. Raises KeyError for one that it has not."""
        if isinstance(data, str):
            found = _SYMBOL.fullmatch(data)
            if found:
                return self.values[found[1]]
            return _SYMBOL.sub(lambda one: quote(self.values[one[1]]) if quoted else self.values[one[1]], data)
        if isinstance(data, list):
            return [self.expand(one) for one in data]
        if isinstance(data, dict):
            return {self.expand(name): self.expand(value) for name, value in data.items()}
        return data

    def ask(self, request):
        headers = self.expand(dict(request.headers))
        path = self.expand(request.path, quoted=True)
        body = request.raw
        if body is None and request.body is not None:
            body = json.dumps(self.expand(request.body))
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        status, got, data = self._send(request.method, path, headers, body)
        text = data.decode("utf-8", "replace")
        try:
            raw = json.loads(text) if text else None
        except ValueError:
            raw = text
        named = {name.lower(): value for name, value in got}
        told = {name: self._header(name, named[name]) for name in _HEADERS if name in named}
        return Answer(status, {"status": status, "headers": told, "body": self._fold(raw)}, raw, named)

    def _send(self, method, path, headers, body):
        host, _, port = self.url.removeprefix("http://").partition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        try:
            data = body.encode() if body is not None else b"" if method in ("POST", "PUT", "PATCH") else None
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _header(self, name, value):
        if name == "allow":
            return ", ".join(sorted(one.strip() for one in value.split(",")))
        return self._text(value)

    def _text(self, text):
        if len(text) < _SHORT:
            return text
        text = text.replace(self.url, "<url>")
        text = _HEX.sub(lambda one: self._names.get(one[0], one[0]), text)
        for pattern, symbol in normalise._PATTERNS:
            text = pattern.sub(symbol, text)
        return text

    def _fold(self, data, key=None):
        if isinstance(data, str):
            return f"<{key}>" if key in _SECRET else self._text(data)
        if isinstance(data, list):
            if key == "events":  # one side may need fewer to void the same tokens
                return "<events>"
            return ["<audit>"] * len(data) if key == "audit_ids" else _sorted([self._fold(one) for one in data], key)
        if isinstance(data, dict):
            return {self._text(name): self._fold(value, name) for name, value in data.items()}
        return data


def _sorted(values, key):
    if key in _UNORDERED or all(isinstance(one, dict) for one in values):
        return sorted(values, key=lambda one: json.dumps(one, sort_keys=True))
    return values
