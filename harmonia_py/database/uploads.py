"""`Uploads` and `Adoption` over a database."""

from collections.abc import Collection
from operator import itemgetter
from typing import Final

from msgspec.structs import replace

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.nars import BeingDeleted, NarFile
from harmonia_py.catalog.objects import Document, DocumentKind
from harmonia_py.catalog.uploads import LET_GO_SECONDS, SESSION_SECONDS, Session
from harmonia_py.database.blob_keys import list_as_garbage, take_from_garbage
from harmonia_py.database.document_changes import KEEP_DOCUMENT, put_document
from harmonia_py.database.nars import add_findings, findings_of, keep_file, known_file
from harmonia_py.database.object_rows import FILES, SESSION_COLUMNS, digits, nar_file, session_of
from harmonia_py.database.ports import Transactions, reads, writes
from harmonia_py.database.received import ending_claim, expect, forget_received, give_up_received, receive
from harmonia_py.database.transaction import Topic, Transaction, ask, ask_as, ask_many, ask_number, ask_row, do_together
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart

# A session that was ended and shows a sign of life begins again; what it was told before is not remembered.
_SIGN_OF_LIFE: Final = f"""
    insert into sessions (id, cache_id, principal, begun_s, seen_s) values ($1, $2, $3, $4, $4)
    on conflict (id) do update set seen_s = excluded.seen_s, ended_s = null
    returning {SESSION_COLUMNS}
"""
# Not noted again within a second: each note writes a page of the log, and a push brings a hundred files.
_LIVES_ON: Final = """
    insert into sessions (id, cache_id, principal, begun_s, seen_s) values ($1, $2, $3, $4, $4)
    on conflict (id) do update set seen_s = excluded.seen_s, ended_s = null
    where sessions.seen_s < excluded.seen_s or sessions.ended_s is not null
"""
_END: Final = "update sessions set ended_s = $2, seen_s = $2 where id = $1"
_NO_LEASES: Final = "delete from leases where session_id = $1"
_FIND: Final = f"""
    {FILES} where f.file_hash = $2 and f.quarantined_s is null and (
        exists (select 1 from received where cache_id = $1 and file_hash = $2 and state = 'received')
        or exists (select 1 from objects where cache_id = $1 and file_hash = $2)
    )
"""
# Bytes that have been written are there as long as a row names them: that of the session, or the file's own.
_IS_KEPT: Final = """
    select exists (select 1 from received where cache_id = $1 and file_hash = $2 and session_id = $3)
        or exists (select 1 from received_as_well where cache_id = $1 and file_hash = $2 and session_id = $3)
        or exists (select 1 from nar_files where file_hash = $2 and (blob_key = $4 or quarantined_s is null))
"""
_WHOLE_FILE: Final = "select blob_key from nar_files where file_hash = $1 and quarantined_s is null"
_DERIVED: Final = "select hash_part from objects where cache_id = $1 and deriver = $2"


