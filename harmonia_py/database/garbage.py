"""`Garbage` over a database."""

from collections.abc import Collection, Sequence
from typing import Final

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.collection import Collected
from harmonia_py.database.ports import Transactions, writes
from harmonia_py.database.removing import LOOSE, drop_documents, sweep
from harmonia_py.database.transaction import Topic, Transaction, ask, ask_for_each, ask_many, ask_one

_ANY_LOOSE: Final = f"{LOOSE} limit 1"
_CLAIMED: Final = "select blob_key from garbage where not_before_s <= $1 order by not_before_s, blob_key limit $2"
_CLAIM: Final = "update garbage set claimed = 1 where blob_key in ($list)"
# A key that was listed anew meanwhile is to be looked at again: a narinfo (0), or what a push had written (2).
_FORGET: Final = "delete from garbage where blob_key in ($list) and claimed = 1"
_LISTED_ANEW: Final = "update garbage set claimed = 0 where blob_key in ($list) and claimed = 2"
_POSTPONE: Final = "update garbage set not_before_s = $2, claimed = 0 where blob_key = $1"


class SqlGarbage(Transactions):
    """`Garbage` in rows of the catalog."""

    @writes()
    def sweep(self, limit: int, *, now: Timestamp) -> Transaction[Collected]:
        """As in `Garbage`."""
        return sweep(limit, now)

    async def drop_documents(self, cache: CacheId, before: Timestamp, limit: int, *, now: Timestamp) -> int:
        """As in `Garbage`."""
        if await self._database.scan(lambda: ask_one(_ANY_LOOSE, cache, before)) is None:
            return 0
        return await self._database.write(lambda: drop_documents(cache, before, limit, now), Topic.REMOVALS)

    @writes()
    def claim(self, limit: int, *, now: Timestamp) -> Transaction[Sequence[str]]:
        """As in `Garbage`."""
        keys = [row[0] for row in (yield from ask(_CLAIMED, now, limit))]
        yield from ask_for_each(_CLAIM, keys)
        return keys

    @writes()
    def forget(self, blob_keys: Collection[str]) -> Transaction[None]:
        """As in `Garbage`."""
        yield from ask_for_each(_FORGET, sorted(blob_keys))
        yield from ask_for_each(_LISTED_ANEW, sorted(blob_keys))

    @writes()
    def postpone(self, blob_keys: Collection[str], until: Timestamp) -> Transaction[None]:
        """As in `Garbage`."""
        yield from ask_many(_POSTPONE, [(key, until) for key in sorted(blob_keys)])
