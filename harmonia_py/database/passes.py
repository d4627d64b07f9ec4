"""`Passes` over a database."""

from typing import Final

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.passes import Freed, LastPass
from harmonia_py.database.ports import Transactions, reads, writes
from harmonia_py.database.progress import note, noted
from harmonia_py.database.transaction import Transaction

_JOB: Final = "collection"


class SqlPasses(Transactions):
    """`Passes` in rows of the catalog."""

    @writes(durable=False)
    def note(self, ended: Timestamp, paths: int, size: int) -> Transaction[None]:
        """As in `Passes`."""
        freed = Freed(ended=ended, paths=paths, size=size) if paths else None
        if freed is None and (last := (yield from noted(_JOB, LastPass))) is not None:
            freed = last.freed
        yield from note(_JOB, LastPass(ended=ended, freed=freed))

    @reads
    def last(self) -> Transaction[LastPass | None]:
        """As in `Passes`."""
        return noted(_JOB, LastPass)
