"""`FileChecks` over a database."""

from collections.abc import Collection, Sequence
from typing import Final

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.file_checks import DueFile, Health, QuarantinedFile
from harmonia_py.catalog.nars import NarFile
from harmonia_py.database.object_rows import FILE, FILES, OF_FILES, digits, nar_file
from harmonia_py.database.ports import Transactions, scans, writes
from harmonia_py.database.transaction import Transaction, ask, ask_many, ask_number, ask_row
from harmonia_py.nix.hashes import Hash

# Enough to know what it is about.
_OBJECTS_TOLD: Final = 3

_DUE: Final = f"""
    select {FILE}, f.checked_s {OF_FILES} where f.quarantined_s is null order by f.checked_s, f.file_hash limit $1
"""
_PASSED: Final = "update nar_files set checked_s = $2 where file_hash = $1"
_PAGE: Final = f"{FILES} where f.file_hash > $1 and f.quarantined_s is null order by f.file_hash limit $2"
_QUARANTINED: Final = f"""
    select {FILE}, f.quarantined_s, f.quarantined_for {OF_FILES}
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


class SqlFileChecks(Transactions):
    """`FileChecks` in rows of the catalog."""

    @scans
    def due(self, limit: int) -> Transaction[Sequence[DueFile]]:
        """As in `FileChecks`."""
        return [DueFile(nar_file(row[:6]), Timestamp(row[6])) for row in (yield from ask(_DUE, limit))]

    @writes(durable=False)
    def passed(self, file_hashes: Collection[Hash], *, now: Timestamp) -> Transaction[None]:
        """As in `FileChecks`."""
        rows = [(digits(file_hash), now) for file_hash in file_hashes]
        yield from ask_many(_PASSED, rows)

    @scans
    def page(self, after: Hash | None, limit: int) -> Transaction[Sequence[NarFile]]:
        """As in `FileChecks`."""
        return [nar_file(row) for row in (yield from ask(_PAGE, "" if after is None else digits(after), limit))]

    @scans
    def quarantined(self, after: Hash | None, limit: int) -> Transaction[Sequence[QuarantinedFile]]:
        """As in `FileChecks`."""
        found = []
        for row in (yield from ask(_QUARANTINED, "" if after is None else digits(after), limit)):
            objects = yield from ask(_OBJECTS, row[0], _OBJECTS_TOLD)
            names = tuple(name for (name,) in objects)
            found.append(QuarantinedFile(nar_file(row[:6]), Timestamp(row[6]), row[7], names))
        return found

    @scans
    def health(self) -> Transaction[Health]:
        """As in `FileChecks`."""
        files, size, oldest = yield from ask_row(_RIGHT)
        wrong, hidden = (yield from ask_number(_WRONG)), (yield from ask_number(_HIDDEN))
        return Health(files, int(size), None if oldest is None else Timestamp(oldest), wrong, hidden)
