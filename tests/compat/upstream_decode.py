"""Runs under Keystone's python: reads tokens with Keystone's own formatter, from standard input to standard output.

In: {"key_repository": directory, "tokens": [text, ...]}; out: one object per token, its fields or {"refused": why}.
"""

import json
import sys

import keystone.conf
from keystone import exception
from keystone.server import configure  # noqa: F401  (registers every option)
from keystone.token import token_formatters

NAMES = (
    "user_id methods audit_ids system domain_id project_id trust_id federated_group_ids identity_provider_id protocol_id"
    " access_token_id app_cred_id thumbprint issued_at expires_at"
).split()


def read(formatter, token):
    """What Keystone says that this token says."""
    try:
        return dict(zip(NAMES, formatter.validate_token(token), strict=True))
    except exception.ValidationError as refusal:
        return {"refused": str(refusal)}


def main():
    """Answers for all tokens."""
    question = json.load(sys.stdin)
    keystone.conf.configure()
    keystone.conf.CONF([], project="keystone", default_config_files=[])
    keystone.conf.CONF.set_override("key_repository", question["key_repository"], group="fernet_tokens")
    formatter = token_formatters.TokenFormatter()
    json.dump([read(formatter, token) for token in question["tokens"]], sys.stdout)


if __name__ == "__main__":
    main()
