"""The first domain, administrator, roles and catalog: what `keystone-manage bootstrap` makes. Safe to repeat.

What exists is left as it is: a second run never resets a password. Source: keystone/cmd/bootstrap.py.
"""

import secrets
import uuid
from collections.abc import Iterable

import structlog

from controller.commit import Sequencer
from regional_keystone.log import Change, put
from regional_keystone.model import Endpoint, Grant, Implication, Project, Region, Role, Service, User
from regional_keystone.overlay import Overlay, Recording, transact
from regional_keystone.passwords import How, hash_password

log = structlog.get_logger("bootstrap")

DOMAIN = "default"
ROLES = ("admin", "manager", "member", "reader", "service")
IMPLICATIONS = (("admin", "manager"), ("manager", "member"), ("member", "reader"))
INTERFACES = ("public", "internal", "admin")


async def bootstrap(
    overlay: Overlay, sequencer: Sequencer, *, username: str, project: str, password: str, how: How, now: int
) -> None:
    """Make the default domain, the roles, the administrator with its project and its grants on project and system."""
    password_hash = await hash_password(password, how)

    async def decide(reader: Recording) -> tuple[list[Change], None]:
        changes: list[Change] = []
        if await reader.get(Project, DOMAIN) is None:
            default = Project(id=DOMAIN, name="Default", is_domain=True, description="The default domain", options={})
            changes.append(put(default))
        projects = await reader.find(Project, domain_id=DOMAIN, name=project)
        home = projects[0] if projects else _project(project)
        users = await reader.find(User, domain_id=DOMAIN, name=username)
        admin = users[0] if users else _user(username, password_hash, now)
        changes += [put(new) for new, found in ((home, projects), (admin, users)) if not found]
        roles = {name: await _role(reader, name, changes) for name in ROLES}
        await _imply(reader, roles, changes)
        await _grant(reader, admin.id, "project", home.id, roles["admin"], changes)
        await _grant(reader, admin.id, "system", "system", roles["admin"], changes)
        return changes, None

    _, position = await transact(overlay, sequencer, f"bootstrap/{secrets.token_hex(8)}", decide)
    if position is not None:
        log.info("bootstrapped", position=position)


async def has_administrator(overlay: Overlay) -> bool:
    """Whether anybody, or a group, has the role admin on the system."""
    roles = {role.id for role in await overlay.find(Role, domain_id=None, name="admin")}
    return any(one.target == "system" and one.role_id in roles for one in await overlay.find(Grant, target_id="system"))


async def identity_endpoints(overlay: Overlay, sequencer: Sequencer, region: str, url: str) -> None:
    """The region, the identity service, and this region's identity endpoints at `url`, all three interfaces."""

    async def decide(reader: Recording) -> tuple[list[Change], None]:
        changes: list[Change] = []
        if await reader.get(Region, region) is None:
            changes.append(put(Region(id=region)))
        services = [service async for service in reader.scan(Service) if service.type == "identity"]
        service = services[0] if services else Service(id=_id(), type="identity", name="keystone")
        if not services:
            changes.append(put(service))
        known = {
            one.interface: one for one in await reader.find(Endpoint, region_id=region) if one.service_id == service.id
        }
        changes += _endpoints(known, service.id, region, url)
        return changes, None

    await transact(overlay, sequencer, f"endpoints/{region}/{secrets.token_hex(8)}", decide)


def _endpoints(known: dict[str, Endpoint], service_id: str, region: str, url: str) -> Iterable[Change]:
    for interface in INTERFACES:
        old = known.get(interface)
        if old is None or old.url != url:
            fresh = old.id if old else _id()
            yield put(Endpoint(id=fresh, service_id=service_id, interface=interface, url=url, region_id=region), old)


async def _role(reader: Recording, name: str, changes: list[Change]) -> str:
    found = await reader.find(Role, domain_id=None, name=name)
    if found:
        return found[0].id
    role = Role(id=_id(), name=name, options={"immutable": True})
    changes.append(put(role))
    return role.id


async def _imply(reader: Recording, roles: dict[str, str], changes: list[Change]) -> None:
    for prior, implied in IMPLICATIONS:
        if await reader.get(Implication, roles[prior], roles[implied]) is None:
            changes.append(put(Implication(prior_role_id=roles[prior], implied_role_id=roles[implied])))


async def _grant(reader: Recording, user: str, target: str, target_id: str, role: str, changes: list[Change]) -> None:
    if await reader.get(Grant, user, "user", target, target_id, role, False) is None:
        changes.append(put(Grant(actor_id=user, actor="user", target=target, target_id=target_id, role_id=role)))


def _project(name: str) -> Project:
    about = "Bootstrap project for initializing the cloud."
    return Project(id=_id(), name=name, domain_id=DOMAIN, parent_id=DOMAIN, description=about)


def _user(name: str, password_hash: str, now: int) -> User:
    return User(
        id=_id(), domain_id=DOMAIN, name=name, password_hash=password_hash, password_changed_at=now, created_at=now
    )


def _id() -> str:
    return uuid.uuid4().hex
