"""Symbols for volatile values, and replay of recorded exchanges.

Standard library only.  Used by record_upstream.py to write
upstream/exchanges.json and by tests to replay the same battery on another
server and compare.

An exchange is a dictionary:

    section   exchanges of one section depend only on earlier ones of the same
              section, and on a freshly bootstrapped server
    name      unique within the file
    request   method, path, headers, body (JSON) or raw (text); symbols such
              as <id:project:alpha> stand for values learnt before
    capture   {symbol: where}; where is "header:NAME" or a dotted path in the
              JSON body of the response ("token.audit_ids.0"); a part such as
              "roles[name=admin]" picks the member of a list
    pause     seconds to wait before the request (revocations have a
              resolution of one second)
    global    true if the answer depends on what other sections left behind:
              compare only when the whole file is played on a fresh server
    alone     true if it is global and was recorded without the other sections:
              never compare
    order     true if the answer depends on the order of an unordered list
              (paging): compare the status only
    response  status, headers, body (JSON, text or null), all normalised

Usage in a test:

    player = Player('127.0.0.1', 5000, variables={'admin_password': '...'})
    for x in load('upstream/exchanges.json')['exchanges']:
        actual = player.play(x)
        expected = x['response']
        differences = compare(expected, actual)

`Player.play` expands the symbols, sends the request, captures values and
returns the normalised response.  Start a new Player for each section.
"""

import http.client
import json
import re
import time

# Response headers which are not compared.
IGNORED_HEADERS = {"date", "server", "content-length", "connection", "keep-alive", "via", "transfer-encoding"}

_SYMBOL = re.compile(r"<[A-Za-z_]+(?::[^<>]*)?>")
_PATTERNS = [
    (re.compile(r"req-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<request-id>"),
    (re.compile(r"\bgAAAA[A-Za-z0-9_=-]{40,}"), "<token>"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"), "<time>"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(?!\d)"), "<time:noZ>"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "<time:seconds>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?"), "<time:text>"),
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<id64>"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "<id>"),
]
# Lists whose order means something.
_ORDERED = {"parents"}
# Lists of plain strings without a defined order.
_UNORDERED_TEXT = {"tags", "methods"}


