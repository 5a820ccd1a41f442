"""Finds secrets in whatever was written, in any of the ways in which bytes are written down. Says where, never what.

The search itself is Perl's, which looks for thousands of texts at once in one pass; every Debian has it, git needs it.
"""

import base64
import itertools
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

WINDOW = 16  # of a key: half of it is as bad as the whole
PART = 24  # of what is longer
LEAST = 12  # shorter texts are found everywhere
_SEARCH = r"""
use strict; use warnings; local $/;
sub slurp { open(my $file, '<:raw', $_[0]) or return undef; return scalar <$file>; }
my ($all, $at, %known) = (slurp($ARGV[0]), 0);
my $number = 0;
while ($at < length $all) {
    my $size = unpack('N', substr($all, $at, 4));
    $known{substr($all, $at + 4, $size)} = $number++;
    $at += 4 + $size;
}
my $any = join('|', map { quotemeta } sort { length $b <=> length $a } keys %known);
my $one = qr/($any)/s;
for my $path (split /\0/, slurp($ARGV[1])) {
    my $text = slurp($path);
    next unless defined $text;
    while ($text =~ /$one/g) { print "$path\0$known{$1}\0$-[0]\n"; pos($text) = $-[0] + 1; }
}
"""


class Secret(NamedTuple):
    """What nobody may find: of which kind, whose, and the bytes."""

    kind: str
    whose: str
    value: bytes

    def __repr__(self):
        return f"Secret({self.kind!r}, {self.whose!r})"


class Hit(NamedTuple):
    """A secret that lies somewhere: where, which one and whose, how it is written, how far from the beginning."""

    path: str
    kind: str
    whose: tuple
    form: str
    offset: int


def forms(value):
    """(name, bytes) of every way in which it may be written; of what is long, parts that are enough to know it by."""
    windows = [value]
    if len(value) > WINDOW:
        size = min(PART, max(WINDOW, len(value) // 2))
        begin = len(value) // 4 if len(value) > 3 * PART else 0  # tokens begin alike
        windows = [value[begin : begin + size], value[-size:]]
    for window in windows:
        for name, text in _written(window):
            if len(text) >= LEAST:
                yield name, text
                yield f"{name}, reversed", text[::-1]


def _written(window):
    """As it is, in hexadecimal, and in both alphabets of base64 wherever in a longer text it begins."""
    yield "raw", window
    yield "hex", window.hex().encode()
    yield "HEX", window.hex().upper().encode()
    for name, encode in (("base64", base64.b64encode), ("url-safe base64", base64.urlsafe_b64encode)):
        for before in range(3):
            begins = -(-before * 4 // 3)  # signs that what stands before has a part in
            whole = (before + len(window)) // 3 * 4  # and none of what comes after has
            yield name, encode(bytes(before) + window)[begins:whole]


def scan(secrets, paths):
    """Every hit in these files; each secret and form once a file. What several hold is one secret of theirs."""
    holders, known = {}, {}
    for secret in secrets:
        holders.setdefault((secret.kind, secret.value), set()).add(secret.whose)
    for (kind, value), whose in holders.items():
        for name, text in forms(value):
            known.setdefault(text, (kind, tuple(sorted(whose)), name))
    with tempfile.TemporaryDirectory() as folder:
        wanted, where = Path(folder) / "wanted", Path(folder) / "where"
        wanted.touch(mode=0o600)
        wanted.write_bytes(b"".join(struct.pack(">I", len(text)) + text for text in known))
        where.write_bytes(b"\0".join(str(path).encode() for path in paths))
        command = ["perl", "-e", _SEARCH, wanted, where]
        done = subprocess.run(command, capture_output=True, check=True)
    of, found = list(known.values()), {}
    for line in done.stdout.splitlines():
        path, number, offset = line.split(b"\0")
        hit = Hit(path.decode(), *of[int(number)], int(offset))
        found.setdefault(hit[:4], hit)
    return list(found.values())


def sstable(data):
    """What a table's Data.db holds, out of the chunks in which Cassandra compresses it. None for one that it does not."""
    info = data.with_name(data.name.replace("-Data.db", "-CompressionInfo.db"))
    if not info.exists():
        return None
    told, compressed = info.read_bytes(), data.read_bytes()
    name, at = _text(told, 0)
    assert name == "LZ4Compressor", name
    (options,) = struct.unpack_from(">i", told, at)
    at += 4
    for _ in range(2 * options):
        _, at = _text(told, at)
    _, most, _, count = struct.unpack_from(">iiqi", told, at)
    begins = [*struct.unpack_from(f">{count}q", told, at + 20), len(compressed)]
    chunks = [compressed[a : b - 4] for a, b in itertools.pairwise(begins)]  # a checksum after each
    return b"".join(one if len(one) >= most else lz4(one[4:]) for one in chunks)


def _text(told, at):
    (size,) = struct.unpack_from(">H", told, at)
    return told[at + 2 : at + 2 + size].decode(), at + 2 + size


def lz4(block):
    """What one block of LZ4 holds. Source: lz4_Block_format.md of the LZ4 project."""
    found, at = bytearray(), 0
    while at < len(block):
        token = block[at]
        size, at = _length(block, at + 1, token >> 4)
        found += block[at : at + size]
        at += size
        if at >= len(block):
            break
        back = block[at] | block[at + 1] << 8
        size, at = _length(block, at + 2, token & 15)
        begin, size = len(found) - back, size + 4
        while size > 0:  # what is copied may reach into itself
            part = found[begin : begin + size]
            found += part
            size -= len(part)
    return bytes(found)


def _length(block, at, size):
    if size == 15:
        while True:
            size += block[at]
            at += 1
            if block[at - 1] != 255:
                break
    return size, at
