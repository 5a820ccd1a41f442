"""Mints tokens.json with Keystone's own formatter; run it in a throw-away venv with `pip install keystone==30.0.0`.

    python tests/golden/mint_tokens.py > tests/golden/tokens.json

The key is a published test vector, never a key of anybody; the initialisation vectors differ at each run.
"""

import json
import pathlib
import sys
import tempfile

import keystone.conf
from keystone.server import configure  # noqa: F401  (registers every option)
from keystone.token import token_formatters as formats
from oslo_utils import timeutils

KEY = "cmVnaW9uYWwta2V5c3RvbmUtZ29sZGVuLWtleS0wMDE="
USER, PROJECT, DOMAIN = "0a1b2c3d4e5f60718293a4b5c6d7e8f9", "11111111222233334444555566667777", "d" * 32
TRUST, ACCESS, CREDENTIAL = "70" * 16, "ac" * 16, "cd" * 16
AUDIT = ["AAECAwQFBgcICQoLDA0ODw", "_-7dzLuqmYh3ZlVEMyIRAA"]
EXPIRES, EXPIRES_AT = "2030-01-02T03:04:05.000000Z", 1893553445_000000
LDAP_USER = "6f" * 32

CLASSES = {payload.version: payload for payload in formats._PAYLOAD_CLASSES}
FEDERATED = {"identity_provider_id": "corporate", "protocol_id": "saml2", "federated_group_ids": [{"id": "9e" * 16}]}
MANY_GROUPS = FEDERATED | {"federated_group_ids": [{"id": "9e" * 16}, {"id": "engineers"}], "protocol_id": "openid"}
UUID_PROVIDER = FEDERATED | {"identity_provider_id": "1d" * 16, "federated_group_ids": []}

CASES = [
    (0, {}),
    (0, {"user_id": LDAP_USER, "methods": ["token", "password"], "audit_ids": AUDIT}),
    (0, {"user_id": "admin", "methods": ["external"]}),
    (0, {"user_id": "0A1B2C3D-4E5F-6071-8293-A4B5C6D7E8F9"}),
    (1, {"domain_id": DOMAIN}),
    (1, {"domain_id": "default", "audit_ids": AUDIT}),
    (2, {"project_id": PROJECT}),
    (2, {"project_id": "default", "methods": ["token", "password"], "audit_ids": AUDIT}),
    (2, {"project_id": None}),
    (2, {"project_id": PROJECT, "methods": ["ec2credential", "application_credential", "mapped", "oauth1"]}),
    (3, {"project_id": PROJECT, "trust_id": TRUST}),
    (3, {"project_id": None, "trust_id": TRUST, "methods": ["token", "password"], "audit_ids": AUDIT}),
    (4, FEDERATED | {"methods": ["mapped"]}),
    (4, MANY_GROUPS | {"methods": ["mapped", "token"], "audit_ids": AUDIT, "user_id": LDAP_USER}),
    (4, UUID_PROVIDER | {"methods": ["mapped"]}),
    (5, FEDERATED | {"project_id": PROJECT, "methods": ["mapped", "token"], "audit_ids": AUDIT}),
    (5, MANY_GROUPS | {"project_id": "default", "methods": ["mapped"]}),
    (6, FEDERATED | {"domain_id": DOMAIN, "methods": ["mapped", "token"], "audit_ids": AUDIT}),
    (6, UUID_PROVIDER | {"domain_id": "default", "methods": ["mapped"]}),
    (7, {"project_id": PROJECT, "access_token_id": ACCESS, "methods": ["oauth1"]}),
    (7, {"project_id": None, "access_token_id": "not-a-uuid", "methods": ["oauth1", "token"], "audit_ids": AUDIT}),
    (8, {"system": "all"}),
    (8, {"system": "all", "methods": ["token", "password"], "audit_ids": AUDIT}),
    (9, {"project_id": PROJECT, "app_cred_id": CREDENTIAL, "methods": ["application_credential"]}),
    (9, {"project_id": "default", "app_cred_id": "no-uuid", "methods": ["application_credential"], "audit_ids": AUDIT}),
    (10, {"project_id": PROJECT, "thumbprint": "Zm9v-thumbprint", "methods": ["external"]}),
    (10, {"domain_id": "default", "thumbprint": "dGh1bWI", "methods": ["external", "token"], "audit_ids": AUDIT}),
    (10, {"thumbprint": "dGh1bWI", "methods": []}),
]
NAMES = (
    "user_id methods audit_ids system domain_id project_id trust_id federated_group_ids identity_provider_id protocol_id"
    " access_token_id app_cred_id thumbprint issued_at expires_at"
).split()


def microseconds(text):
    """Microseconds since 1970 UTC of upstream's ISO text."""
    whole = timeutils.parse_isotime(text)
    return round(whole.timestamp()) * 1_000_000


def minted(formatter, version, case):
    """One vector: the token, its clear payload, and what Keystone itself reads back."""
    fields = {"user_id": USER, "methods": ["password"], "audit_ids": AUDIT[:1], "expires_at": EXPIRES} | case
    token = formatter.create_token(payload_class=CLASSES[version], **fields)
    read = dict(zip(NAMES, formatter.validate_token(token), strict=True))
    assert microseconds(read["expires_at"]) == EXPIRES_AT
    read["expires_at"], read["issued_at"] = EXPIRES_AT, microseconds(read["issued_at"])
    read["federated_group_ids"] = read["federated_group_ids"] and [group["id"] for group in read["federated_group_ids"]]
    return {"version": version, "token": token, "payload": formatter.unpack(token).hex(), "fields": read}


def main():
    """Writes all vectors to standard output."""
    with tempfile.TemporaryDirectory() as directory:
        pathlib.Path(directory, "0").write_text(KEY)
        keystone.conf.configure()
        keystone.conf.CONF([], project="keystone", default_config_files=[])
        keystone.conf.CONF.set_override("key_repository", directory, group="fernet_tokens")
        tokens = [minted(formats.TokenFormatter(), version, case) for version, case in CASES]
    json.dump({"keystone": "30.0.0", "key": KEY, "tokens": tokens}, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
