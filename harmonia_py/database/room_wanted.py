"""`RoomWanted` over a database."""

from typing import Final

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.room_wanted import WANTED_SECONDS
from harmonia_py.database.ports import Transactions, reads, writes
from harmonia_py.database.transaction import Transaction, ask, ask_one

_ALL: Final = CacheId(0)

_FORGET: Final = "delete from room_wanted where wanted_s <= $1"
_WANT: Final = """
    insert into room_wanted (cache_id, size, wanted_s) values ($1, $2, $3)
    on conflict (cache_id) do update set size = excluded.size, wanted_s = excluded.wanted_s
    where excluded.size > room_wanted.size
"""
_WANTED: Final = "select size from room_wanted where cache_id = $1 and wanted_s > $2"
_SETTLE: Final = "delete from room_wanted where cache_id = $1 and size <= $2"


class SqlRoomWanted(Transactions):
    """`RoomWanted` in a row for each cache."""

    @writes(durable=False)
    def want(self, cache: CacheId | None, size: int, *, now: Timestamp) -> Transaction[None]:
        """As in `RoomWanted`."""
        yield from ask(_FORGET, now - WANTED_SECONDS)
        yield from ask(_WANT, cache or _ALL, size, now)

    @reads
    def wanted(self, cache: CacheId | None, *, now: Timestamp) -> Transaction[int]:
        """As in `RoomWanted`."""
        row = yield from ask_one(_WANTED, cache or _ALL, now - WANTED_SECONDS)
        return 0 if row is None else int(row[0])

    @writes(durable=False)
    def settle(self, cache: CacheId | None, size: int) -> Transaction[None]:
        """As in `RoomWanted`."""
        yield from ask(_SETTLE, cache or _ALL, size)