class SqlUploads(Transactions):
    """`Uploads` and `Adoption` in rows of the catalog."""

    async def session(self, session: Session, *, end: bool = False) -> Session:
        """As in `Uploads`."""

        def note() -> Transaction[Session]:
            values = (session.id, session.cache, session.principal, session.seen)
            standing = session_of((yield from ask_row(_SIGN_OF_LIFE, *values)))
            if not end:
                return standing
            yield from ask(_END, session.id, session.seen)
            yield from ask(_NO_LEASES, session.id)
            yield from give_up_received(session.id, session.seen)
            return replace(standing, seen=session.seen, ended=session.seen)

        return await self._database.write(note, durable=end)

    @writes(durable=False)
    def expect(
        self, cache: CacheId, session: str, file_hash: Hash, blob_key: str, *, now: Timestamp
    ) -> Transaction[None]:
        """As in `Uploads`."""
        yield from take_from_garbage(blob_key)
        yield from live_on(cache, session, now)
        yield from expect((cache, digits(file_hash), session, blob_key, now))

    async def received(
        self,
        cache: CacheId,
        session: str,
        file: NarFile,
        *,
        findings: str | None = None,
        in_place_of: str | None = None,
        now: Timestamp,
    ) -> None:
        """As in `Uploads`."""

        def received() -> Transaction[bool]:
            if not (yield from ask_number(_IS_KEPT, cache, digits(file.file_hash), session, file.blob_key)):
                # The collector may have deleted the key before they were written: then nothing else names them.
                yield from list_as_garbage([file.blob_key], now)
                return False
            yield from receive_file(cache, session, file, findings, now)
            if in_place_of is not None:
                yield from do_together(ending_claim(cache, digits(file.file_hash), in_place_of))
            return True

        # A file that was quarantined has come again: objects that have it are seen again.
        if not await self._database.write(received, Topic.OBJECTS, durable=False):
            raise BeingDeleted("its session ended since it was expected, and its bytes may be gone")

    @writes()
    def forget(self, session: str, *, now: Timestamp) -> Transaction[None]:
        """As in `Uploads`."""
        yield from forget_received(session, now)

    @reads
    def find(self, cache: CacheId, file_hash: Hash) -> Transaction[NarFile | None]:
        """As in `Uploads`."""
        return find_file(cache, file_hash)

    @writes(durable=False)
    def claim(self, cache: CacheId, session: str, file_hash: Hash, *, now: Timestamp) -> Transaction[NarFile | None]:
        """As in `Uploads`."""
        file = yield from find_file(cache, file_hash)
        if file is None or file.nar_hash is None:
            return None
        if (yield from findings_of(file.nar_hash)) is None:
            return None
        yield from live_on(cache, session, now)
        yield from receive([(cache, digits(file_hash), session, file.blob_key, now)])
        return file

    @writes(Topic.OBJECTS)
    def attach(
        self, cache: CacheId, session: str | None, document: Document, keepers: Collection[HashPart], *, now: Timestamp
    ) -> Transaction[None]:
        """As in `Uploads`."""
        if session is not None:
            yield from live_on(cache, session, now)
        yield from put_document(cache, document, session, now)
        keeping = set(keepers)
        if document.kind is DocumentKind.LOG:
            keeping |= {row[0] for row in (yield from ask(_DERIVED, cache, document.name))}
        edges = [(cache, keeper, document.kind.value, document.name) for keeper in sorted(keeping)]
        yield from ask_many(KEEP_DOCUMENT, edges)

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


def receive_file(
    cache: CacheId, session: str, file: NarFile, findings: str | None, now: Timestamp
) -> Transaction[None]:
    """As `Uploads.received`; the caller has seen to it that no collector deletes the bytes of the file."""
    yield from live_on(cache, session, now)
    yield from keep_file(file, now)
    if findings is not None:
        yield from add_findings(file, findings)
    yield from receive([(cache, digits(file.file_hash), session, file.blob_key, now)])


def let_go(cache: CacheId, file_hash: str, now: Timestamp) -> Transaction[None]:
    """Have a file that its path does not need stay a while, for a session of its own."""
    blob_key = yield from ask_as(itemgetter(0), _WHOLE_FILE, file_hash)
    if blob_key is not None:
        session, ends = f"let go {file_hash}", Timestamp(now - SESSION_SECONDS + LET_GO_SECONDS)
        yield from live_on(cache, session, ends)
        yield from receive([(cache, file_hash, session, blob_key, ends)])


def find_file(cache: CacheId, file_hash: Hash) -> Transaction[NarFile | None]:
    """As `Uploads.find`."""
    return ask_as(nar_file, _FIND, cache, digits(file_hash))


def live_on(cache: CacheId, session: str, now: Timestamp) -> Transaction[None]:
    """Note that a session shows a sign of life; one that the catalog does not know begins."""
    yield from ask(_LIVES_ON, session, cache, "", now)
