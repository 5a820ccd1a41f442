"""The controller's own sections, beside all of a site's: a controller is a site that may also append."""
# ruff: noqa: RUF009  `option` is `dataclasses.field` with its facts

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from controller.turning import Terms, least_active_keys
from regional_keystone import settings
from regional_keystone.issue import SKEW_S
from regional_keystone.settings import ConfigurationError, option

_SECOND_US = 1_000_000
OF_SITES = ("site.join_token_file", "site.controllers")
"""Options that only a site has a use for, though a controller knows its sections."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """[controller]: the federation as a whole."""

    region: str = option("Global", "The controller's own region in the catalog.")
    name: str = option("", "What this one of several controllers is called in their status; empty: the machine's name.")
    authority_dir: Path | None = option(
        None, "Directory of the federation's CA and signing keys, the same at all controllers; default: in state_dir."
    )
    poll_s: float = option(
        0.2,
        "Seconds between looks for what another controller has appended; more than 0.6 is as good as 0.6.",
        least=0.01,
        most=5,
    )
    trust_clock: bool = option(
        False,  # noqa: FBT003
        "Write by this clock though most sites' clocks, or the log's newest entry, say that it is wrong.",
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """[stream]: where sites join and connect, by mutually authenticated TLS."""

    host: str = option("127.0.0.1", "Address that sites connect to.")
    port: int = option(5002, "Port that sites connect to.", least=1, most=65535)
    advertise: str = option("", "https://host:port as sites reach it; empty: https://host:port of this section.")
    others: tuple[str, ...] = option(
        (), "https://host:port of every other controller as sites reach it; all are in the join tokens."
    )
    certificate_lifetime_s: int = option(
        604_800, "Life of a site's certificate, renewed at half, after a longer cut by the site's key.", least=60
    )
    join_token_s: int = option(3600, "Seconds that a join token of `rkctl region add` can be used.", least=1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """[bootstrap]: what is made in an empty state; without a password file, `rkctl bootstrap` makes it."""

    password_file: Path | None = option(None, "File, mode 0600, with the first administrator's password.")
    username: str = option("admin", "Name of the first administrator.")
    project_name: str = option("admin", "Name of the first project.")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Zookeeper:
    """[zookeeper]: who of several controllers turns the keys; without hosts there is one controller."""

    hosts: tuple[str, ...] = option((), "host:port of each server.")
    path: str = option("/regional-keystone", "Node below which ours lie.")
    username: str = option("", "User of the digest scheme; empty: the nodes are open to all who reach the servers.")
    password_file: Path | None = option(None, "File, mode 0600, with the user's password.")
    session_timeout_s: float = option(
        4.0, "Seconds of silence after which the servers end the session; they must allow it.", least=1, most=10
    )
    tls_ca: Path | None = option(None, "CA of the servers' certificates in PEM; turns on TLS with host check.")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings(settings.Settings):
    """All sections of a controller. An empty file is the embedded mode."""

    controller: Controller = Controller()
    stream: Stream = Stream()
    bootstrap: Bootstrap = Bootstrap()
    zookeeper: Zookeeper = Zookeeper()

    def check(self) -> None:
        """As for a site, and that the keys which are needed are allowed."""
        super(Settings, self).check()  # a class with slots is made twice, and the short form knows the first one
        most, keys, token = self.keys.max_active_keys, self.keys, self.token
        least = least_active_keys(terms(self))
        if not most or most >= least:
            return
        cure = f"set {least} or more, or 0 for as many as it takes"
        if not keys.rotation_interval:
            raise ConfigurationError(f"keys.max_active_keys = {most}: a ring that turns has {least} keys; {cure}")
        raise ConfigurationError(
            f"keys.max_active_keys = {most} is too small: tokens would outlive their keys, of which there are"
            " ceil((token.expiration + token.allow_expired_window + keys.isolation_s) / keys.rotation_interval) + 2 ="
            f" ceil(({token.expiration} + {token.allow_expired_window} + {keys.isolation_s:g})"
            f" / {keys.rotation_interval}) + 2 = {least}; {cure}, or turn less often"
        )


def checked(file: Path | None, sets: Sequence[str], *, site: bool) -> settings.Settings:
    """What a program of the named kind is told by these. Raises ConfigurationError, also where it is another kind's."""
    if site:
        try:
            return settings.load(settings.Settings, file, sets)
        except ConfigurationError as error:
            if _is_read_by_a_controller(file, sets):
                raise ConfigurationError(f"{error}: these are a controller's settings; leave --site away") from None
            raise
    found = settings.load(Settings, file, sets)
    if found.site.join_token_file or found.site.controllers:
        raise ConfigurationError(f"{file or 'these'}: only a site has {' and '.join(OF_SITES)}; check it with --site")
    return found


def _is_read_by_a_controller(file: Path | None, sets: Sequence[str]) -> bool:
    try:
        settings.load(Settings, file, sets)
    except ConfigurationError:
        return False
    return True


def terms(settings: Settings) -> Terms:
    """What keys are turned and kept by."""
    token, keys = settings.token, settings.keys
    return Terms(
        lifetime_us=token.expiration * _SECOND_US,
        allow_expired_us=token.allow_expired_window * _SECOND_US,
        isolation_us=int(keys.isolation_s * _SECOND_US),
        skew_us=int((SKEW_S + settings.freshness.skew_s) * _SECOND_US),
        interval_us=keys.rotation_interval * _SECOND_US,
    )
