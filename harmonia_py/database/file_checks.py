"""`FileChecks` over a database."""

from collections.abc import Collection, Sequence
from typing import Final

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.file_checks import DueFile, Health, QuarantinedFile
from harmonia_py.catalog.nars import NarFile
from harmonia_py.database.object_rows import digits, nar_file
from harmonia_py.database.transaction import Database, Row, Transaction, ask, ask_many, ask_one
from harmonia_py.nix.hashes import Hash

# Enough to know what it is about.
_OBJECTS_TOLD: Final = 3

_COLUMNS: Final = "f.file_hash, f.file_size, f.compression, f.blob_key, f.nar_hash, n.nar_size"
_FROM: Final = "from nar_files f left join nars n on n.nar_hash = f.nar_hash"
_DUE: Final = f"""
    select {_COLUMNS}, f.checked_s {_FROM} where f.quarantined_s is null order by f.checked_s, f.file_hash limit $1
"""
_PASSED: Final = "update nar_files set checked_s = $2 where file_hash = $1"
_PAGE: Final = f"""
    select {_COLUMNS} {_FROM} where f.file_hash > $1 and f.quarantined_s is null order by f.file_hash limit $2
"""
_QUARANTINED: Final = f"""
    select {_COLUMNS}, f.quarantined_s, f.quarantined_for {_FROM}
    where f.file_hash > $1 and f.quarantined_s is not null order by f.file_hash limit $2
"""
_OBJECTS: Final = """
    select c.name || '/' || o.hash_part || '-' || o.name from objects o join caches c on c.id = o.cache_id
    where o.file_hash = $1 order by 1 limit $2
"""
_RIGHT: Final = (
    "select count(*), coalesce(sum(file_size), 0), min(checked_s) from nar_files where quarantined_s is null"
)
_WRONG: Final = "select count(*) from nar_files where quarantined_s is not null"
_HIDDEN: Final = "select count(*) from objects where broken_s is not null"


class SqlFileChecks:
    """`FileChecks` in rows of the catalog."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def due(self, limit: int) -> Sequence[DueFile]:
        """As in `FileChecks`."""

        def due() -> Transaction[list[DueFile]]:
            return [DueFile(nar_file(row[:6]), Timestamp(row[6])) for row in (yield from ask(_DUE, limit))]

        return await self._database.scan(due)

    async def passed(self, file_hashes: Collection[Hash], *, now: Timestamp) -> None:
        """As in `FileChecks`."""
        rows = [(digits(file_hash), now) for file_hash in file_hashes]
        await self._database.write(lambda: ask_many(_PASSED, rows), durable=False)

    async def page(self, after: Hash | None, limit: int) -> Sequence[NarFile]:
        """As in `FileChecks`."""

        def page() -> Transaction[list[NarFile]]:
            return [nar_file(row) for row in (yield from ask(_PAGE, "" if after is None else digits(after), limit))]

        return await self._database.scan(page)

    async def quarantined(self, after: Hash | None, limit: int) -> Sequence[QuarantinedFile]:
        """As in `FileChecks`."""

        def quarantined() -> Transaction[list[QuarantinedFile]]:
            rows = yield from ask(_QUARANTINED, "" if after is None else digits(after), limit)
            found = []
            for row in rows:
                objects = yield from ask(_OBJECTS, row[0], _OBJECTS_TOLD)
                found.append(_quarantined(row, objects))
            return found

        return await self._database.scan(quarantined)

    async def health(self) -> Health:
        """As in `FileChecks`."""

        def health() -> Transaction[Health]:
            right = yield from ask_one(_RIGHT)
            wrong = yield from ask_one(_WRONG)
            hidden = yield from ask_one(_HIDDEN)
            assert right is not None
            assert wrong is not None
            assert hidden is not None
            oldest = None if right[2] is None else Timestamp(right[2])
            return Health(right[0], int(right[1]), oldest, wrong[0], hidden[0])

        return await self._database.scan(health)


def _quarantined(row: Row, objects: Sequence[Row]) -> QuarantinedFile:
    return QuarantinedFile(nar_file(row[:6]), Timestamp(row[6]), row[7], tuple(name for (name,) in objects))
