"""Places for requests that wait: bounded in all, and shared so that whoever takes many leaves some to everybody else.

One caller may have a third as many as are free: alone a quarter of all, and the fewer the more callers there are. So
who asks for what never comes, from a few addresses, keeps nobody else from waiting.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address
from typing import Final

from regional_keystone.errors import Unavailable

MOST: Final = 256
"""Requests that wait in a process at a time."""

_FREE_TO_ONE = 3  # so many have to be free for each that a caller has: a caller alone gets a quarter of all
_NETWORK_BITS = 64  # of an IPv6 address: whoever has one has all with the same beginning


class WaitingPlaces:
    """Who waits, by caller. `refused` counts whom there was no place for."""

    def __init__(self, most: int = MOST) -> None:
        self.refused: Counter[str] = Counter(dict.fromkeys(("all", "caller"), 0))
        self._most = most
        self._taken: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many are taken."""
        return self._taken.total()

    @contextmanager
    def one(self, peer: str) -> Iterator[None]:
        """A place for a request from this address. Raises Unavailable where none is left for it."""
        caller, free = _caller(peer), self._most - len(self)
        if free <= 0 or self._taken[caller] * _FREE_TO_ONE >= free:
            self.refused["all" if free <= 0 else "caller"] += 1
            raise Unavailable("Too many requests wait for changes that this region has not received; try again.")
        self._taken[caller] += 1
        try:
            yield
        finally:
            self._taken[caller] -= 1
            if not self._taken[caller]:
                del self._taken[caller]


def _caller(peer: str) -> str:
    """Whose an address is, as far as that can be told."""
    try:
        address = ip_address(peer)
    except ValueError:
        return peer
    if not isinstance(address, IPv6Address):
        return peer
    mapped = address.ipv4_mapped
    return str(mapped) if mapped else f"{int(address) >> 128 - _NETWORK_BITS:x}"
