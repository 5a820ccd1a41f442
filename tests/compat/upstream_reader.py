"""Runs under Keystone's python: reads a key repository over and over with Keystone's own code until its input ends.

Arguments: the directory, and a token that has to open each time. Out: {"reads": n, "failures": [text, ...]}.
"""

import json
import select
import sys

import keystone.conf
from cryptography import fernet
from keystone.common import fernet_utils
from keystone.server import configure  # noqa: F401  (registers every option)


def main():
    """Reads until standard input is closed."""
    directory, token = sys.argv[1:]
    keystone.conf.configure()
    keystone.conf.CONF([], project="keystone", default_config_files=[])
    utils = fernet_utils.FernetUtils(directory, 3, "fernet_tokens")
    reads, failures = 0, []
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        reads += 1
        try:
            keys = utils.load_keys()
            fernet.MultiFernet([fernet.Fernet(key) for key in keys]).decrypt(token.encode())
        except Exception as problem:
            failures.append(repr(problem))
    print(json.dumps({"reads": reads, "failures": failures[:10]}))


if __name__ == "__main__":
    main()
