"""Runs under Keystone's python: its own JWS provider over given directories, asked by lines on standard input.

Arguments: the directory of the private key, that of the public ones. In, a line each: {"read": [text, ...]} or
{"make": [[fields, ...], ...]}; out, a line each: what Keystone says. {"loop": text} reads it over and over until the
next line, and tells how often that failed.
"""

import json
import select
import sys

import keystone.conf
from keystone import exception
from keystone.server import configure  # noqa: F401  (registers every option)
from keystone.token.providers.jws import core

NAMES = (
    "user_id methods audit_ids system domain_id project_id trust_id federated_group_ids identity_provider_id protocol_id"
    " access_token_id app_cred_id thumbprint issued_at expires_at"
).split()


def read(formatter, token):
    """What Keystone says that this token says."""
    try:
        return dict(zip(NAMES, formatter.validate_token(token), strict=True))
    except exception.TokenNotFound:
        return {"refused": "not found"}
    except Exception as failure:  # what a server would answer with 500
        return {"crashed": repr(failure)}


def make(formatter, fields):
    """A token of Keystone's, and when it says that it was issued."""
    return formatter.create_token(**fields)


def loop(formatter, token):
    """Reads until there is something to do."""
    reads, failures = 0, []
    while not select.select([sys.stdin], [], [], 0)[0]:
        reads += 1
        found = read(formatter, token)
        if "user_id" not in found:
            failures.append(found)
    return {"reads": reads, "failures": failures[:10]}


def main():
    """Answers line by line until its input ends."""
    private, public = sys.argv[1:]
    keystone.conf.configure()
    keystone.conf.CONF([], project="keystone", default_config_files=[])
    for name, value in (("jws_private_key_repository", private), ("jws_public_key_repository", public)):
        keystone.conf.CONF.set_override(name, value, group="jwt_tokens")
    formatter = core.JWSFormatter()
    core.Provider()  # refuses to start where a directory is not as it should be
    for line in sys.stdin:
        asked = json.loads(line)
        if "read" in asked:
            answer = [read(formatter, token) for token in asked["read"]]
        elif "make" in asked:
            answer = [make(formatter, fields) for fields in asked["make"]]
        else:
            print(json.dumps("begun"), flush=True)
            answer = loop(formatter, asked["loop"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
