"""`Arrivals` over a database."""

from collections.abc import Sequence
from typing import Final

from harmonia_py.catalog.arrivals import ExpectedFile
from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.nars import NarFile
from harmonia_py.database.object_rows import digits, sha256
from harmonia_py.database.ports import Transactions, reads, scans, writes
from harmonia_py.database.totals import add_files
from harmonia_py.database.transaction import Transaction, ask, ask_one
from harmonia_py.nix.hashes import Hash

_EXPECTED: Final = """
    select cache_id, file_hash, blob_key, received_s from received r
    where state = 'expected' and received_s <= $1 and (received_s, cache_id, file_hash) > ($2, $3, $4)
        and not exists (select 1 from nar_files f where f.file_hash = r.file_hash)
    order by received_s, cache_id, file_hash limit $5
"""
# Without the hash of its NAR no cache can publish a path with it. A file that was expected anew since it was found may
# have been deleted meanwhile, and be on its way once more.
_COUNT: Final = """
    insert into nar_files (file_hash, file_size, compression, blob_key, checked_s)
    select file_hash, $4, $5, blob_key, $6 from received
    where cache_id = $1 and file_hash = $2 and received_s = $3 and state = 'expected'
    on conflict do nothing returning file_size
"""
_IS_COUNTED: Final = """
    select 1 from received r join nar_files f on f.file_hash = r.file_hash
    where r.cache_id = $1 and r.file_hash = $2 and r.state = 'expected' and f.nar_hash is null and f.file_size = $3
"""


class SqlArrivals(Transactions):
    """`Arrivals` in rows of the catalog."""

    @scans
    def expected(
        self, after: ExpectedFile | None, before: Timestamp, limit: int
    ) -> Transaction[Sequence[ExpectedFile]]:
        """As in `Arrivals`."""
        place = (-1, 0, "") if after is None else (after.since, after.cache, digits(after.file_hash))
        return [
            ExpectedFile(cache=CacheId(cache), file_hash=sha256(file_hash), blob_key=blob_key, since=Timestamp(since))
            for cache, file_hash, blob_key, since in (yield from ask(_EXPECTED, before, *place, limit))
        ]

    @writes(durable=False)
    def count(self, expected: ExpectedFile, file: NarFile, *, now: Timestamp) -> Transaction[None]:
        """As in `Arrivals`."""
        where = expected.cache, digits(expected.file_hash), expected.since
        counted = yield from ask(_COUNT, *where, file.file_size, file.compression, now)
        yield from add_files([row[0] for row in counted])

    @reads
    def is_counted(self, cache: CacheId, file_hash: Hash, file_size: int) -> Transaction[bool]:
        """As in `Arrivals`."""
        return (yield from ask_one(_IS_COUNTED, cache, digits(file_hash), file_size)) is not None
