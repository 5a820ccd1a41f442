"""A memcached of the region's services, of which nothing is asked but to delete: many keys in one exchange.

Apart from `memcached`, which is our own cache: there a failure is a miss, here it is something still to be done.
"""

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path

_GONE = frozenset((b"DELETED\r\n", b"NOT_FOUND\r\n"))


class TokenCache:
    """Implements `deletions.Server`, over one connection that is opened when it is needed."""

    def __init__(self, name: str, timeout_s: float, tls_ca: Path | None = None) -> None:
        """Raises ValueError for a server that cannot be meant, OSError for a CA that cannot be read."""
        host, _, port = name.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"{name}: a server is host:port")
        self.name = name
        self._address = host.strip("[]"), int(port)
        self._timeout_s = timeout_s
        self._tls = _tls(tls_ca) if tls_ca else None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def delete(self, keys: Sequence[str]) -> None:
        """Return when none of these is there. Raises OSError when that is not certain."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._delete(keys)
        except (OSError, EOFError, ValueError) as error:
            self._hang_up()
            raise error if isinstance(error, OSError) else ConnectionError("it hung up") from None
        except asyncio.CancelledError:
            self._hang_up()
            raise

    async def close(self) -> None:
        """Hang up."""
        self._hang_up()

    async def _delete(self, keys: Sequence[str]) -> None:
        if self._streams is None:
            host, port = self._address
            self._streams = await asyncio.open_connection(host, port, ssl=self._tls)
        reader, writer = self._streams
        writer.write(b"".join(b"delete %b\r\n" % key.encode() for key in keys))
        await writer.drain()
        for _ in keys:
            if (await reader.readuntil(b"\r\n")) not in _GONE:
                raise ConnectionError("it refused")

    def _hang_up(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


def _tls(ca: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
