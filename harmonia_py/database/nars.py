"""`Nars` over a database."""

from operator import itemgetter
from typing import Final

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.nars import NarFile
from harmonia_py.catalog.objects import ObjectState
from harmonia_py.database.blob_keys import is_garbage, list_as_garbage, take_from_garbage
from harmonia_py.database.closures import heal, quarantine
from harmonia_py.database.object_rows import FILES, digits, nar_file
from harmonia_py.database.ports import Transactions, reads, writes
from harmonia_py.database.totals import add_files, resize_objects
from harmonia_py.database.transaction import Statement, Topic, Transaction, ask, ask_as, ask_one, ask_row
from harmonia_py.nix.hashes import Hash

_FILE: Final = f"{FILES} where f.file_hash = $1 and f.quarantined_s is null"
_FILE_AT: Final = f"{FILES} where f.blob_key = $1 and f.quarantined_s is null"
_NAR: Final = "insert into nars (nar_hash, nar_size) values ($1, $2) on conflict do nothing"
_NOTE_FINDINGS: Final = "update nars set findings = $2 where nar_hash = $1"
_FINDINGS: Final = "select findings from nars where nar_hash = $1"
# A file that is quarantined comes back with its bytes, wherever they are now.
_KEEP: Final = """
    insert into nar_files (file_hash, file_size, compression, blob_key, nar_hash, checked_s)
    values ($1, $2, $3, $4, $5, $6)
    on conflict (file_hash) do update set
        checked_s = case when nar_files.quarantined_s is null then nar_files.checked_s else excluded.checked_s end,
        nar_hash = coalesce(nar_files.nar_hash, excluded.nar_hash),
        blob_key = case when nar_files.quarantined_s is null then nar_files.blob_key else excluded.blob_key end,
        quarantined_s = null, quarantined_for = null
    returning blob_key
"""
_IS_NAMED: Final = "select quarantined_s from nar_files where file_hash = $1"
# Other bytes have been written under the key: those that it had before are gone.
_FORMER: Final = "select file_hash, file_size from nar_files where blob_key = $1 and file_hash <> $2"
_MOVE: Final = "update objects set file_hash = $2, file_size = $3 where file_hash = $1 returning cache_id, state"
_FORGET: Final = "delete from nar_files where file_hash = $1"


class SqlNars(Transactions):
    """`Nars` in rows of the catalog."""

    async def reserve(self, blob_key: str) -> None:
        """As in `Nars`."""
        # Seldom: and a transaction that changes nothing would wait for the disk as well.
        if await self._database.read(lambda: is_garbage(blob_key)):
            await self._database.write(lambda: take_from_garbage(blob_key))

    @reads
    def file(self, file: Hash | str) -> Transaction[NarFile | None]:
        """As in `Nars`."""
        return known_file(file)

    @writes()
    def checked(self, file: NarFile, findings: str) -> Transaction[None]:
        """As in `Nars`."""
        assert file.nar_hash is not None
        nar_hash = digits(file.nar_hash)
        yield from ask(_NAR, nar_hash, file.nar_size)
        yield from add_findings(file, findings)
        yield from ask("update nar_files set nar_hash = $2 where file_hash = $1", digits(file.file_hash), nar_hash)

    @reads
    def findings(self, nar_hash: Hash) -> Transaction[str | None]:
        """As in `Nars`."""
        return findings_of(nar_hash)

    @writes(Topic.OBJECTS, Topic.REMOVALS)
    def quarantine(self, file_hash: Hash, reason: str, *, now: Timestamp) -> Transaction[int | None]:
        """As in `Nars`."""
        return quarantine(digits(file_hash), reason, now)


def findings_of(nar_hash: Hash) -> Transaction[str | None]:
    """As `Nars.findings`."""
    return ask_as(itemgetter(0), _FINDINGS, digits(nar_hash))


def known_file(file: Hash | str) -> Transaction[NarFile | None]:
    """As `Nars.file`."""
    return ask_as(nar_file, _FILE_AT, file) if isinstance(file, str) else ask_as(nar_file, _FILE, digits(file))


def add_findings(file: NarFile, findings: str) -> Transaction[None]:
    """As `Nars.checked`, of a file that is named with its NAR."""
    assert file.nar_hash is not None
    yield from ask(_NOTE_FINDINGS, digits(file.nar_hash), findings)


def naming(file: NarFile, now: Timestamp) -> list[Statement]:
    """The statements of `keep_file` in the common cases: a file that is whole under its key, or a new one."""
    nar_hash = None if file.nar_hash is None else digits(file.nar_hash)
    named = (digits(file.file_hash), file.file_size, file.compression, file.blob_key, nar_hash, now)
    return [
        *([] if nar_hash is None else [Statement(_NAR, (nar_hash, file.nar_size))]),
        Statement(_KEEP, named),
    ]


def keep_file(file: NarFile, now: Timestamp) -> Transaction[None]:
    """Name a file that is whole and durable. Where its bytes were there under another key already, those stay."""
    file_hash = digits(file.file_hash)
    *nars, keep = naming(file, now)
    for nar in nars:
        yield from ask(nar.sql, *nar.parameters)
    standing = yield from ask_one(_IS_NAMED, file_hash)
    (key,) = yield from ask_row(keep.sql, *keep.parameters)
    if standing is None:
        yield from add_files([file.file_size])
    elif standing[0] is not None:
        yield from heal(file_hash, now)
    if key != file.blob_key:
        yield from list_as_garbage([file.blob_key], now)
        return
    for former, former_size in (yield from ask(_FORMER, file.blob_key, file_hash)):
        moved = yield from ask(_MOVE, former, file_hash, file.file_size)
        growth = file.file_size - former_size
        yield from resize_objects([(cache, ObjectState(state), growth) for cache, state in moved])
        yield from ask(_FORGET, former)
        yield from add_files([former_size], sign=-1)
