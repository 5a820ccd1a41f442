"""Keystone 30.0.0 reads our tokens and our key directory."""

import base64
import datetime as dt
import json
import pathlib
import secrets
import subprocess

import pytest

from regional_keystone.key_directory import write_directory
from regional_keystone.keys import KeyRing
from regional_keystone.token import (
    DEFAULT_METHODS,
    SystemScope,
    Token,
    pack,
)
from tests.kinds import all_tokens

pytestmark = pytest.mark.compat
HERE = pathlib.Path(__file__).parent
UUID, OTHER = "0a1b2c3d4e5f60718293a4b5c6d7e8f9", "7f" * 16
EXPIRES_AT, ISSUED_AT = 1893553445_000000, 1893549845_000000
RENAMED = {"application_credential_id": "app_cred_id"}
METHODS = [(), ("password",), ("token", "password"), tuple(reversed(DEFAULT_METHODS))]


def every():
    return all_tokens(METHODS, ISSUED_AT, EXPIRES_AT)


def fresh_key():
    return base64.urlsafe_b64encode(secrets.token_bytes(32))


def instant(text):
    parsed = dt.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z")
    return round(parsed.timestamp()) * 1_000_000


def expected(token):
    fields = {name: getattr(token, name) for name in Token.__struct_fields__ if name not in ("scope", "group_ids")}
    fields = {
        RENAMED.get(name, name): list(value) if isinstance(value, tuple) else value for name, value in fields.items()
    }
    groups = None if token.group_ids is None else [{"id": group_id} for group_id in token.group_ids]
    system = "all" if isinstance(token.scope, SystemScope) else None
    return fields | {
        "project_id": token.project_id,
        "domain_id": token.domain_id,
        "system": system,
        "federated_group_ids": groups,
    }


def read_by_keystone(python, directory, tokens):
    question = json.dumps({"key_repository": str(directory), "tokens": tokens})
    run = [python, HERE / "upstream_decode.py"]
    return json.loads(subprocess.run(run, input=question, capture_output=True, text=True, check=True).stdout)


def test_keystone_reads_every_token_of_ours_as_it_was_meant(upstream_python, tmp_path):
    ring = KeyRing({0: fresh_key(), 1: fresh_key()})
    write_directory(tmp_path / "keys", ring)
    tokens = list(every())
    answers = read_by_keystone(
        upstream_python, tmp_path / "keys", [ring.seal(pack(token), ISSUED_AT) for token in tokens]
    )
    for token, answer in zip(tokens, answers, strict=True):
        assert "refused" not in answer, (token, answer)
        answer |= {name: instant(answer[name]) for name in ("issued_at", "expires_at")}
        assert answer == expected(token)


def test_keystone_refuses_tokens_of_a_retired_key_and_reads_those_of_one_ahead(upstream_python, tmp_path):
    ring = KeyRing({0: fresh_key(), 1: fresh_key(), 2: fresh_key()})
    payload = pack(next(every()))
    old, ahead = KeyRing({0: fresh_key(), 1: ring.numbers[1]}), ring.rotated(fresh_key())
    write_directory(tmp_path / "keys", ring)
    write_directory(tmp_path / "keys", ring.without([1]))
    texts = [maker.seal(payload, ISSUED_AT) for maker in (ring, ahead, old)]
    answers = read_by_keystone(upstream_python, tmp_path / "keys", texts)
    assert ["refused" in answer for answer in answers] == [False, False, True]


def test_keystone_reads_the_directory_in_a_loop_while_it_is_replaced(upstream_python, tmp_path):
    directory, ring = tmp_path / "keys", KeyRing({0: fresh_key(), 1: fresh_key(), 2: fresh_key()})
    write_directory(directory, ring)
    lasting = ring.primary
    text = ring.seal(b"lasting", ISSUED_AT)
    text += "=" * (-len(text) % 4)
    run = [upstream_python, HERE / "upstream_reader.py", directory, text]
    with subprocess.Popen(
        run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as reader:
        assert reader.stdout.readline() == "ready\n"
        for _ in range(200):
            secondaries = sorted(ring.numbers.keys() - {0, ring.primary, lasting})
            ring = ring.rotated(fresh_key(), secondaries[:-1])
            write_directory(directory, ring)
        answer = json.loads(reader.communicate("\n", timeout=60)[0])
    assert answer["failures"] == []
    assert answer["reads"] > 100