def load(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


class Symbols:
    """Two-way table between symbols and the values of one server."""

    strict = False  # True: an unknown symbol in a request is an error

    def __init__(self, base_url=""):
        self.values = {}
        self.base_url = base_url

    def bind(self, symbol, value):
        self.values[symbol] = value

    def expand(self, data):
        """Replace symbols by values."""
        if isinstance(data, str):
            whole = data[1:-1] if _SYMBOL.fullmatch(data) else None
            if whole is not None and whole in self.values:
                return self.values[whole]

            def put(m):
                key = m.group(0)[1:-1]
                if key == "url":
                    return self.base_url
                if key not in self.values:
                    if not self.strict:
                        return "unknown-" + re.sub(r"\W", "-", key)
                    raise KeyError(f"symbol {m.group(0)} has no value")
                return str(self.values[key])

            return _SYMBOL.sub(put, data)
        if isinstance(data, list):
            return [self.expand(v) for v in data]
        if isinstance(data, dict):
            return {self.expand(k): self.expand(v) for k, v in data.items()}
        return data

    def fold_text(self, text):
        if self.base_url:
            text = text.replace(self.base_url, "<url>")
        # Longest first; short values are never searched for in a text.
        for key, value in sorted(self.values.items(), key=lambda kv: -len(str(kv[1]))):
            if isinstance(value, str) and len(value) >= 20 and not key.startswith("var:"):
                text = text.replace(value, f"<{key}>")
        for pattern, symbol in _PATTERNS:
            text = pattern.sub(symbol, text)
        return text

    def fold(self, data, key=None):
        """Replace values by symbols; sort what has no order."""
        if isinstance(data, str):
            return self.fold_text(data)
        if isinstance(data, list):
            if key == "audit_ids":
                return [self._audit(v) for v in data]
            out = [self.fold(v) for v in data]
            if out and key not in _ORDERED and (key in _UNORDERED_TEXT or all(isinstance(v, dict) for v in out)):
                out.sort(key=lambda v: json.dumps(v, sort_keys=True))
            return out
        if isinstance(data, dict):
            return {self.fold_text(k): self.fold(v, k) for k, v in data.items()}
        return data

    def _audit(self, value):
        folded = self.fold(value)
        return folded if folded != value else "<audit>"


def pick(data, where):
    """Follow a dotted path; None if it does not exist."""
    for part in where.split("."):
        m = re.fullmatch(r"(\w*)\[(\w+)=([^\]]*)\]", part)
        if m:
            if m.group(1):
                data = data.get(m.group(1)) if isinstance(data, dict) else None
            data = next((v for v in data or [] if isinstance(v, dict) and v.get(m.group(2)) == m.group(3)), None)
        elif isinstance(data, list) and part.isdigit():
            data = data[int(part)] if int(part) < len(data) else None
        elif isinstance(data, dict):
            data = data.get(part)
        else:
            return None
    return data


class Player:
    """Send exchanges to one server."""

    def __init__(self, host, port, base_url=None, variables=None, timeout=60, sleep=time.sleep):
        self.host, self.port, self.timeout = host, port, timeout
        self.sleep = sleep
        self.symbols = Symbols(base_url or f"http://{host}:{port}")
        for key, value in (variables or {}).items():
            self.symbols.bind("var:" + key, value)
        self.last_raw = None

    def play(self, exchange):
        if exchange.get("pause"):
            self.sleep(exchange["pause"])
        request = exchange["request"]
        headers = self.symbols.expand(dict(request.get("headers") or {}))
        path = self.symbols.expand(request["path"])
        body = None
        if "raw" in request:
            body = request["raw"].encode("utf-8")
        elif "repeat" in request:  # a large body: [text, count]
            body = (request["repeat"][0] * request["repeat"][1]).encode()
        elif "body" in request:
            body = json.dumps(self.symbols.expand(request["body"])).encode()
            headers.setdefault("Content-Type", "application/json")
        status, got, data = self.send(request["method"], path, headers, body)
        text = data.decode("utf-8", "replace")
        try:
            parsed = json.loads(text) if text else None
        except ValueError:
            parsed = text
        self.last_raw = (status, got, parsed)
        for symbol, where in (exchange.get("capture") or {}).items():
            if where.startswith("header:"):
                value = next((v for k, v in got if k.lower() == where[7:].lower()), None)
            else:
                value = pick(parsed, where)
            if value is not None:
                self.symbols.bind(symbol, value)
        return self.normalise(status, got, parsed)

    def normalise(self, status, headers, parsed):
        names = {}
        for k, v in headers:
            if k.lower() in IGNORED_HEADERS:
                continue
            name = k.lower()
            value = self.symbols.fold_text(v)
            if name == "allow":
                value = ", ".join(sorted(p.strip() for p in value.split(",")))
            names[name] = names[name] + ", " + value if name in names else value
        return {"status": status, "headers": dict(sorted(names.items())), "body": self.symbols.fold(parsed)}

    def send(self, method, path, headers, body):
        c = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
        try:
            c.putrequest(method, path, skip_accept_encoding=True)
            for k, v in headers.items():
                if v is not None:
                    c.putheader(k, v)
            if body is not None:
                c.putheader("Content-Length", str(len(body)))
            elif method in ("POST", "PUT", "PATCH"):
                c.putheader("Content-Length", "0")
            try:
                c.endheaders(body)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the answer to a body which is too large
            r = c.getresponse()
            return r.status, r.getheaders(), r.read()
        finally:
            c.close()


def compare(expected, actual, path="", ignore=()):
    """List of differences as text; an empty list if both are the same.

    `ignore`: paths such as "body.error.message" or
    "headers.x-openstack-request-id" that are skipped.
    """
    if path in ignore:
        return []
    if isinstance(expected, dict) and isinstance(actual, dict):
        out = []
        for k in sorted(set(expected) | set(actual)):
            where = f"{path}.{k}" if path else k
            if where in ignore:
                continue
            if k not in expected:
                out.append(f"{where}: unexpected {actual[k]!r}")
            elif k not in actual:
                out.append(f"{where}: missing, expected {expected[k]!r}")
            else:
                out += compare(expected[k], actual[k], where, ignore)
        return out
    if isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            return [f"{path}: expected {len(expected)} members, got {len(actual)}: {expected!r} / {actual!r}"]
        return [d for i, (e, a) in enumerate(zip(expected, actual)) for d in compare(e, a, f"{path}.{i}", ignore)]
    if type(expected) is not type(actual) or expected != actual:
        return [f"{path}: expected {expected!r}, got {actual!r}"]
    return []
