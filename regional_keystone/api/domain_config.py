"""Configuration of domains: whole, by group and by option; its defaults; what everybody may know of passwords' rules.

What may be set is a list of names, as upstream has it, so that an option that is new there does not slip in here. A
secret is sealed before it is stored, and is never shown. Source: keystone/resource/core.py (DomainConfigManager),
keystone/api/domains.py.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from regional_keystone.api.rules import DEFAULT_DOMAIN
from regional_keystone.api.sealing import Keys, opened, seal
from regional_keystone.api.shapes import Attributes, Call, Result, Route, Shape
from regional_keystone.errors import Forbidden, Invalid, NotFound
from regional_keystone.log import Change, put, remove
from regional_keystone.model import DomainOption, Project
from regional_keystone.ports import Reader
from regional_keystone.settings import SecurityCompliance

_COMPLIANCE = "security_compliance"
_READABLE = ("password_regex", "password_regex_description")
_LDAP: Mapping[str, Any] = {
    "url": "ldap://localhost",
    "user": None,
    "suffix": "cn=example,cn=com",
    "query_scope": "one",
    "page_size": 0,
    "alias_dereferencing": "default",
    "debug_level": None,
    "chase_referrals": None,
    "user_tree_dn": None,
    "user_filter": None,
    "user_objectclass": "inetOrgPerson",
    "user_id_attribute": "cn",
    "user_name_attribute": "sn",
    "user_mail_attribute": "mail",
    "user_description_attribute": "description",
    "user_pass_attribute": "userPassword",
    "user_enabled_attribute": "enabled",
    "user_enabled_invert": False,
    "user_enabled_mask": 0,
    "user_enabled_default": "True",
    "user_attribute_ignore": ["default_project_id"],
    "user_default_project_id_attribute": None,
    "user_enabled_emulation": False,
    "user_enabled_emulation_dn": None,
    "user_enabled_emulation_use_group_config": False,
    "user_additional_attribute_mapping": [],
    "group_tree_dn": None,
    "group_filter": None,
    "group_objectclass": "groupOfNames",
    "group_id_attribute": "cn",
    "group_name_attribute": "ou",
    "group_members_are_ids": False,
    "group_member_attribute": "member",
    "group_desc_attribute": "description",
    "group_attribute_ignore": [],
    "group_additional_attribute_mapping": [],
    "tls_cacertfile": None,
    "tls_cacertdir": None,
    "use_tls": False,
    "tls_req_cert": "demand",
    "use_pool": True,
    "pool_size": 10,
    "pool_retry_max": 3,
    "pool_retry_delay": 0.1,
    "pool_connection_timeout": -1,
    "pool_connection_lifetime": 600,
    "use_auth_pool": True,
    "auth_pool_size": 100,
    "auth_pool_connection_lifetime": 60,
}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {"identity": {"driver": "sql", "list_limit": None}, "ldap": _LDAP}
"""What may be set and is shown, with upstream's defaults; a domain without configuration has these."""

SECRETS: Mapping[str, frozenset[str]] = {"identity": frozenset(), "ldap": frozenset(("password",))}
"""What may be set and is never shown."""


def shapes(keys: Keys | None = None, rules: SecurityCompliance = SecurityCompliance()) -> list[Shape]:  # noqa: B008
    """Everything here; without keys no secret can be set."""
    at = _Configurations(keys, rules)
    whole = "/domains/{domain_id}/config"
    group, option = f"{whole}/{{group}}", f"{whole}/{{group}}/{{option}}"
    found: list[Shape] = [Route(method="PUT", path=whole, handle=at.create, changes="log")]
    for path in (whole, group, option):
        found += [
            Route(method="GET", path=path, handle=at.show),
            Route(method="PATCH", path=path, handle=at.update, changes="log"),
            Route(method="DELETE", path=path, handle=at.delete, changes="log"),
        ]
    every = "/domains/config"
    defaults = (f"{every}/default", f"{every}/{{group}}/default", f"{every}/{{group}}/{{option}}/default")
    return [*found, *(Route(method="GET", path=path, handle=_default) for path in defaults)]


