"""`Caches` over a database."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import (
    DEFAULT_CACHE,
    CacheExists,
    CacheId,
    CacheRow,
    CacheSettings,
    KeptByCache,
    KeptByCaches,
    Timestamp,
)
from harmonia_py.database.ports import Transactions, reads, scans, writes
from harmonia_py.database.transaction import Topic, Transaction, ask, ask_as, ask_number, ask_one, ask_row

_COLUMNS: Final = "id, name, settings, declared, created_s"
# The two that have no name of their own begin with a dot; no name does.
_FIND: Final = f"select {_COLUMNS} from caches where name = $1 and deleted_s is null"
_PAGE: Final = f"""
    select {_COLUMNS} from caches where name > $1 and name >= '0' and deleted_s is null order by name limit $2
"""
_NAMED: Final = f"c.id >= {DEFAULT_CACHE} and c.deleted_s is null"
_OLDER: Final = f"select count(*) from (select 1 from caches c where {_NAMED} and c.id < $1 limit $2) older"
_KEPT: Final = f"""
    select c.id, c.name, c.settings, coalesce(t.objects, 0), coalesce(t.size, 0)
    from caches c left join totals t on t.cache_id = c.id and t.state = 'published'
    where {_NAMED} order by c.id limit $1
"""
_KEPT_BY_OTHERS: Final = f"""
    select coalesce(sum(t.objects), 0), coalesce(sum(t.size), 0)
    from caches c join totals t on t.cache_id = c.id and t.state = 'published' where {_NAMED} and c.id > $1
"""
_CREATE: Final = f"""
    insert into caches ({_COLUMNS}) select max(id) + 1, $1, $2, $3, $4 from caches returning {_COLUMNS}
"""
_CONFIGURE: Final = f"""
    update caches set settings = $2, declared = $3 where name = $1 and deleted_s is null returning {_COLUMNS}
"""
_DELETE: Final = "update caches set deleted_s = $2 where name = $1 and deleted_s is null returning id"
_KEEP_NOTHING: Final = (
    "delete from pin_revisions where cache_id = $1",
    "delete from pins where cache_id = $1",
    "update sessions set ended_s = seen_s where cache_id = $1",
    "delete from leases where cache_id = $1",
)


class SqlCaches(Transactions):
    """`Caches` in rows of the catalog."""

    @reads
    def find(self, name: CacheName) -> Transaction[CacheRow | None]:
        """As in `Caches`."""
        return ask_as(_row, _FIND, name)

    @reads
    def older(self, cache: CacheId, limit: int) -> Transaction[int]:
        """As in `Caches`."""
        return ask_number(_OLDER, cache, limit)

    @scans
    def kept(self, limit: int) -> Transaction[KeptByCaches]:
        """As in `Caches`."""
        rows = yield from ask(_KEPT, limit)
        others = (0, 0) if len(rows) < limit else (yield from ask_row(_KEPT_BY_OTHERS, rows[-1][0]))
        first = [
            KeptByCache(CacheName(name), int(paths), int(size), _settings(settings).max_size)
            for _, name, settings, paths, size in rows
        ]
        return KeptByCaches(first, int(others[0]), int(others[1]))

    @reads
    def page(self, after: CacheName | None, limit: int) -> Transaction[Sequence[CacheRow]]:
        """As in `Caches`."""
        return [_row(row) for row in (yield from ask(_PAGE, after or "", limit))]

    @writes(Topic.ACCESS)
    def create(
        self, name: CacheName, settings: CacheSettings, *, declared: bool, now: Timestamp
    ) -> Transaction[CacheRow]:
        """As in `Caches`."""
        if (yield from ask_one(_FIND, name)) is not None:
            raise CacheExists(f"there is a cache {name} already")
        return _row((yield from ask_row(_CREATE, name, _text(settings), int(declared), now)))

    @writes(Topic.ACCESS)
    def configure(self, name: CacheName, settings: CacheSettings, *, declared: bool) -> Transaction[CacheRow | None]:
        """As in `Caches`."""
        return ask_as(_row, _CONFIGURE, name, _text(settings), int(declared))

    @writes(Topic.ACCESS)
    def change(self, name: CacheName, changes: Mapping[str, Any]) -> Transaction[CacheRow | None]:
        """As in `Caches`."""
        row = yield from ask_as(_row, _FIND, name)
        if row is None or row.declared:
            return None
        settings = replace(row.settings, **changes)
        return (yield from ask_as(_row, _CONFIGURE, name, _text(settings), int(row.declared)))

    @writes(Topic.ACCESS, Topic.OBJECTS, Topic.REMOVALS)
    def delete(self, name: CacheName, *, now: Timestamp) -> Transaction[bool]:
        """As in `Caches`."""
        row = yield from ask_one(_DELETE, name, now)
        if row is None:
            return False
        # Nothing keeps anything in it from now on.
        for statement in _KEEP_NOTHING:
            yield from ask(statement, row[0])
        return True


def _text(settings: CacheSettings) -> str:
    return msgspec.json.encode(settings).decode()


def _settings(text: str) -> CacheSettings:
    return msgspec.json.decode(text, type=CacheSettings)


def _row(row: tuple[Any, ...]) -> CacheRow:
    number, name, settings, declared, created = row
    return CacheRow(
        id=CacheId(number),
        name=CacheName(name),
        settings=_settings(settings),
        declared=bool(declared),
        created=Timestamp(created),
    )
