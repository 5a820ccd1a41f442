"""What can be configured: frozen dataclasses, one a section, with a default for every field.

The only reader of configuration files and of the environment. Source: oslo.config's INI, docs/settings.md.
"""
# ruff: noqa: RUF009  `option` is `dataclasses.field` with its facts

import dataclasses
import difflib
import ipaddress
import math
import os
import re
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from regional_keystone.sections import (
    HASH_ROUNDS,
    PROVIDERS,
    SCRYPT_MEMORY_BYTES,
    ApplicationCredential,
    Auth,
    Cassandra,
    Catalog,
    Convergence,
    Cors,
    Credential,
    Default,
    EndpointFilter,
    Fastpath,
    Freshness,
    Identity,
    JwtTokens,
    Keys,
    Limits,
    Listen,
    Log,
    Memcached,
    MiddlewareCache,
    Policy,
    Resource,
    Role,
    SecurityCompliance,
    Site,
    Token,
    Trust,
    UnifiedLimit,
    Workers,
    option,
)

__all__ = [
    "HASH_ROUNDS",
    "PREFIX",
    "SCRYPT_MEMORY_BYTES",
    "SYNONYMS",
    "ApplicationCredential",
    "Auth",
    "Cassandra",
    "Catalog",
    "ConfigurationError",
    "Convergence",
    "Cors",
    "Credential",
    "Default",
    "EndpointFilter",
    "Fastpath",
    "Freshness",
    "Identity",
    "JwtTokens",
    "Keys",
    "Limits",
    "Listen",
    "Log",
    "Memcached",
    "MiddlewareCache",
    "Policy",
    "Resource",
    "Role",
    "SecurityCompliance",
    "Settings",
    "Site",
    "Token",
    "Trust",
    "UnifiedLimit",
    "Workers",
    "effective",
    "environment",
    "is_loopback",
    "knows",
    "load",
    "option",
    "options",
    "plain",
    "reference",
    "sample",
    "told",
    "type_name",
]

PREFIX = "RK_"


class ConfigurationError(Exception):
    """What is configured cannot be meant; the sentence names the place and, where there is one, the cure."""

    exit_code = 2


