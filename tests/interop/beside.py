"""A real Keystone of the reference version: its formatter, its way to read keys, its command that turns them."""

import base64
import grp
import json
import os
import pwd
import secrets
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import msgspec

from regional_keystone.key_directory import write_directory
from regional_keystone.keys import KeyRing
from regional_keystone.token import pack
from tests.compat import installed
from tests.compat.test_upstream_tokens import expected, instant

HERE = Path(__file__).parent
READER = HERE.parent / "compat" / "upstream_reader.py"


def fresh_key():
    return base64.urlsafe_b64encode(secrets.token_bytes(32))


def isotime(at):
    return time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(at // 1_000_000))


class Asked:
    """A program of Keystone's in a process of its own, which answers each line with one."""

    def __init__(self, process):
        self._process = process

    def ask(self, **question):
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self.hear()

    def hear(self):
        return json.loads(self._process.stdout.readline())


class Tokens(Asked):
    """Keystone's formatter over a key repository."""

    def faults_of_reading(self, tokens, texts):
        """Those of our tokens that Keystone refuses, or understands in another way."""
        faults = []
        for token, answer in zip(tokens, self.ask(open=texts), strict=True):
            if "refused" in answer:
                faults.append(f"Keystone refuses {kind(token)}: {answer['refused']}")
                continue
            answer |= {name: instant(answer[name]) for name in ("issued_at", "expires_at")}
            if answer | {"issued_at": 0} != expected(token) | {"issued_at": 0}:
                faults.append(f"Keystone reads {kind(token)} as {answer}")
        return faults

    def seal(self, tokens):
        """The same tokens as Keystone seals them."""
        questions = []
        for token in tokens:
            fields = {name: value for name, value in expected(token).items() if name not in {"issued_at", "expires_at"}}
            questions.append(fields | {"payload": kind(token), "expires_at": isotime(token.expires_at)})
        return self.ask(seal=questions)


@contextmanager
def tokens_of(directory, max_active_keys=3):
    """Keystone's formatter over this repository, and what turns its keys."""
    run = [installed.keystone_python(), HERE / "keystone_tokens.py", directory, str(max_active_keys)]
    with subprocess.Popen(
        run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        yield Tokens(process)
        process.stdin.close()


def kind(token):
    """The number of its payload."""
    return msgspec.msgpack.decode(pack(token))[0]


class Repository:
    """A key repository that Keystone's own command makes and turns."""

    def __init__(self, folder, max_active_keys):
        self.directory = folder / "keystone-keys"
        self._config = folder / "keystone.conf"
        self._config.write_text(
            f"[fernet_tokens]\nkey_repository = {self.directory}\nmax_active_keys = {max_active_keys}\n"
        )
        self.directory.mkdir(mode=0o700)
        self._manage("fernet_setup")

    def turn(self):
        self._manage("fernet_rotate")

    def _manage(self, verb):
        manage = installed.keystone_python().with_name("keystone-manage")
        user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
        who = ["--keystone-user", user, "--keystone-group", group]
        run = [manage, "--config-file", self._config, verb, *who]
        subprocess.run(run, check=True, capture_output=True, timeout=120)


def read_while_turning(directory, turns):
    """How often a Keystone read all keys while they were turned so often, and what it failed of."""
    ring = KeyRing({0: fresh_key(), 1: fresh_key(), 2: fresh_key()})
    write_directory(directory, ring)
    lasting = ring.primary
    text = ring.seal(b"lasting", 1_893_549_845_000000)
    run = [installed.keystone_python(), READER, directory, text + "=" * (-len(text) % 4)]
    with subprocess.Popen(
        run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as reader:
        assert reader.stdout.readline() == "ready\n"
        for _ in range(turns):
            secondaries = sorted(ring.numbers.keys() - {0, ring.primary, lasting})
            ring = ring.rotated(fresh_key(), secondaries[:-1])
            write_directory(directory, ring)
        answer = json.loads(reader.communicate("\n", timeout=120)[0])
    return answer["reads"], answer["failures"]
