"""Mints hashes.json with Keystone's own hashers, one hash of each kind for each password.

Run it in a throw-away venv with `pip install keystone==30.0.0 passlib`:

    python tests/golden/mint_hashes.py > tests/golden/hashes.json

What passlib made is what older releases of Keystone have stored. Salts differ at each run.
"""

import base64
import hashlib
import json
import sys

import bcrypt
from keystone.common.password_hashers import bcrypt as by_bcrypt
from keystone.common.password_hashers import pbkdf2, scrypt

PASSWORDS = ["p", "correct horse battery staple", "pässwörd €", "x" * 71, "y" * 200]
MADE = {
    "bcrypt": lambda data: by_bcrypt.Bcrypt.hash(data[:72], rounds=4),
    "bcrypt_sha256": lambda data: by_bcrypt.Bcrypt_sha256.hash(data, rounds=10),
    "scrypt": lambda data: scrypt.Scrypt.hash(data, salt_size=16, n=4, r=8, p=1),
    "scrypt, other parameters": lambda data: scrypt.Scrypt.hash(data, salt_size=33, n=10, r=4, p=2),
    "pbkdf2_sha512": lambda data: pbkdf2.Sha512.hash(data, salt_size=16, rounds=1000),
    "pbkdf2_sha512, other parameters": lambda data: pbkdf2.Sha512.hash(data, salt_size=8, rounds=7),
}


def by_passlib():
    """What an older Keystone has stored; nothing where passlib is not installed."""
    try:
        from passlib import hash as kinds
    except ImportError:
        return {}
    return {
        "passlib pbkdf2_sha512": lambda data: kinds.pbkdf2_sha512.using(rounds=100).hash(data),
        "passlib scrypt": lambda data: kinds.scrypt.using(rounds=4).hash(data),
    }


def first_bcrypt_sha256(data):
    """passlib's first form: the plain digest of the password, and other words before the salt."""
    salt = bcrypt.gensalt(4, prefix=b"2a")
    made = bcrypt.hashpw(base64.b64encode(hashlib.sha256(data).digest()), salt).decode()
    return f"$bcrypt-sha256$2a,4${made[7:29]}${made[29:]}"


def main():
    """Print all of them."""
    makers = MADE | by_passlib() | {"bcrypt_sha256, first form": first_bcrypt_sha256}
    found = [
        {"kind": kind, "password": password, "hash": make(password.encode())}
        for kind, make in makers.items()
        for password in PASSWORDS
    ]
    json.dump(found, sys.stdout, indent=1, ensure_ascii=True)
    print()


if __name__ == "__main__":
    main()
