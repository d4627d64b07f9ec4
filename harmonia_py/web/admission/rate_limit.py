"""Requests per client: a token bucket for each, in memory that all workers share.

A bucket is one number, the time at which it will be full again (the generic cell rate algorithm). The table has a fixed
size and needs no lock: of two workers that count for one client in the same microsecond one is forgotten. When four
clients of very many share a place in the table, the one whose bucket is the fullest loses it, which does it no harm.
"""

import hashlib
import mmap
import secrets
import struct
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from msgspec import Struct

_SLOT: Final = struct.Struct("=Qd")
_WAYS: Final = 4
_SETS: Final = 16_384
_KNOWN: Final = 4096


class RateTable:
    """The buckets, one MiB of them. Made before the workers are forked."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SETS * _WAYS * _SLOT.size)
        # Random, so that an attacker cannot choose addresses that share a place.
        self._secret = secrets.token_bytes(16)
        self._hash = lru_cache(_KNOWN)(self._hash_of)

    def read(self, client: str) -> tuple[int, float]:
        """The place of the bucket of `client`, and when it will be full; that may be long ago."""
        tag = self._hash(client)
        first = tag % _SETS * _WAYS * _SLOT.size
        best, best_full = first, float("inf")
        for offset in range(first, first + _WAYS * _SLOT.size, _SLOT.size):
            found, full = _SLOT.unpack_from(self._memory, offset)
            if found == tag:
                return offset, full
            if full < best_full:
                best, best_full = offset, full
        return best, 0.0

    def write(self, offset: int, client: str, full: float) -> None:
        """Note when the bucket of `client` will be full."""
        _SLOT.pack_into(self._memory, offset, self._hash(client), full)

    def _hash_of(self, client: str) -> int:
        digest = hashlib.blake2b(client.encode(), key=self._secret, digest_size=8).digest()
        return int.from_bytes(digest, "little")


class RateLimiter(Struct, frozen=True, eq=False):
    """Allows `rate` requests per second to each client, and `burst` at once.

    Attributes:
        table: the buckets, shared by all workers.
        rate: requests per second, in the long run.
        burst: requests at once.
        group_of: the name under which a client's requests count; None for a client that is not limited.
        clock: seconds that only grow, the same for every process of the machine.
    """

    table: RateTable
    rate: float
    burst: int
    group_of: Callable[[str], str | None] = lambda client: client
    clock: Callable[[], float] = time.monotonic

    def take(self, client: str) -> float:
        """Count a request of `client` and return 0 when it may ask now; otherwise return the seconds until it may."""
        group = self.group_of(client)
        if group is None:
            return 0.0
        now = self.clock()
        offset, full = self.table.read(group)
        full = max(full, now)
        wait = full - now - (self.burst - 1) / self.rate
        if wait > 0:
            return wait
        self.table.write(offset, group, full + 1 / self.rate)
        return 0.0

    def give_back(self, client: str) -> None:
        """Take back one `take` that counted, because the request will be counted again."""
        group = self.group_of(client)
        if group is not None:
            offset, full = self.table.read(group)
            self.table.write(offset, group, full - 1 / self.rate)
