"""Which services keep tokens where a site cannot delete them, told from the services' own configuration.

Source: keystonemiddleware 13, auth_token/_opts.py and _cache.py.
"""

import hmac
from collections.abc import Iterator, Mapping, Sequence
from configparser import Error, RawConfigParser
from pathlib import Path
from typing import NamedTuple

from regional_keystone.middleware_cache import Strategy
from regional_keystone.settings import MiddlewareCache

_FACTORY = ("keystonemiddleware.auth_token", "keystonemiddleware#auth_token")
_OWN = ("auth_url", "memcached_servers", "memcache_servers", "cache", "token_cache_time")
_SECTION = "keystone_authtoken"
_CACHE_TIME = "300"
_PORT = "11211"
_TRUE = frozenset(("1", "t", "true", "on", "y", "yes"))


class Unreached(NamedTuple):
    """Why a site cannot delete what a service keeps, and what to set."""

    why: str
    cure: str


def unreached(
    file: Path, section: MiddlewareCache, known: Sequence[Strategy], region: str | None = None
) -> list[Unreached] | None:
    """All that keeps a site with these settings from the entries of the service that this file configures.

    `region`: the site's, once it has joined. None if the file says nothing of the middleware's cache. Raises ValueError
    for a file that cannot be read.
    """
    parser = RawConfigParser(strict=False, allow_no_value=True, default_section="\0")
    try:
        parser.read_string(file.read_text(), str(file))
    except (OSError, UnicodeDecodeError, Error) as error:
        raise ValueError(getattr(error, "strerror", None) or "it is no configuration of a service") from None
    wanted = [name for name in parser.sections() if _is_meant(name, parser[name])]
    if not wanted:
        return None
    return [one for name in wanted for one in _of(name, _Options(parser[name]), section, known, region)]


class _Options:
    """One section; names as the middleware has them."""

    def __init__(self, given: Mapping[str, str | None]) -> None:
        self._given = {name.lower(): (value or "").strip() for name, value in given.items()}

    def text(self, name: str, default: str = "") -> str:
        return self._given.get(name) or default

    def holds(self, name: str) -> bool:
        return self.text(name).lower() in _TRUE

    @property
    def servers(self) -> list[str]:
        listed = self.text("memcached_servers") or self.text("memcache_servers")
        return [_address(one.strip()) for one in listed.split(",") if one.strip()]


def _is_meant(name: str, given: Mapping[str, str | None]) -> bool:
    """The section of a service, or a filter of paste that has options of its own, as Swift's proxy does."""
    if name == _SECTION:
        return True
    made_by = f"{given.get('paste.filter_factory')} {given.get('use')}"
    return any(factory in made_by for factory in _FACTORY) and any(one in given for one in _OWN)


def _of(
    name: str, options: _Options, section: MiddlewareCache, known: Sequence[Strategy], region: str | None
) -> Iterator[Unreached]:
    ours = ",".join(section.servers) or "the region's memcached"
    kept = _seconds(options.text("token_cache_time", _CACHE_TIME))
    if kept < 0:
        return  # it keeps nothing
    if cache := options.text("cache"):
        yield Unreached(
            f"[{name}] cache = {cache}: it keeps tokens through the environment, under names that are hashed once more",
            f"remove it and set memcached_servers = {ours}",
        )
        return
    if not options.servers:
        yield Unreached(
            f"[{name}] without memcached_servers: each process keeps tokens for itself, for {kept} s",
            f"set memcached_servers = {ours}; until then token_cache_time = 10",
        )
        return
    if not section.servers:
        yield Unreached(
            "the site is told of no server, and deletes nothing",
            f"set [middleware_cache] servers = {','.join(options.servers)} at the site",
        )
        return
    yield from _servers(name, options, section)
    yield from _strategy(name, options, known)
    yield from _region(name, options, region)
    if kept > section.token_cache_time:
        yield Unreached(
            f"[{name}] token_cache_time = {kept}: the site remembers for {section.token_cache_time:g} s only",
            f"set it to that at most, or [middleware_cache] token_cache_time = {kept} at the site",
        )


def _servers(name: str, options: _Options, section: MiddlewareCache) -> Iterator[Unreached]:
    others = [one for one in options.servers if one not in {_address(ours) for ours in section.servers}]
    if others:
        yield Unreached(
            f"[{name}] memcached_servers has {', '.join(others)}, which the site is not told of",
            "add it to [middleware_cache] servers at the site; names are compared as they are written",
        )
    if options.holds("memcache_sasl_enabled"):
        yield Unreached(
            f"[{name}] memcache_sasl_enabled: the site cannot log in to these servers",
            "use memcache_tls_enabled and a network of the region's own instead",
        )
    if options.holds("memcache_tls_enabled") != bool(section.tls_ca):
        theirs, ours = ("TLS", "none") if section.tls_ca is None else ("no TLS", "TLS")
        yield Unreached(
            f"[{name}] speaks {theirs} to its servers, the site {ours}",
            "set [middleware_cache] tls_ca at the site, or memcache_tls_enabled here, so that both do the same",
        )


def _strategy(name: str, options: _Options, known: Sequence[Strategy]) -> Iterator[Unreached]:
    strategy = options.text("memcache_security_strategy", "None").upper()
    wanted = "" if strategy == "NONE" else strategy
    found = [one for one in known if one.name == wanted]
    entry = "none" if not wanted else f"{wanted}:FILE"
    if not found:
        yield Unreached(
            f"[{name}] memcache_security_strategy = {strategy}, which the site is not told of",
            f"add {entry} to [middleware_cache] strategies at the site",
        )
    elif wanted and not any(
        hmac.compare_digest(one.secret, options.text("memcache_secret_key").encode()) for one in found
    ):
        yield Unreached(
            f"[{name}] memcache_secret_key is none that the site knows",
            f"add {entry} to [middleware_cache] strategies at the site, FILE with this secret",
        )


def _region(name: str, options: _Options, region: str | None) -> Iterator[Unreached]:
    """Whoever is asked deletes: without a region the middleware asks the first identity endpoint of the catalog."""
    theirs = options.text("region_name")
    if region is not None and theirs != region:
        said = f"region_name = {theirs}" if theirs else "without region_name"
        yield Unreached(
            f"[{name}] {said}: what it keeps may be the answer of another region, which this site does not delete",
            f"set region_name = {region}",
        )


def _seconds(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"token_cache_time = {text}: no number of seconds") from None


def _address(server: str) -> str:
    """host:port, as the middleware takes it without a port."""
    host, _, port = server.rpartition(":")
    return server if host and port.isdecimal() else f"{server}:{_PORT}"
