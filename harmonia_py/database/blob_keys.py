"""The keys of bytes: those that rows name, and those that are garbage, whose bytes are to be deleted."""

from collections.abc import Collection, Iterable
from typing import Final

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.nars import BeingDeleted
from harmonia_py.database.transaction import Transaction, ask, ask_for_each, ask_many, ask_one

NAMED_IN: Final = {
    table: f"select blob_key from {table} where blob_key in ($list)"
    for table in ("nar_files", "received", "documents", "packs", "garbage")
}
"""For each table whose rows name keys, the question which of some keys these are."""
_STANDING: Final = "select claimed from garbage where blob_key = $1"
_TAKE: Final = "delete from garbage where blob_key = $1"
# Claimed once more (2): what is being deleted may have been written after it was deleted, and is to be looked at again.
_LIST: Final = """
    insert into garbage (blob_key, since_s, not_before_s, claimed) values ($1, $2, $2, 0)
    on conflict (blob_key) do update set claimed = 2 where garbage.claimed = 1
"""


def named_in(blob_keys: Collection[str], *tables: str) -> Transaction[set[str]]:
    """Those of some keys that rows of these tables name."""
    unnamed = set(blob_keys)
    for table in tables:
        unnamed -= {row[0] for row in (yield from ask_for_each(NAMED_IN[table], sorted(unnamed)))}
    return set(blob_keys) - unnamed


def is_garbage(blob_key: str) -> Transaction[bool]:
    """Whether the bytes under this key are to be deleted."""
    return (yield from ask_one(_STANDING, blob_key)) is not None


def take_from_garbage(blob_key: str) -> Transaction[None]:
    """Make sure that the bytes under this key stay.

    Raises:
        BeingDeleted: it is too late.
    """
    row = yield from ask_one(_STANDING, blob_key)
    if row is not None:
        if row[0]:
            raise BeingDeleted("what was kept under this key is being deleted")
        yield from ask(_TAKE, blob_key)


def list_as_garbage(blob_keys: Iterable[str | None], now: Timestamp) -> Transaction[None]:
    """Have the bytes under these keys deleted, unless a row names them."""
    keys = {key for key in blob_keys if key is not None}
    named = yield from named_in(keys, "nar_files", "received", "documents", "packs")
    yield from ask_many(_LIST, [(key, now) for key in sorted(keys - named)])