# section.option as older documents call it: what it is called here
SYNONYMS = {("database", "cassandra_node_ips"): ("cassandra", "contact_points")}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All sections of a site. An empty file is the embedded mode."""

    default: Default = Default()
    site: Site = Site()
    listen: Listen = Listen()
    token: Token = Token()
    jwt_tokens: JwtTokens = JwtTokens()
    auth: Auth = Auth()
    identity: Identity = Identity()
    security_compliance: SecurityCompliance = SecurityCompliance()
    keys: Keys = Keys()
    freshness: Freshness = Freshness()
    limits: Limits = Limits()
    policy: Policy = Policy()
    resource: Resource = Resource()
    role: Role = Role()
    catalog: Catalog = Catalog()
    cors: Cors = Cors()
    endpoint_filter: EndpointFilter = EndpointFilter()
    unified_limit: UnifiedLimit = UnifiedLimit()
    trust: Trust = Trust()
    credential: Credential = Credential()
    application_credential: ApplicationCredential = ApplicationCredential()
    convergence: Convergence = Convergence()
    fastpath: Fastpath = Fastpath()
    log: Log = Log()
    cassandra: Cassandra = Cassandra()
    memcached: Memcached = Memcached()
    middleware_cache: MiddlewareCache = MiddlewareCache()
    workers: Workers = Workers()

    def check(self) -> None:
        """Raise ConfigurationError for what no program of this kind can start with."""
        _check_listen(self.listen)
        _check_passwords(self)
        if self.token.provider not in PROVIDERS:
            raise ConfigurationError(f"token.provider = {self.token.provider}: one of {', '.join(PROVIDERS)}")


S = TypeVar("S", bound=Settings)
Values = dict[tuple[str, str], Any]
_Given = tuple[str, str, str, str]  # section, name and value, and where this was said


def load(kind: type[S], file: Path | None, sets: Iterable[str] = (), environ: Mapping[str, str] | None = None) -> S:
    """The settings of a program: defaults, then the file, then RK_SECTION__OPTION, then section.option=value.

    Raises ConfigurationError for anything unknown, naming the place and the nearest name there is.
    """
    known = options(kind)
    values = _from_file(known, file) if file else {}
    values |= _from_environment(known, os.environ if environ is None else environ)
    values |= _from_sets(known, sets)
    settings = _build(kind, values)
    settings.check()
    return settings


def options(kind: type[Settings]) -> dict[tuple[str, str], dataclasses.Field[Any]]:
    """Every option by (section, name), in their order; the section `default` is written [DEFAULT]."""
    found = {}
    for section in dataclasses.fields(kind):
        for field in dataclasses.fields(_section(kind, section.name)):
            found[section.name, field.name] = field
    return found


def knows(kind: type[Settings], assignment: str) -> bool:
    """Whether a program of this kind has the option that `section.option=value` names."""
    named = _split(assignment)[:2]
    return SYNONYMS.get(named, named) in options(kind)


def told(kind: type[Settings], sets: Iterable[str]) -> dict[str, dict[str, str]]:
    """The last word of these on each option, as sections of a file that says the same.

    Raises ConfigurationError for what a program of this kind has not.
    """
    found: dict[str, dict[str, str]] = {}
    for (section, name), text in _from_sets(options(kind), sets).items():
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""  # a file's reader takes a pair away
        found.setdefault(_title(section), {})[name] = f'"{text}"' if quoted else text
    return found


def environment(environ: Mapping[str, str]) -> list[str]:
    """The settings in the environment as section.option=value."""
    found = []
    for name, value in environ.items():
        section, mark, option = name.removeprefix(PREFIX).lower().partition("__")
        if name.startswith(PREFIX) and mark:
            found.append(f"{section}.{option}={value}")
    return found


def effective(settings: Settings) -> str:
    """The settings as a file, for `--check`. Secrets lie in files of their own, so only their paths are in it."""
    lines = []
    for section in dataclasses.fields(settings):
        lines.append(f"[{_title(section.name)}]")
        values = getattr(settings, section.name)
        lines += [f"{field.name} = {_text(getattr(values, field.name))}" for field in dataclasses.fields(values)]
        lines.append("")
    return "\n".join(lines)


def plain(settings: Settings) -> dict[str, dict[str, Any]]:
    """The same as values of JSON."""
    return {
        _title(section): {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
        for section, values in dataclasses.asdict(settings).items()
    }


def sample(kind: type[Settings], heading: str) -> str:
    """Every option with its default as a comment."""
    lines = [f"# {heading}", "# Every option with its default. Generated by `make golden`.", ""]
    last = ""
    for (section, name), field in options(kind).items():
        if section != last:
            lines += [f"[{_title(section)}]", f"# {_about(kind, section)}", ""]
            last = section
        lines += [f"# {field.metadata['help']} ({type_name(kind, section, name)})"]
        lines += [f"#{name} = {_text(field.default)}".rstrip(), ""]
    return "\n".join(lines)


def reference(kind: type[Settings]) -> str:
    """A table for each section, in Markdown."""
    lines, last = [], ""
    for (section, name), field in options(kind).items():
        if section != last:
            lines += ["", f"## [{_title(section)}]", "", _about(kind, section), ""]
            lines += ["| Option | Type | Default | Meaning |", "|---|---|---|---|"]
            last = section
        shown = f"`{_text(field.default)}`" if _text(field.default) else ""
        lines.append(f"| `{name}` | {type_name(kind, section, name)} | {shown} | {field.metadata['help']} |")
    return "\n".join(lines[1:]) + "\n"


def type_name(kind: type[Settings], section: str, name: str) -> str:
    """What an option holds, for people."""
    match _type(kind, section, name):
        case t if t is bool:
            return "boolean"
        case t if t is int:
            return "integer"
        case t if t is float:
            return "number"
        case t if t is Path:
            return "path"
        case t if get_origin(t) is tuple:
            return "list"
        case _:
            return "string"


def _section(kind: type[Settings], name: str) -> Any:
    return get_type_hints(kind)[name]


def _type(kind: type[Settings], section: str, name: str) -> Any:
    hint = get_type_hints(_section(kind, section))[name]
    if get_origin(hint) is types.UnionType:
        return next(one for one in get_args(hint) if one is not type(None))
    return hint


def _about(kind: type[Settings], section: str) -> str:
    text = (_section(kind, section).__doc__ or "").split(": ", 1)[-1]
    return text[:1].upper() + text[1:]


def _title(section: str) -> str:
    return "DEFAULT" if section == "default" else section


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case tuple():
            return ",".join(value)
        case _:
            return str(value)


def _from_file(known: Iterable[tuple[str, str]], file: Path) -> Values:
    from oslo_config import cfg, iniparser  # noqa: PLC0415  slow to import; `--help` does without

    sections: dict[str, dict[str, list[str]]] = {}
    try:
        cfg.ConfigParser(str(file), sections).parse()
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}") from None
    except (iniparser.ParseError, ValueError) as error:
        raise ConfigurationError(f"{file}: {error}") from None
    found = _gather(
        known,
        ((title, name, values[-1], str(file)) for title, names in sections.items() for name, values in names.items()),
    )
    for title in sections:
        _known_section(known, title, str(file))
    return found


def _from_environment(known: Iterable[tuple[str, str]], environ: Mapping[str, str]) -> Values:
    given: list[_Given] = []
    for name, value in environ.items():
        if not name.startswith(PREFIX):
            continue
        section, mark, option = name.removeprefix(PREFIX).lower().partition("__")
        if not mark:
            raise ConfigurationError(f"environment: {name} is not of the form {PREFIX}SECTION__OPTION")
        given.append((section, option, value, f"environment, {name}"))
    return _gather(known, given)


def _from_sets(known: Iterable[tuple[str, str]], sets: Iterable[str]) -> Values:
    given = [_split(one) for one in sets]
    return _gather(known, ((section, name, value, f"--set {section}.{name}") for section, name, value in given))


def _gather(known: Iterable[tuple[str, str]], given: Iterable[_Given]) -> Values:
    """The last word on each option in one place; an option's two names may not say different things there."""
    said: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    found: Values = {}
    for title, name, value, place in given:
        option = _known(known, title, name, place)
        found[option] = value
        said.setdefault(option, {})[title, name] = value
        if SYNONYMS.keys() & said[option].keys() and len(set(said[option].values())) > 1:
            names = " and ".join(f"[{section}] {one}" for section, one in said[option])
            raise ConfigurationError(f"{place}: {names} name the same and have different values; leave one away")
    return found


