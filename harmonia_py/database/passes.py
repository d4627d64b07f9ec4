"""`Passes` over a database."""

from typing import Final

import msgspec

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.passes import Freed, LastPass
from harmonia_py.database.transaction import Database, Transaction, ask, ask_one

_LAST: Final = "select value from progress where name = 'collection'"
_NOTE: Final = """
    insert into progress (name, value) values ('collection', $1) on conflict (name) do update set value = excluded.value
"""


class SqlPasses:
    """`Passes` in rows of the catalog."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def note(self, ended: Timestamp, paths: int, size: int) -> None:
        """As in `Passes`."""

        def note() -> Transaction[None]:
            freed = Freed(ended=ended, paths=paths, size=size) if paths else None
            if freed is None and (last := (yield from _last())) is not None:
                freed = last.freed
            yield from ask(_NOTE, msgspec.json.encode(LastPass(ended=ended, freed=freed)).decode())

        await self._database.write(note, durable=False)

    async def last(self) -> LastPass | None:
        """As in `Passes`."""
        return await self._database.read(_last)


def _last() -> Transaction[LastPass | None]:
    row = yield from ask_one(_LAST)
    return None if row is None else msgspec.json.decode(row[0], type=LastPass)
