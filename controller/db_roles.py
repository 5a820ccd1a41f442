"""Roles in a Cassandra cluster: each has the rights that it needs, and is master of no role but the project's.

Who makes a table or a role in Cassandra may drop it from then on; the migration role takes that from itself.
Source: docs/security.md, "Cassandra and ZooKeeper"
"""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import bcrypt

from regional_keystone.errors import StoreRefused, Unavailable

if TYPE_CHECKING:
    from regional_keystone.backends import CassandraDriver

CONTROLLER, MIGRATION, SITES = "rk_controller", "rk_migration", "rk_sites"
"""Roles: who appends and projects; who changes schema and roles; what all sites may read."""

_SITE = "rk_site_"
_GOVERNED = ("ALTER", "AUTHORIZE", "DESCRIBE")  # rights over a role: its password and login, who has it
_HASH_ROUNDS = 10  # as the cluster's own
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


class Roles:
    """The roles of one keyspace, made and given rights by `username`, through `say`, which repeats what is missed."""

    def __init__(
        self,
        driver: "CassandraDriver",
        keyspace: str,
        username: str,
        say: Callable[[str], Awaitable[None]],
        tell: Callable[[str], None],
    ) -> None:
        self._driver = driver
        self._keyspace = keyspace
        self._username = username
        self._say = say
        self._tell = tell

    async def controller(self, role: str, password: str) -> None:
        """Reads and writes everything of ours, and defines nothing."""
        await self._make(role, password)
        await self._grant(role, ("SELECT", "MODIFY"), f'KEYSPACE "{self._keyspace}"')
        await self._grant(role, ("SELECT",), "system_views.settings")
        await self._hand_over(role)

    async def migration(self, role: str, password: str) -> None:
        """Makes tables and roles; changes and grants no role but ours. What one of an older version had more, goes."""
        await self._make(role, password)
        for right in _GOVERNED:
            await self._say(f'REVOKE {right} ON ALL ROLES FROM "{role}"')
        rights = ("CREATE", "ALTER", "SELECT", "MODIFY", "AUTHORIZE")
        await self._grant(role, rights, f'KEYSPACE "{self._keyspace}"')
        await self._grant(role, ("CREATE",), "ALL ROLES")
        await self._grant(role, ("SELECT", "AUTHORIZE"), "system_views.settings")
        for ours in (CONTROLLER, SITES):  # to be granted, they have to be there
            await self._make(ours, None)
        known = [str(row[0]) for row in await self._driver.run("LIST ROLES", consistency="ONE")]
        for ours in (CONTROLLER, SITES, *(one for one in known if one.startswith(_SITE))):
            await self._grant(role, _GOVERNED, f'ROLE "{ours}"')

    async def sites(self, tables: Iterable[str]) -> None:
        """What all sites may read."""
        await self._make(SITES, None)
        await self._hand_over(SITES)
        await self.shared(tables)
        await self._grant(SITES, ("SELECT",), "system_views.settings")

    async def shared(self, tables: Iterable[str]) -> None:
        """Let sites read these tables."""
        for name in tables:
            await self._grant(SITES, ("SELECT",), f'"{self._keyspace}"."{name}"')

    async def site(self, name: str, password: str, tables: Iterable[str]) -> str:
        """Reads what all sites may read, and writes these tables of its own."""
        role = site_role(name)
        await self._make(role, password)
        await self._hand_over(role)
        await self._join(role)
        for table in tables:
            await self._grant(role, ("SELECT", "MODIFY"), f'"{self._keyspace}"."{table}"')
        return role

    async def lock_site(self, name: str, tables: Iterable[str]) -> str:
        """No login and no rights any more; the role stays, so that its name is nobody else's. Raises StoreRefused."""
        role = site_role(name)
        check_name(role)
        try:
            await self._say(f'ALTER ROLE "{role}" WITH LOGIN = false')
        except (StoreRefused, Unavailable) as error:
            if "doesn't exist" not in str(error):
                raise
            cure = "`rkctl region list` shows the sites' names"
            raise StoreRefused(f"there is no role {role} in this cluster; {cure}") from None
        try:
            await self._say(f'REVOKE "{SITES}" FROM "{role}"')
        except (StoreRefused, Unavailable) as error:
            if "is not a member of" not in str(error):
                raise
        for table in tables:
            for right in ("SELECT", "MODIFY"):
                await self._say(f'REVOKE {right} ON "{self._keyspace}"."{table}" FROM "{role}"')
        return role

    async def keep_no_drops(self) -> None:
        """Take from ourselves the right to drop what we have made, unless we are somebody who may drop anyway."""
        if self._username != MIGRATION:
            return
        listed = await self._driver.run(f'LIST DROP PERMISSION OF "{MIGRATION}" NORECURSIVE', consistency="ONE")
        for _, _, resource, *_ in listed:  # <table keyspace.name> or <role name>
            kind, _, name = str(resource).strip("<>").partition(" ")
            if kind == "table":
                keyspace, _, table = name.partition(".")
                await self._say(f'REVOKE DROP ON "{keyspace}"."{table}" FROM "{MIGRATION}"')
            elif kind == "role":
                await self._say(f'REVOKE DROP ON ROLE "{name}" FROM "{MIGRATION}"')

    async def _hand_over(self, role: str) -> None:
        """Let the migration role change this one, where there is one and we may say so."""
        with suppress(StoreRefused, Unavailable):
            for right in _GOVERNED:
                await self._driver.define(f'GRANT {right} ON ROLE "{role}" TO "{MIGRATION}"')

    async def _join(self, role: str) -> None:
        """Let a site's role read what all sites may read; there is no IF NOT EXISTS for this."""
        try:
            await self._say(f'GRANT "{SITES}" TO "{role}"')
        except (StoreRefused, Unavailable) as error:
            if "is a member of" not in str(error):
                raise

    async def _grant(self, role: str, rights: Iterable[str], resource: str) -> None:
        for right in rights:
            await self._say(f'GRANT {right} ON {resource} TO "{role}"')

    async def _make(self, role: str, password: str | None) -> None:
        """A role that may log in with this password, which the cluster is only given a hash of."""
        check_name(role)
        login = ""
        if password is not None:
            salt = bcrypt.gensalt(_HASH_ROUNDS, b"2a")
            login = f" WITH HASHED PASSWORD = '{bcrypt.hashpw(password.encode(), salt).decode()}' AND LOGIN = true"
        self._tell(f"role {role}")
        await self._say(f'CREATE ROLE IF NOT EXISTS "{role}"{login}')
        if login:
            await self._say(f'ALTER ROLE "{role}"{login}')  # one that was there has this password from now on


def site_role(name: str) -> str:
    """The role of a site."""
    return f"{_SITE}{name}"


def check_name(name: str) -> None:
    """Raise StoreRefused for what cannot be written between quotes as a role or a keyspace."""
    if not name or not _LETTERS.issuperset(name):
        raise StoreRefused(f"{name!r} cannot name a role or a keyspace: use letters, digits, and _ . -")