def _split(assignment: str) -> tuple[str, str, str]:
    path, equals, value = assignment.partition("=")
    section, dot, name = path.strip().rpartition(".")
    if not equals or not dot:
        raise ConfigurationError(f"--set {assignment}: write section.option=value")
    return section.lower() if section == "DEFAULT" else section, name, value.strip()


def _known_section(known: Iterable[tuple[str, str]], title: str, place: str) -> str:
    names = dict.fromkeys(_title(section) for section, _ in known) | dict.fromkeys(title for title, _ in SYNONYMS)
    if title not in names and title != "default":
        raise ConfigurationError(f"{place}: there is no section [{title}]{_nearest(title, names)}")
    return "default" if title == "DEFAULT" else title


def _known(known: Iterable[tuple[str, str]], title: str, name: str, place: str) -> tuple[str, str]:
    if (title, name) in SYNONYMS:
        return SYNONYMS[title, name]
    section = _known_section(known, title, place)
    names = [option for one, option in (*known, *SYNONYMS) if one == section]
    if name not in names:
        raise ConfigurationError(f"{place}: there is no option {name} in [{_title(section)}]{_nearest(name, names)}")
    return section, name


def _nearest(name: str, names: Iterable[str]) -> str:
    there = list(names)
    close = difflib.get_close_matches(name, there, 1, 0.5)
    are = "is" if len(there) == 1 else "are"
    return f"; did you mean {close[0]}?" if close else f"; there {are} {', '.join(there)}"