async def with_secrets(reader: Reader, keys: Keys, domain_id: str) -> Attributes:
    """A domain's whole configuration for who acts by it: secrets opened, and put where options name them.

    `%(password)s` stands for the option `password`; a text in which something else is named stays as it is. Raises
    Unavailable for a secret that no key of the ring opens.
    """
    rows = await reader.find(DomainOption, domain_id=domain_id)
    values: list[tuple[DomainOption, Any]] = []
    for row in rows:
        sealed = row.key_hash is not None
        text = opened(keys, row.blob, f"{row.option} of domain {domain_id}") if sealed else row.blob
        values.append((row, msgspec.json.decode(text)))
    secrets = _Named({row.option: value for row, value in values if row.key_hash is not None})
    return _arranged((row, value if row.key_hash else _substituted(value, secrets)) for row, value in values)


class _Named(dict[str, Any]):
    """What a text may name one by one; a text that asks for all of it is no better than one that is malformed."""

    def __repr__(self) -> str:
        raise TypeError("secrets are named one by one")


class _Configurations:
    """The handlers, the ring that secrets are sealed with, and the rules for passwords that are told."""

    def __init__(self, keys: Keys | None, rules: SecurityCompliance) -> None:
        self._keys = keys
        self._rules = rules

    async def create(self, call: Call) -> Result:
        """A configuration instead of the one that there may be."""
        call.enforce("identity:create_domain_config")
        await _check_domain(call)
        config = _sent(call)
        _check_config(config)
        old = await call.reader.find(DomainOption, domain_id=call.path["domain_id"])
        new = [await self._row(call, *one) for one in _each(config)]
        body = {"config": _shown(new)}
        return Result(status=200 if old else 201, body=body, changes=_replacing(old, new))

    async def show(self, call: Call) -> Result:
        """What is set and may be shown."""
        if call.path.get("group") == _COMPLIANCE:
            call.enforce("identity:get_security_compliance_domain_config")
            return Result(body={"config": self._compliance(call)})
        call.enforce("identity:get_domain_config")
        _check_supported(call.path.get("group"), call.path.get("option"))
        rows = [row for row in await _rows(call) if row.key_hash is None]
        if not rows:
            raise _missing(call)
        return Result(body={"config": _shown(rows, call.path.get("option"))})

    async def update(self, call: Call) -> Result:
        """The configuration with what was sent; a group or an option that the path names must be there."""
        call.enforce("identity:update_domain_config")
        await _check_domain(call)
        group, option = call.path.get("group"), call.path.get("option")
        config = {group: call.body.get("config", {})} if group and option else _sent(call)
        _check_config(config)
        _check_supported(group, option)
        if group:
            _check_named(config, group, option)
            if not await _rows(call):
                raise _missing(call)
        old = await call.reader.find(DomainOption, domain_id=call.path["domain_id"])
        new = {(row.group, row.option): row for row in old}
        for one in _each(config):
            new[one[:2]] = await self._row(call, *one)
        kept = [new[name] for name in sorted(new)]
        return Result(body={"config": _shown(kept)}, changes=_replacing(old, kept))

    async def delete(self, call: Call) -> Result:
        """The end of all, of a group or of an option."""
        call.enforce("identity:delete_domain_config")
        await _check_domain(call)
        group, option = call.path.get("group"), call.path.get("option")
        _check_supported(group, option)
        rows = await _rows(call)
        if group and not rows:
            whole = await call.reader.find(DomainOption, domain_id=call.path["domain_id"])
            raise _missing(call, group, option if any(row.group == group for row in whole) else None)
        return Result(status=204, changes=tuple(remove(row) for row in rows))

    async def _row(self, call: Call, group: str, option: str, value: Any) -> DomainOption:
        domain_id, text = call.path["domain_id"], msgspec.json.encode(value)
        if option not in SECRETS[group]:
            return DomainOption(domain_id=domain_id, group=group, option=option, blob=text)
        blob, key_hash = await seal(call, self._keys, text.decode())
        return DomainOption(domain_id=domain_id, group=group, option=option, blob=blob, key_hash=key_hash)

    def _compliance(self, call: Call) -> Attributes:
        option = call.path.get("option")
        if call.path["domain_id"] != DEFAULT_DOMAIN:
            raise _refusal(
                "Reading security compliance information for any domain other than the default domain is not allowed "
                "or supported."
            )
        if option is not None and option not in _READABLE:
            raise _refusal(
                "Reading security compliance values other than password_regex and password_regex_description is not "
                "allowed."
            )
        found = {name: getattr(self._rules, name) or None for name in _READABLE}
        return {_COMPLIANCE: found} if option is None else {option: found[option]}


