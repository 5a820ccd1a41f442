"""Runs under Keystone's python: seals and opens tokens with Keystone's own formatter, a line of JSON each, until its input ends.

Argument: the key repository, and how many keys it may have. In: {"open": [text, ...]}, {"seal": [{payload, fields...},
...]}, or {"setup": true} and {"turn": true} for what its commands of these names do; out: a list, each a token's fields,
a token's text, or {"refused": why}.
"""

import json
import sys

import keystone.conf
from keystone.common import fernet_utils
from keystone.server import configure  # noqa: F401  (registers every option)
from keystone.token import token_formatters

NAMES = (
    "user_id methods audit_ids system domain_id project_id trust_id federated_group_ids identity_provider_id protocol_id"
    " access_token_id app_cred_id thumbprint issued_at expires_at"
).split()
PAYLOADS = {payload.version: payload for payload in token_formatters._PAYLOAD_CLASSES}


def read(formatter, token):
    """What Keystone says that this token says."""
    try:
        return dict(zip(NAMES, formatter.validate_token(token), strict=True))
    except Exception as refusal:
        return {"refused": repr(refusal)}


def seal(formatter, fields):
    """A token of Keystone."""
    try:
        return formatter.create_token(payload_class=PAYLOADS[fields.pop("payload")], **fields)
    except Exception as refusal:
        return {"refused": repr(refusal)}


def main():
    """Answers line by line."""
    keystone.conf.configure()
    keystone.conf.CONF([], project="keystone", default_config_files=[])
    keystone.conf.CONF.set_override("key_repository", sys.argv[1], group="fernet_tokens")
    formatter = token_formatters.TokenFormatter()
    print("ready", flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        utils = fernet_utils.FernetUtils(sys.argv[1], int(sys.argv[2]), "fernet_tokens")
        if question.get("setup"):
            utils.initialize_key_repository()
        if question.get("turn"):
            utils.rotate_keys()
        answer = [read(formatter, one) for one in question.get("open", [])]
        answer += [seal(formatter, one) for one in question.get("seal", [])]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
