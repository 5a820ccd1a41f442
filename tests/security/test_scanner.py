"""The scanner finds what is planted, however it is written, and tells where without telling what."""

import base64
import os
import random

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.security import scanner
from tests.security.scanner import Secret, scan

KEY = random.Random(18).randbytes(32)
TEXT = "correct-horse-battery"
WAYS = {
    "raw": lambda value: value,
    "first half": lambda value: value[: len(value) // 2],
    "second half": lambda value: value[len(value) // 2 :],
    "hex": lambda value: value.hex().encode(),
    "HEX": lambda value: value.hex().upper().encode(),
    "base64": base64.b64encode,
    "url-safe base64": base64.urlsafe_b64encode,
    "PKCS8 in PEM": lambda value: pem(value, PrivateFormat.PKCS8),
    "PEM of its own": lambda value: pem(value, PrivateFormat.TraditionalOpenSSL),
    "base64 of more": lambda value: base64.b64encode(b'{"a": "' + value + b'"}'),
    "url-safe base64 of even more": lambda value: base64.urlsafe_b64encode(b"12345678" + value + b"1"),
}


def pem(value, form):
    """As a private key lies in a file: in lines, with more before and after it."""
    key = ec.derive_private_key(int.from_bytes(value.ljust(32)[:32], "big"), ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, form, NoEncryption())


def planted(tmp_path, content):
    path = tmp_path / "written"
    path.write_bytes(os.urandom(5000) + content + os.urandom(50))
    return path


@pytest.mark.parametrize("turned", [False, True], ids=["forwards", "reversed"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_key_is_found_however_it_is_written(tmp_path, way, turned):
    text = way(KEY)
    path = planted(tmp_path, text[::-1] if turned else text)
    found = scan([Secret("token key", "Oslo", KEY)], [path, tmp_path / "not there"])
    assert found
    assert {one[:3] for one in found} == {(str(path), "token key", ("Oslo",))}
    assert all(5000 <= one.offset < 5000 + len(text) for one in found)
    assert not any(form in repr(found) for form in (KEY.hex(), base64.b64encode(KEY).decode(), repr(KEY)[2:-1]))
    assert repr(KEY)[2:-1] not in repr(Secret("token key", "Oslo", KEY))


@pytest.mark.parametrize("way", [WAYS[one] for one in WAYS if "half" not in one and "PEM" not in one])
def test_a_text_is_found_however_it_is_written(tmp_path, way):
    assert scan([Secret("password", "ann", TEXT.encode())], [planted(tmp_path, way(TEXT.encode()))])


def test_what_is_not_there_is_not_found(tmp_path):
    path = planted(tmp_path, KEY[:15] + b"x" + KEY[17:])
    assert scan([Secret("token key", "Oslo", KEY)], [path]) == []


def test_what_lies_in_compressed_chunks_is_found():
    """Long runs, texts that repeat, and copies that reach into themselves."""
    first = bytes([0xFF, 17]) + KEY + (32).to_bytes(2, "little") + bytes([13])  # 15 + 17 of it, 15 + 13 + 4 once more
    second = b"\x1fa" + (1).to_bytes(2, "little") + bytes([255, 0])  # one letter, and 15 + 255 + 4 times the one before
    assert scanner.lz4(first + second + b"\x50tails") == KEY + KEY + b"a" * 275 + b"tails"
