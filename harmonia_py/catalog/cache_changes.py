"""Caches made, changed and deleted by the API: what `harmonia-py cache` and `key` do, in the name of a principal."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from harmonia_py.cache.access import Principal
from harmonia_py.cache.cache_name import DEFAULT, CacheName
from harmonia_py.catalog.audit import Audit, AuditEntry, entry_now
from harmonia_py.catalog.caches import CacheExists, CacheRow, Caches, CacheSettings, time_by
from harmonia_py.catalog.key_encryption import KeyEncryption, new_row
from harmonia_py.catalog.keys import KeyExists, KeyRow, Keys
from harmonia_py.errors import PushRefused
from harmonia_py.nix.signing import SecretKey


class CacheChanges(Struct, frozen=True, eq=False):
    """Changes caches, and notes each change with its principal in the audit log.

    Attributes:
        caches: the caches of the catalog.
        keys: the keys that they sign with.
        audit: the log.
        encryption: encrypts secret keys; None: they are kept in the clear.
        clock: seconds since the epoch.
    """

    caches: Caches
    keys: Keys
    audit: Audit
    encryption: KeyEncryption | None
    clock: Callable[[], float] = time.time

    async def create(self, name: CacheName, settings: CacheSettings, key: SecretKey, by: Principal) -> None:
        """Make a cache that signs with `key`.

        Raises:
            CacheExists: the name is taken.
            StorageError: it cannot be made.
        """
        if name == DEFAULT:
            raise CacheExists(f"there is a cache {name} already")
        row = await self.caches.create(name, settings, declared=False, now=time_by(self.clock))
        try:
            detail = asdict(settings) | {"public_key": str(key.public_key)}
            await self.keys.add(self._key_row(row, key), self._entry(by, "cache.create", name, name, detail))
        except BaseException:
            # Without a key it would serve paths that no client trusts.
            await self.caches.delete(name, now=time_by(self.clock))
            raise

    async def configure(self, name: CacheName, changes: Mapping[str, Any], by: Principal) -> bool:
        """Change settings, by their names in `CacheSettings`; False when there is no such cache.

        Raises:
            PushRefused: `harmonia.toml` declares it.
            StorageError: it cannot be changed.
        """
        if await self._own(name) is None:
            return False
        if changes:
            if await self.caches.change(name, changes) is None:
                return await self._own(name) is not None  # it was deleted meanwhile, or declared, which raises
            await self._note(by, "cache.configure", name, changes)
        return True

    async def replace_key(self, name: CacheName, key: SecretKey, by: Principal) -> bool:
        """Make `key` the only key that a cache signs with; False when there is no such cache.

        Raises:
            PushRefused: `harmonia.toml` declares it, or it had another key of this name: clients tell keys by names.
            StorageError: it cannot be changed.
        """
        row = await self._own(name)
        if row is None:
            return False
        entry = self._entry(by, "key.rotate", name, key.name, {"public_key": str(key.public_key)})
        try:
            await self.keys.add(self._key_row(row, key), entry, retire_others=time_by(self.clock))
        except KeyExists:
            raise PushRefused(f"the cache {name} had a key {key.name} before: give the new one another name") from None
        return True

    async def add_key(self, cache: CacheRow, key: SecretKey, by: Principal) -> None:
        """Add a key that a cache signs with.

        Raises:
            KeyExists: it has one of this name.
            StorageError: it cannot be changed.
        """
        entry = self._entry(by, "key.create", cache.name, key.name, {"public_key": str(key.public_key)})
        await self.keys.add(self._key_row(cache, key), entry)

    async def new_key(self, name: CacheName) -> SecretKey:
        """A new key that is named after the cache, with a number when the cache has had a key of that name."""
        row = await self.caches.find(name)
        taken = set() if row is None else {key.name for key in await self.keys.of(row.id)}
        numbered = (name if number == 1 else f"{name}-{number}" for number in range(1, len(taken) + 2))
        return SecretKey.generate(next(one for one in numbered if one not in taken))

    async def delete(self, name: CacheName, by: Principal) -> bool:
        """Delete a cache: its name is free at once, its objects go with the collector; False when there is none.

        Raises:
            PushRefused: `harmonia.toml` declares it.
            StorageError: it cannot be deleted.
        """
        if await self._own(name) is None or not await self.caches.delete(name, now=time_by(self.clock)):
            return False
        await self._note(by, "cache.delete", name, {})
        return True

    async def _own(self, name: CacheName) -> CacheRow | None:
        if name == DEFAULT:
            raise PushRefused("the cache at / is described by the configuration file: change it there")
        row = await self.caches.find(name)
        if row is not None and row.declared:
            raise PushRefused(f"the cache {name} is declared in the configuration file: change it there")
        return row

    def _key_row(self, cache: CacheRow, key: SecretKey) -> KeyRow:
        return new_row(cache, key, self.encryption, now=time_by(self.clock))

    async def _note(self, by: Principal, action: str, cache: CacheName, detail: Mapping[str, Any]) -> None:
        await self.audit.note([self._entry(by, action, cache, cache, detail)])

    @staticmethod
    def _entry(by: Principal, action: str, cache: CacheName, subject: str, detail: Mapping[str, Any]) -> AuditEntry:
        return entry_now(by.name, action, cache=cache, subject=subject, detail=detail)
