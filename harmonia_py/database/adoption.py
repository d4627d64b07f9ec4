"""`Adoption` over a database."""

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.nars import NarFile
from harmonia_py.database.nars import known_file
from harmonia_py.database.object_rows import digits, take_from_garbage
from harmonia_py.database.received import receive
from harmonia_py.database.transaction import Transaction, Transactions, writes
from harmonia_py.database.uploads import live_on
from harmonia_py.nix.hashes import Hash


class SqlAdoption(Transactions):
    """`Adoption` in rows of the catalog."""

    @writes(durable=False)
    def adopt(self, cache: CacheId, session: str, file_hash: Hash, *, now: Timestamp) -> Transaction[NarFile | None]:
        """As in `Adoption`."""
        file = yield from known_file(file_hash)
        if file is None:
            return None
        yield from take_from_garbage(file.blob_key)
        yield from live_on(cache, session, now)
        yield from receive([(cache, digits(file_hash), session, file.blob_key, now)])
        return file