async def _default(call: Call) -> Result:
    call.enforce("identity:get_domain_config_default")
    group, option = call.path.get("group"), call.path.get("option")
    _check_supported(group, option)
    if group is None:
        return Result(body={"config": DEFAULTS})
    if option is None:
        return Result(body={"config": {group: DEFAULTS[group]}})
    if option not in DEFAULTS[group]:
        raise _refusal(f"Reading the default for option {option} in group {group} is not supported")
    return Result(body={"config": {option: DEFAULTS[group][option]}})


async def _check_domain(call: Call) -> None:
    key = call.path["domain_id"]
    domain = await call.reader.get(Project, key)
    if domain is None or not domain.is_domain:
        raise NotFound(f"Could not find domain: {key}.")


def _sent(call: Call) -> Attributes:
    config = call.body.get("config", {})
    if not isinstance(config, dict | None):
        raise Invalid("Invalid input for field/attribute config. It is not of type 'object'")
    return config or {}


def _check_config(config: Mapping[str, Any]) -> None:
    """Raise Forbidden unless these are groups of options that may be set. Values may be secrets: none is told."""
    if not config:
        raise _refusal("No options specified")
    for group, options in config.items():
        if not options or not isinstance(options, dict):
            raise _refusal(f"The value of group {group} specified in the config should be a dictionary of options")
        for option in options:
            _check_supported(group, option)


def _check_supported(group: str | None, option: str | None) -> None:
    if group is None:
        return
    if group not in DEFAULTS:
        raise _refusal(f"Group {group} is not supported for domain specific configurations")
    if option is not None and option not in DEFAULTS[group] and option not in SECRETS[group]:
        raise _refusal(f"Option {option} in group {group} is not supported for domain specific configurations")


def _check_named(config: Mapping[str, Any], group: str, option: str | None) -> None:
    """Raise Forbidden unless the configuration is of what the path names, and of nothing else."""
    only = "that, and only that,"
    if option is not None and len(config[group]) != 1:
        updating = f"Trying to update option {option} in group {group}"
        raise _refusal(f"{updating}, so {only} option must be specified  in the config")
    if len(config) != 1:
        raise _refusal(f"Trying to update group {group}, so {only} group must be specified in the config")
    if group not in config:
        other = next(iter(config))
        raise _refusal(f"request to update group {group}, but config provided contains group {other} instead")
    if option is not None and option not in config[group]:
        other = next(iter(config[group]))
        updating = f"Trying to update option {option} in group {group}"
        raise _refusal(f"{updating}, but config provided contains option {other} instead")


def _refusal(reason: str) -> Forbidden:
    return Forbidden(f"Invalid domain specific configuration: {reason}.")


def _missing(call: Call, group: str | None = None, option: str | None = None) -> NotFound:
    """What the path names is not there; or, of it, this group or option is not."""
    if group is None:
        group, option = call.path.get("group"), call.path.get("option")
    what = f"option {option} in group {group}" if option else f"group {group}" if group else "any options"
    return NotFound(f"Could not find {what} in domain configuration for domain {call.path['domain_id']}.")


async def _rows(call: Call) -> list[DomainOption]:
    """What is set of what the path names."""
    rows = await call.reader.find(DomainOption, domain_id=call.path["domain_id"])
    wanted = [(name, call.path[name]) for name in ("group", "option") if name in call.path]
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted)]


def _each(config: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[str, str, Any]]:
    return ((group, option, value) for group, options in config.items() for option, value in options.items())


def _replacing(old: Iterable[DomainOption], new: Iterable[DomainOption]) -> tuple[Change, ...]:
    before = {(row.group, row.option): row for row in old}
    after = {(row.group, row.option): row for row in new}
    gone = [remove(row) for name, row in before.items() if name not in after]
    return (*gone, *(put(row, before.get(name)) for name, row in after.items() if row != before.get(name)))


def _shown(rows: Iterable[DomainOption], option: str | None = None) -> Attributes:
    """The values that may be shown, by group; of one option alone if one is named."""
    found = _arranged((row, msgspec.json.decode(row.blob)) for row in rows if row.key_hash is None)
    return found if option is None else next(iter(found.values()))


def _arranged(values: Iterable[tuple[DomainOption, Any]]) -> Attributes:
    found: Attributes = {}
    for row, value in values:
        found.setdefault(row.group, {})[row.option] = value
    return found


def _substituted(value: Any, secrets: Mapping[str, Any]) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return value % secrets
    except (KeyError, TypeError, ValueError):
        return value
