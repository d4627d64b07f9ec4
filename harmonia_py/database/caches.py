"""`Caches` over a database."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheExists, CacheId, CacheRow, CacheSettings, Timestamp
from harmonia_py.database.transaction import Database, Row, Topic, Transaction, ask, ask_one

_COLUMNS: Final = "id, name, settings, declared, created_s"
# The two that have no name of their own begin with a dot; no name does.
_FIND: Final = f"select {_COLUMNS} from caches where name = $1 and deleted_s is null"
_PAGE: Final = f"""
    select {_COLUMNS} from caches where name > $1 and name >= '0' and deleted_s is null order by name limit $2
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


class SqlCaches:
    """`Caches` in rows of the catalog."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, name: CacheName) -> CacheRow | None:
        """As in `Caches`."""

        def find() -> Transaction[CacheRow | None]:
            return _parse((yield from ask_one(_FIND, name)))

        return await self._database.read(find)

    async def page(self, after: CacheName | None, limit: int) -> Sequence[CacheRow]:
        """As in `Caches`."""

        def page() -> Transaction[list[CacheRow]]:
            return [_row(row) for row in (yield from ask(_PAGE, after or "", limit))]

        return await self._database.read(page)

    async def create(self, name: CacheName, settings: CacheSettings, *, declared: bool, now: Timestamp) -> CacheRow:
        """As in `Caches`."""

        def create() -> Transaction[CacheRow]:
            if (yield from ask_one(_FIND, name)) is not None:
                raise CacheExists(f"there is a cache {name} already")
            row = yield from ask_one(_CREATE, name, _text(settings), int(declared), now)
            assert row is not None
            return _row(row)

        return await self._database.write(create, Topic.ACCESS)

    async def configure(self, name: CacheName, settings: CacheSettings, *, declared: bool) -> CacheRow | None:
        """As in `Caches`."""

        def configure() -> Transaction[CacheRow | None]:
            return _parse((yield from ask_one(_CONFIGURE, name, _text(settings), int(declared))))

        return await self._database.write(configure, Topic.ACCESS)

    async def change(self, name: CacheName, changes: Mapping[str, Any]) -> CacheRow | None:
        """As in `Caches`."""

        def change() -> Transaction[CacheRow | None]:
            row = _parse((yield from ask_one(_FIND, name)))
            if row is None or row.declared:
                return None
            settings = replace(row.settings, **changes)
            return _parse((yield from ask_one(_CONFIGURE, name, _text(settings), int(row.declared))))

        return await self._database.write(change, Topic.ACCESS)

    async def delete(self, name: CacheName, *, now: Timestamp) -> bool:
        """As in `Caches`."""

        def delete() -> Transaction[bool]:
            row = yield from ask_one(_DELETE, name, now)
            if row is None:
                return False
            # Nothing keeps anything in it from now on.
            for statement in _KEEP_NOTHING:
                yield from ask(statement, row[0])
            return True

        return await self._database.write(delete, Topic.ACCESS, Topic.OBJECTS, Topic.REMOVALS)


def _text(settings: CacheSettings) -> str:
    return msgspec.json.encode(settings).decode()


def _parse(row: Row | None) -> CacheRow | None:
    return None if row is None else _row(row)


def _row(row: tuple[Any, ...]) -> CacheRow:
    number, name, settings, declared, created = row
    return CacheRow(
        id=CacheId(number),
        name=CacheName(name),
        settings=msgspec.json.decode(settings, type=CacheSettings),
        declared=bool(declared),
        created=Timestamp(created),
    )
