"""Another program at a region's memcached: entries cut short, altered, exchanged, and room taken from the rest."""

import random
import re
import socket
from urllib.parse import unquote_to_bytes


def spoil(address: str, port: int, chance: random.Random, most: int = 200) -> int:
    """Do evil to what is there; returns how many entries it was."""
    with socket.create_connection((address, port), 2.0) as connection:
        keys = _keys(connection)
        chance.shuffle(keys)
        entries = [(key, value) for key in keys[:most] if (value := _get(connection, key)) is not None]
        for place, (key, value) in enumerate(entries):
            _set(connection, key, _evil(chance, value, entries[place - 1][1]))
        for number in range(20):
            _set(connection, b"another-%d" % number, chance.randbytes(100_000))
    return len(entries)


def flush(address: str, port: int) -> None:
    """Empty it."""
    with socket.create_connection((address, port), 2.0) as connection:
        connection.sendall(b"flush_all\r\n")
        _until(connection, b"\r\n")


def _evil(chance: random.Random, value: bytes, other: bytes) -> bytes:
    place = chance.randrange(len(value)) if value else 0
    kinds = (
        value[:place],
        value[:place] + bytes([(value[place] + 1) % 256] if value else b"x") + value[place + 1 :],
        other,
        chance.randbytes(len(value) + 1),
        b"",
    )
    return chance.choice(kinds)


def _keys(connection: socket.socket) -> list[bytes]:
    connection.sendall(b"lru_crawler metadump all\r\n")
    text = _until(connection, b"END\r\n", b"request\r\n")  # busy with another such request
    return [unquote_to_bytes(key) for key in re.findall(rb"(?m)^key=(\S+)", text)]


def _get(connection: socket.socket, key: bytes) -> bytes | None:
    connection.sendall(b"get %b\r\n" % key)
    text = _until(connection, b"END\r\n")
    head, _, rest = text.partition(b"\r\n")
    return rest[: int(head.split()[3])] if head.startswith(b"VALUE") else None


def _set(connection: socket.socket, key: bytes, value: bytes) -> None:
    connection.sendall(b"set %b 0 300 %d\r\n%b\r\n" % (key, len(value), value))
    _until(connection, b"\r\n")


def _until(connection: socket.socket, *ends: bytes) -> bytes:
    text = b""
    while not text.endswith(ends):
        part = connection.recv(65536)
        if not part:
            raise ConnectionError("memcached hung up")
        text += part
    return text
