"""The keys that the caches of a catalog sign with."""

import time
from collections.abc import Callable, Sequence

from msgspec import Struct

from harmonia_py.catalog.caches import DEFAULT_CACHE, CacheRow, Timestamp, time_by
from harmonia_py.catalog.key_encryption import KeyEncryption, secret_key_of
from harmonia_py.catalog.keys import Keys
from harmonia_py.nix.signing import SecretKey


class SigningKey(Struct, frozen=True):
    """A key that signs now, and when it stops; None while nothing is planned."""

    secret_key: SecretKey
    until: Timestamp | None = None


class CacheKeys(Struct, eq=False):
    """Finds them.

    Attributes:
        keys: as the catalog keeps them.
        encryption: reads those that are encrypted; a reload may replace it.
        default: the keys of the cache at `/`, which are files; a reload may replace them.
        clock: seconds since the epoch.
    """

    keys: Keys
    encryption: KeyEncryption | None = None
    default: Sequence[SecretKey] = ()
    clock: Callable[[], float] = time.time

    async def of(self, cache: CacheRow) -> Sequence[SigningKey]:
        """The keys that sign now what `cache` serves.

        Raises:
            StorageError: one of them cannot be read: the cache must not be served without its signature.
        """
        if cache.id == DEFAULT_CACHE:
            return [SigningKey(key) for key in self.default]
        now = time_by(self.clock)
        rows = await self.keys.of(cache.id)
        return [
            SigningKey(secret_key_of(row, cache.name, self.encryption), row.until) for row in rows if row.signs(now)
        ]

    async def end_overlaps(self) -> None:
        """Let the keys whose time beside their successor is over sign no more, in every worker.

        Raises:
            StorageError: they still do.
        """
        await self.keys.end_overlaps(now=time_by(self.clock))