def _build(kind: type[S], values: Values) -> S:
    known = options(kind)
    sections: dict[str, dict[str, Any]] = {}
    for (section, name), text in values.items():
        field = known[section, name]
        sections.setdefault(section, {})[name] = _read(_type(kind, section, name), text, field, f"{section}.{name}")
    return kind(**{section: _section(kind, section)(**names) for section, names in sections.items()})


def _read(kind: Any, text: str, field: dataclasses.Field[Any], place: str) -> Any:
    """The value that a text means, by oslo.config's types."""
    from oslo_config import types as oslo  # noqa: PLC0415

    least, most = field.metadata["least"], field.metadata["most"]
    if kind in (int, float) and (why := _no_number(text, field)) is not None:
        raise ConfigurationError(f"{place} = {text}: {why}")
    try:
        if kind is Path:
            return Path(text) if text else field.default
        if get_origin(kind) is tuple:
            return tuple(oslo.List()(text))
        if kind is bool:
            return oslo.Boolean()(text)
        if kind in (int, float):
            if not text.strip():
                return None
            return (oslo.Integer if kind is int else oslo.Float)(min=least, max=most)(text)
    except ValueError as error:
        raise ConfigurationError(f"{place} = {text}: {error}") from None
    return text


def _no_number(text: str, field: dataclasses.Field[Any]) -> str | None:
    """Why this can stand for no number of this option; None if it may."""
    if not text.strip():
        cure = f"give a number, or leave the option away for {_text(field.default)}"
        return None if field.default is None else f"no number is there; {cure}"
    try:
        is_finite = math.isfinite(float(text))
    except ValueError:
        return None  # the type says what is wrong
    return None if is_finite else "a finite number is needed"


def _check_listen(listen: Listen) -> None:
    """Passwords and tokens never cross a network in clear."""
    if (listen.tls_cert is None) != (listen.tls_key is None):
        raise ConfigurationError("listen: tls_cert and tls_key are given together or not at all")
    for proxy in listen.trusted_proxies:
        try:
            ipaddress.ip_network(proxy, strict=False)
        except ValueError as error:
            raise ConfigurationError(f"listen.trusted_proxies: {error}") from None
    if not (is_loopback(listen.host) or listen.tls_cert or listen.trusted_proxies):
        raise ConfigurationError(
            f"listen.host = {listen.host} is not loopback: set listen.tls_cert and tls_key,"
            " or name the proxies that speak TLS in listen.trusted_proxies"
        )


def _check_passwords(settings: Settings) -> None:
    """No program starts with hashes that it cannot make, or a rule that nobody can meet."""
    section = settings.identity
    algorithm = section.password_hash_algorithm
    bounds = HASH_ROUNDS.get(algorithm)
    if bounds is None:
        known = ", ".join(HASH_ROUNDS)
        raise ConfigurationError(f"identity.password_hash_algorithm = {algorithm}: one of {known}")
    rounds = section.password_hash_rounds
    if rounds is not None and not bounds[0] <= rounds <= bounds[1]:
        raise ConfigurationError(
            f"identity.password_hash_rounds = {rounds}: {algorithm} takes {bounds[0]} to {bounds[1]}"
        )
    if algorithm == "scrypt":
        memory_bytes = 128 * 2 ** (16 if rounds is None else rounds) * section.scrypt_block_size
        if memory_bytes > SCRYPT_MEMORY_BYTES:
            raise ConfigurationError("identity: scrypt of these rounds and block size needs more than 512 MiB for each")
    try:
        re.compile(settings.security_compliance.password_regex)
    except re.error as error:
        raise ConfigurationError(f"security_compliance.password_regex: {error}") from None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
