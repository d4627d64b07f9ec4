"""`Passes` over a database."""

from typing import Final

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.passes import Freed, LastPass
from harmonia_py.database.progress import note, noted
from harmonia_py.database.transaction import Database, Transaction

_JOB: Final = "collection"


class SqlPasses:
    """`Passes` in rows of the catalog."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def note(self, ended: Timestamp, paths: int, size: int) -> None:
        """As in `Passes`."""

        def note_pass() -> Transaction[None]:
            freed = Freed(ended=ended, paths=paths, size=size) if paths else None
            if freed is None and (last := (yield from noted(_JOB, LastPass))) is not None:
                freed = last.freed
            yield from note(_JOB, LastPass(ended=ended, freed=freed))

        await self._database.write(note_pass, durable=False)

    async def last(self) -> LastPass | None:
        """As in `Passes`."""
        return await self._database.read(lambda: noted(_JOB, LastPass))
