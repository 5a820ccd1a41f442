"""Tokens of every payload that Keystone has, with every scope that it may have."""

import itertools

from regional_keystone.token import DomainScope, ProjectScope, SystemScope, Token, Unscoped, new_audit_id

UUID, OTHER = "0a1b2c3d4e5f60718293a4b5c6d7e8f9", "7f" * 16
_FEDERATED = {"identity_provider_id": "corporate", "protocol_id": "saml2", "group_ids": (OTHER, "engineers")}
_SCOPES = [Unscoped(), ProjectScope(UUID), ProjectScope("default")]
_KINDS = [
    ({}, [*_SCOPES, DomainScope(OTHER), DomainScope("default"), SystemScope()]),
    (_FEDERATED, [*_SCOPES, DomainScope(OTHER), DomainScope("default")]),
    ({"trust_id": OTHER}, _SCOPES),
    ({"access_token_id": OTHER}, _SCOPES),
    ({"application_credential_id": OTHER}, _SCOPES),
    ({"thumbprint": "Zm9vLWJhcg"}, [*_SCOPES, DomainScope("default")]),
]


def all_tokens(methods, issued_at, expires_at):
    """Each of them with each of these lists of methods, ids of three forms, alone and rescoped."""
    for fields, scopes in _KINDS:
        for scope, names, user_id, audits in itertools.product(scopes, methods, (UUID, "6f" * 32, "admin"), (1, 2)):
            yield Token(
                user_id=user_id,
                methods=names,
                scope=scope,
                expires_at=expires_at,
                issued_at=issued_at,
                audit_ids=tuple(new_audit_id(bytes([number] * 16)) for number in range(250, 250 + audits)),
                **fields,
            )
