"""The common parts of several ports over the tables of objects and files: parsing of rows, and revival of objects."""

from collections.abc import Collection, Iterable
from typing import Final

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.nars import BeingDeleted, NarFile
from harmonia_py.catalog.objects import ObjectState, StoredObject
from harmonia_py.database.totals import add_chunked, add_files, move_objects
from harmonia_py.database.transaction import Row, Transaction, ask, ask_for_each, ask_many, ask_one
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

LEASE: Final = "insert into leases (session_id, cache_id, hash_part) values ($1, $2, $3) on conflict do nothing"

_KEY_IS_GARBAGE: Final = "select claimed from garbage where blob_key = $1"
_NO_GARBAGE: Final = "delete from garbage where blob_key = $1"
_NAMED: Final = tuple(
    f"select blob_key from {table} where blob_key in ($list)"
    for table in ("nar_files", "received", "documents", "packs")
)
# Claimed once more (2): what is being deleted may have been written after it was deleted, and is to be looked at again.
_GARBAGE: Final = """
    insert into garbage (blob_key, since_s, not_before_s, claimed) values ($1, $2, $2, 0)
    on conflict (blob_key) do update set claimed = 2 where garbage.claimed = 1
"""
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
    """A file from `file_hash, file_size, compression, blob_key, nar_hash, nar_size`."""
    file_hash, file_size, compression, blob_key, nar_hash, nar_size = row
    return NarFile(
        file_hash=sha256(file_hash),
        file_size=file_size,
        compression=compression,
        blob_key=blob_key,
        nar_hash=None if nar_hash is None else sha256(nar_hash),
        nar_size=nar_size,
    )


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


def is_garbage(blob_key: str) -> Transaction[bool]:
    """Whether the bytes under this key are to be deleted."""
    return (yield from ask_one(_KEY_IS_GARBAGE, blob_key)) is not None


def take_from_garbage(blob_key: str) -> Transaction[None]:
    """Make sure that the bytes under this key stay.

    Raises:
        BeingDeleted: it is too late.
    """
    row = yield from ask_one(_KEY_IS_GARBAGE, blob_key)
    if row is not None:
        if row[0]:
            raise BeingDeleted("what was kept under this key is being deleted")
        yield from ask(_NO_GARBAGE, blob_key)


def list_as_garbage(blob_keys: Iterable[str | None], now: Timestamp) -> Transaction[None]:
    """Have the bytes under these keys deleted, unless a row names them."""
    unnamed = {key for key in blob_keys if key is not None}
    for statement in _NAMED:
        unnamed -= {row[0] for row in (yield from ask_for_each(statement, sorted(unnamed)))}
    yield from ask_many(_GARBAGE, [(key, now) for key in sorted(unnamed)])


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
