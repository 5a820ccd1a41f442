"""What HAProxy is told when it stands before controllers, or before the sites of a region.

One place for it: `rkctl up --engines` runs what is rendered here, and configs/haproxy.cfg is a sample of it.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from regional_keystone.settings import ConfigurationError, Limits, is_loopback

CONNECTIONS: Final = Limits().connections * 9 // 10
"""Connections to one server of ours: below [limits] connections, so that its own refusal is never met."""

_HEAD: Final = """\
global
    log stdout format raw local0 notice
    maxconn {maxconn}
    ssl-default-bind-options ssl-min-ver TLSv1.2

defaults
    mode http
    log global
    option dontlognull
    # a server gives up by itself after 8 s at the most (its own deadlines): these are for what is frozen or gone
    timeout connect 1s
    timeout queue 5s
    timeout server 30s
    timeout check 1s
    # clients: a request, its body included, has 20 s; idle connections are closed before a server would (60 s)
    timeout http-request 20s
    timeout http-keep-alive 50s
    timeout client 60s
    # A request whose server was lost is tried at another one. What changes something is tried again only when it
    # was never sent (conn-failure): nobody can know whether a POST that was not answered was carried out.
    retries 3
    option redispatch 1
    option http-buffer-request
    retry-on conn-failure empty-response response-timeout
    # leave a server 0.4 s after it has ended; one that is not ready (no keys yet, ending) is asked nothing
    option httpchk
    http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host health
    http-check expect status 200
    default-server inter 1s fastinter 200ms downinter 500ms fall 2 rise 2 maxconn {connections}
"""

_PROXY: Final = """
# {purpose}
listen {name}
    bind {bind}
    maxconn {maxconn}
    # a client stays with one server, so that it reads what it has just written; where very many clients share one
    # address, `balance leastconn` spreads better, and a change may be seen some milliseconds later
    balance source
    hash-type consistent
    http-request disable-l7-retry unless METH_GET
    # a validation takes milliseconds: a server that is silent for this long is frozen, and another one is asked
    http-request set-timeout server 5s if METH_GET {{ path /v3/auth/tokens }}
    # believed from the addresses in [listen] trusted_proxies; what a client says in these headers is not passed on
    http-request del-header X-Forwarded-For
    http-request del-header X-Forwarded-Prefix
    http-request set-header X-Forwarded-For %[src]
    http-request set-header X-Forwarded-Proto http
    http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
    http-request set-header X-Forwarded-Host %[req.hdr(Host)]
"""

_SAMPLE: Final = """\
# HAProxy 2.6 or newer before two controllers, and before the two sites of a region (the latter usually on machines of
# that region). Made by `make golden` from controller/haproxy_config.py.
#
# Each server behind it needs, in its own file:
#   [listen] host = an address that only this machine reaches, trusted_proxies = this machine's address,
#            public_endpoint = the address that clients use,
#            admin_host = an address that this machine reaches, for the health checks.
# Sites reach controllers at their stream ports, directly: [site] controllers names all of them.

"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One process of ours: its public port, and the private one whose /readyz is asked."""

    name: str
    host: str
    port: int
    admin_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """One address that clients use, and the servers that answer there."""

    name: str
    purpose: str
    host: str
    port: int
    servers: Sequence[Server]
    certificate: Path | None = None


def render(proxies: Sequence[Proxy], connections: int = CONNECTIONS) -> str:
    """A whole configuration; `connections` are those to one server.

    Raises ConfigurationError where passwords would cross a network in clear.
    """
    whole = 2 * max(len(one.servers) for one in proxies) * connections
    return _HEAD.format(maxconn=whole * len(proxies), connections=connections) + "".join(
        _proxy(one, whole) for one in proxies
    )


def sample() -> str:
    """configs/haproxy.cfg."""
    certificate = Path("/etc/haproxy/identity.pem")
    return _SAMPLE + render(
        [
            Proxy(
                name="controllers",
                purpose="Controllers: each answers any request. identity.pem holds certificate chain and key.",
                host="0.0.0.0",  # noqa: S104  with TLS
                port=5443,
                certificate=certificate,
                servers=[
                    Server(name="controller-1", host="10.0.0.11", port=5000, admin_port=5001),
                    Server(name="controller-2", host="10.0.0.12", port=5000, admin_port=5001),
                ],
            ),
            Proxy(
                name="region",
                purpose="A region: its sites, each of which may have several workers at its port.",
                host="0.0.0.0",  # noqa: S104  with TLS
                port=5000,
                certificate=certificate,
                servers=[
                    Server(name="site-1", host="10.0.1.11", port=5000, admin_port=5001),
                    Server(name="site-2", host="10.0.1.12", port=5000, admin_port=5001),
                ],
            ),
        ]
    )


def _proxy(proxy: Proxy, maxconn: int) -> str:
    text = _PROXY.format(purpose=proxy.purpose, name=proxy.name, bind=_bind(proxy), maxconn=maxconn)
    return text + "".join(
        f"    server {one.name} {_at(one.host, one.port)} check port {one.admin_port}\n" for one in proxy.servers
    )


def _bind(proxy: Proxy) -> str:
    address = _at(proxy.host, proxy.port)
    if proxy.certificate:
        return f"{address} ssl crt {proxy.certificate} alpn h2,http/1.1"
    if not is_loopback(proxy.host):
        raise ConfigurationError(f"{proxy.name}: {proxy.host} is not loopback, so the proxy needs a certificate")
    return address


def _at(host: str, port: int) -> str:
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        version = 4
    return f"[{host}]:{port}" if version == 6 else f"{host}:{port}"
