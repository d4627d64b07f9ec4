"""The tables of objects and files, as several ports use them: columns, rows as values, revival, what nothing needs."""

from collections.abc import Collection, Iterable
from typing import Final

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.nars import RECIPES, NarFile
from harmonia_py.catalog.objects import Document, DocumentKind, ObjectState, StoredObject
from harmonia_py.catalog.uploads import Session
from harmonia_py.database.blob_keys import list_as_garbage
from harmonia_py.database.totals import add_chunked, add_files, move_objects
from harmonia_py.database.transaction import Row, Transaction, ask_for_each
from harmonia_py.nix import base32
from harmonia_py.nix.content_address import parse_content_address
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.signing import parse_signatures
from harmonia_py.nix.store_path import HashPart, StorePath

OBJECTS: Final = """
    select o.hash_part, o.name, o.nar_hash, n.nar_size, o.store_references, o.deriver, o.signatures,
        o.ca, o.verified_ca, o.state, o.pushed_by, o.pushed_s, o.used_s, o.condemned_s,
        f.file_hash, f.file_size, f.compression, f.blob_key
    from objects o join nars n on n.nar_hash = o.nar_hash join nar_files f on f.file_hash = o.file_hash
"""
READABLE: Final = "o.state <> 'waiting' and o.broken_s is null"
OBJECT: Final = f"{OBJECTS} where o.cache_id = $1 and o.hash_part = $2 and {READABLE}"
FILE: Final = "f.file_hash, f.file_size, f.compression, f.blob_key, f.nar_hash, n.nar_size"
"""The columns of `nar_file`, of the tables of `OF_FILES`."""
OF_FILES: Final = "from nar_files f left join nars n on n.nar_hash = f.nar_hash"
FILES: Final = f"select {FILE} {OF_FILES}"
IN_CHUNKS: Final = f"(f.blob_key >= '{RECIPES}' and f.blob_key < '{RECIPES[:-1]}0')"
"""Whether a file is made of chunks."""
KEEPERS: Final = """
    select 1 from object_documents e where e.cache_id = d.cache_id and e.kind = d.kind and e.name = d.name
"""
"""The objects, here or to come, that keep the document `d`."""
OBJECTS_OF_DOCUMENT: Final = """
    select 1 from object_documents e join objects o on o.cache_id = e.cache_id and o.hash_part = e.hash_part
    where e.cache_id = d.cache_id and e.kind = d.kind and e.name = d.name
"""
"""Those that are here, each of them `o`."""
OF_STORE: Final = "store"
"""Stands among the references of an object that waits for the local store to take it. No object has this hash part, so
that nothing publishes the object here, where readers have none of its references."""

# What references an object keeps it: with it all that it references, directly or not, is revived. By their time, not by
# their state: for that there is an index, in which PostgreSQL looked at all that is condemned where that seemed few.
_REVIVE: Final = """
    with recursive kept (hash_part) as (
        select hash_part from objects where cache_id = $1 and condemned_s is not null and hash_part in ($list)
        union
        select o.hash_part from kept
            join object_references r on r.cache_id = $1 and r.hash_part = kept.hash_part
            join objects o on o.cache_id = $1 and o.hash_part = r.reference and o.condemned_s is not null
    )
    update objects set state = 'published', condemned_s = null, condemned_for = null, condemned_rank = null,
        aged_from_s = case when aged_from_s < $2 then $2 else aged_from_s end
    where cache_id = $1 and hash_part in (select hash_part from kept)
    returning hash_part, file_size
"""

SESSION_COLUMNS: Final = "id, cache_id, principal, begun_s, seen_s, ended_s"
LEASE: Final = "insert into leases (session_id, cache_id, hash_part) values ($1, $2, $3) on conflict do nothing"

_DROP_FILES: Final = """
    delete from nar_files where file_hash in ($list)
        and not exists (select 1 from objects o where o.file_hash = nar_files.file_hash)
        and not exists (select 1 from received r where r.file_hash = nar_files.file_hash)
    returning file_hash, blob_key, nar_hash, file_size
"""
# The uses of its chunks go later: a recipe may have many chunks.
_DROP_RECIPES: Final = """
    update recipes set dropped_s = $1 where file_hash in ($list) and dropped_s is null returning file_hash, former_size
"""
_DROP_NARS: Final = """
    delete from nars where nar_hash in ($list)
        and not exists (select 1 from objects o where o.nar_hash = nars.nar_hash)
        and not exists (select 1 from nar_files f where f.nar_hash = nars.nar_hash)
"""


