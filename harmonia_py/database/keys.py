"""`Keys` over a database."""

from collections.abc import Sequence
from typing import Any, Final

from harmonia_py.catalog.audit import AuditEntry
from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.keys import KeyExists, KeyRow, KeyState
from harmonia_py.database.audit import note
from harmonia_py.database.ports import Transactions, reads, writes
from harmonia_py.database.transaction import Topic, Transaction, ask, ask_one

_COLUMNS: Final = "cache_id, name, public_key, secret, encryption, state, created_s, until_s"
_OF: Final = f"select {_COLUMNS} from signing_keys where cache_id = $1 order by created_s, name"
_NAMED: Final = "select name from signing_keys where cache_id = $1 and name = $2"
_ADD: Final = f"insert into signing_keys ({_COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7, $8)"
_RETIRE_OTHERS: Final = """
    update signing_keys set state = 'retiring', until_s = $2 where cache_id = $1 and state = 'active'
"""
_RETIRE: Final = "update signing_keys set state = $3, until_s = $4 where cache_id = $1 and name = $2 returning name"
_OVER: Final = "state = 'retiring' and until_s <= $1"
_HAS_OVER: Final = f"select 1 from signing_keys where {_OVER} limit 1"
_END: Final = f"update signing_keys set state = 'retired' where {_OVER}"
# Workers put caches together with their keys, and hold answers with signatures by them.
_CHANGES: Final = (Topic.ACCESS, Topic.OBJECTS, Topic.REMOVALS)


class SqlKeys(Transactions):
    """`Keys` in rows of the catalog."""

    @reads
    def of(self, cache: CacheId) -> Transaction[Sequence[KeyRow]]:
        """As in `Keys`."""
        return [_row(row) for row in (yield from ask(_OF, cache))]

    @writes(*_CHANGES)
    def add(self, key: KeyRow, entry: AuditEntry, *, retire_others: Timestamp | None = None) -> Transaction[None]:
        """As in `Keys`."""
        if (yield from ask_one(_NAMED, key.cache, key.name)) is not None:
            raise KeyExists(f"there is a key {key.name} already")
        if retire_others is not None:
            yield from ask(_RETIRE_OTHERS, key.cache, retire_others)
        secret = (key.public_key, key.secret, key.encryption)
        yield from ask(_ADD, key.cache, key.name, *secret, key.state.value, key.created, key.until)
        yield from note([entry])

    @writes(*_CHANGES)
    def retire(
        self, cache: CacheId, name: str, entry: AuditEntry, *, until: Timestamp, now: Timestamp
    ) -> Transaction[bool]:
        """As in `Keys`."""
        state = KeyState.RETIRED if until <= now else KeyState.RETIRING
        retired = (yield from ask_one(_RETIRE, cache, name, state.value, until)) is not None
        if retired:
            yield from note([entry])
        return retired

    async def end_overlaps(self, *, now: Timestamp) -> bool:
        """As in `Keys`."""
        # Looked at first: a write would make every worker forget what it has ready.
        if await self._database.read(lambda: ask_one(_HAS_OVER, now)) is None:
            return False
        await self._database.write(lambda: ask(_END, now), *_CHANGES)
        return True


def _row(row: tuple[Any, ...]) -> KeyRow:
    cache, name, public_key, secret, encryption, state, created, until = row
    return KeyRow(
        cache=CacheId(cache),
        name=name,
        public_key=public_key,
        secret=bytes(secret),
        encryption=encryption,
        state=KeyState(state),
        created=Timestamp(created),
        until=until,
    )
