"""`Repairs` over a database."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.nars import RECIPES
from harmonia_py.catalog.repairs import WrongTotal
from harmonia_py.database.blob_keys import NAMED_IN, list_as_garbage, named_in
from harmonia_py.database.closures import heal, renew_static
from harmonia_py.database.object_rows import digits
from harmonia_py.database.ports import Transactions, scans, writes
from harmonia_py.database.totals import count_anew, wrong_totals
from harmonia_py.database.transaction import Topic, Transaction, ask, ask_for_each
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart

_KNOWN_PATHS: Final = """
    select o.hash_part, f.blob_key from caches c join objects o on o.cache_id = c.id
    join nar_files f on f.file_hash = o.file_hash where c.name = $1 and o.hash_part in ($list)
"""
_RESTORE: Final = """
    update nar_files set quarantined_s = null, quarantined_for = null, checked_s = $2 where file_hash = $1
"""


class SqlRepairs(Transactions):
    """`Repairs` in rows of the catalog."""

    @scans
    def unnamed(self, blob_keys: Collection[str]) -> Transaction[Collection[str]]:
        """As in `Repairs`."""
        return set(blob_keys) - (yield from named_in(blob_keys, *NAMED_IN))

    @scans
    def known_paths(self, cache: CacheName, hash_parts: Collection[HashPart]) -> Transaction[Mapping[HashPart, bool]]:
        """As in `Repairs`."""
        rows = yield from ask_for_each(_KNOWN_PATHS, sorted(hash_parts), cache)
        return {HashPart(hash_part): blob_key.startswith(RECIPES) for hash_part, blob_key in rows}

    @writes()
    def discard(self, blob_keys: Collection[str], *, garbage_from: Timestamp) -> Transaction[None]:
        """As in `Repairs`."""
        yield from list_as_garbage(blob_keys, garbage_from)

    @writes(Topic.OBJECTS)
    def restore(self, file_hash: Hash, *, now: Timestamp) -> Transaction[None]:
        """As in `Repairs`."""
        yield from ask(_RESTORE, digits(file_hash), now)
        yield from heal(digits(file_hash), now)

    @writes()
    def renew_static(self, cache: CacheId, hash_parts: Collection[HashPart], *, now: Timestamp) -> Transaction[None]:
        """As in `Repairs`."""
        yield from renew_static([(cache, hash_part) for hash_part in hash_parts], now)

    @scans
    def wrong_totals(self) -> Transaction[Sequence[WrongTotal]]:
        """As in `Repairs`."""
        return wrong_totals()

    @writes()
    def count_anew(self) -> Transaction[None]:
        """As in `Repairs`."""
        yield from count_anew()
