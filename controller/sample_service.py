"""A service as an operator's cloud has many: a WSGI application under stock keystonemiddleware, told where to ask.

For the tour; a process of its own, that ends with its standard input. Settings come as JSON on the first line of it.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from keystonemiddleware import auth_token


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Tells a caller whom the middleware took it for."""
    found = {name: environ.get(f"HTTP_X_{name}") for name in ("USER_NAME", "PROJECT_NAME", "ROLES")}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(found).encode()]


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base's name
        """Requests are the tour's to tell of."""


def main() -> None:
    """Serve on a free port, which is printed."""
    guarded = auth_token.AuthProtocol(application, json.loads(sys.stdin.readline()))
    server = make_server("127.0.0.1", 0, guarded, handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