def digits(hash_: Hash) -> str:
    """A hash as a column has it."""
    return hash_.nix32


def sha256(text: str) -> Hash:
    """The hash that a column has."""
    return Hash("sha256", base32.decode(text))


def nar_file(row: Row) -> NarFile:
    """A file from the columns `FILE`."""
    file_hash, file_size, compression, blob_key, nar_hash, nar_size = row
    return NarFile(
        file_hash=sha256(file_hash),
        file_size=file_size,
        compression=compression,
        blob_key=blob_key,
        nar_hash=None if nar_hash is None else sha256(nar_hash),
        nar_size=nar_size,
    )


def session_of(row: Row) -> Session:
    """A session from `SESSION_COLUMNS`."""
    session_id, cache, principal, begun, seen, ended = row
    return Session(id=session_id, cache=CacheId(cache), principal=principal, begun=begun, seen=seen, ended=ended)


def document_of(kind: DocumentKind, row: Row) -> Document:
    """A document from `name, size, blob_key, body`."""
    name, size, blob_key, body = row
    return Document(kind=kind, name=name, size=size, blob_key=blob_key, body=None if body is None else bytes(body))


def stored_object(row: Row) -> StoredObject:
    """An object from a row of `OBJECTS`."""
    hash_part, name, nar_hash, nar_size, references, deriver, signatures, ca, verified_ca = row[:9]
    state, pushed_by, pushed, used, condemned, file_hash, *rest = row[9:]
    return StoredObject(
        path_info=PathInfo(
            store_path=StorePath(f"{hash_part}-{name}"),
            nar_hash=sha256(nar_hash),
            nar_size=nar_size,
            references=tuple(map(StorePath, references.split())),
            deriver=None if deriver is None else StorePath(deriver),
            signatures=parse_signatures(signatures.split()),
            ca=None if ca is None else parse_content_address(ca),
        ),
        file=nar_file((file_hash, *rest, nar_hash, nar_size)),
        verified_ca=verified_ca,
        state=ObjectState(state),
        pushed_by=pushed_by,
        pushed=Timestamp(pushed),
        used=Timestamp(used),
        condemned_since=None if condemned is None else Timestamp(condemned),
    )


def revive(cache: CacheId, hash_parts: Collection[str], now: Timestamp) -> Transaction[tuple[HashPart, ...]]:
    """Revive the condemned ones of some objects, with the condemned objects that they reference."""
    rows = yield from ask_for_each(_REVIVE, sorted(hash_parts), cache, now)
    yield from move_objects(cache, ObjectState.CONDEMNED, ObjectState.PUBLISHED, [size for _, size in rows])
    return tuple(HashPart(hash_part) for hash_part, _ in rows)


def drop_unused_files(file_hashes: Iterable[str], now: Timestamp) -> Transaction[None]:
    """As `forget_unused_files`; their bytes become garbage."""
    yield from list_as_garbage((yield from forget_unused_files(file_hashes, now)), now)


def forget_unused_files(file_hashes: Iterable[str], now: Timestamp) -> Transaction[list[str]]:
    """Remove the rows of the files that nothing needs any more, and those of their NARs.

    Returns the keys of their bytes, which no row names now.
    """
    dropped = yield from ask_for_each(_DROP_FILES, sorted(set(file_hashes)))
    # A file may have a recipe although its bytes are whole now: it was lost, and came again.
    recipes = yield from ask_for_each(_DROP_RECIPES, [row[0] for row in dropped], now)
    sent = {row[0]: row[3] for row in dropped}
    yield from add_chunked([(former_size, sent[file_hash]) for file_hash, former_size in recipes], sign=-1)
    yield from add_files([row[3] for row in dropped], sign=-1)
    yield from ask_for_each(_DROP_NARS, sorted({row[2] for row in dropped if row[2] is not None}))
    return [row[1] for row in dropped]
