"""Reads from a store's database in which order its paths became valid.

Source: `src/libstore/schema.sql` of Nix: `ValidPaths.id` is `autoincrement`, so that no number comes twice.
"""

from collections.abc import Sequence
from typing import Final

from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.store.rows import Row, number, text
from harmonia_py.store.sqlite import SqliteStore

_LAST: Final = "select max(id) from ValidPaths"
_AFTER: Final = "select id, path from ValidPaths where id > ? order by id"


class StoreRegistrations:
    """The paths of a store by the order in which they became valid.

    Args:
        store: its database.
        store_dir: of the paths.
    """

    def __init__(self, store: SqliteStore, store_dir: StoreDir) -> None:
        self._store = store
        self._store_dir = store_dir

    async def last(self) -> int:
        """The number of the newest path; 0 when there is none.

        Raises:
            DaemonError: the database cannot be read, or has rows that do not parse.
        """
        return await self._store.select(lambda rows: number(rows[0][0]), _LAST)

    async def after(self, after: int) -> tuple[Sequence[StorePath], int]:
        """The paths with greater numbers, in their order, and the greatest of these.

        Raises:
            DaemonError: the database cannot be read, or has rows that do not parse.
        """

        def read(rows: Sequence[Row]) -> tuple[Sequence[StorePath], int]:
            paths = [self._store_dir.parse_path(text(path)) for _, path in rows]
            return paths, number(rows[-1][0]) if rows else after

        return await self._store.select(read, _AFTER, after)
