"""The closure of paths, asked of a store's database in two statements.

Source: `src/libstore/schema.sql` of Nix.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

from harmonia_py.errors import DaemonProtocolError, FormatError
from harmonia_py.nix.closure import in_order
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.store.rows import Row, number, path_info, text

_CLOSURE: Final = """
    with recursive closure(id) as (
        select id from ValidPaths where path in (select value from json_each(?))
        union select reference from Refs join closure on referrer = closure.id
        limit ?
    )
    select id, path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca
    from ValidPaths where id in closure
"""
_PATHS: Final = "select id, path from ValidPaths where id in (select value from json_each(?))"
# Of a row behind its path.
_NAR_SIZE: Final = 3
# SQLite's word for no limit.
_ALL: Final = -1
_REFERENCES: Final = "select referrer, reference from Refs where referrer in (select value from json_each(?))"

Query = Callable[[str, tuple[object, ...]], list[Row]]


class ClosureRows:
    """A closure as rows: most paths of most pushes are only counted, and not worth the time to parse their rows.

    Args:
        paths: of the closure and of what that refers to, by their numbers.
        rows: of the paths of the closure, as `path_info` takes them.
        edges: pairs of a number and that of a path which the first one refers to.
        store_dir: of the paths.

    Attributes:
        sizes: the bytes of the NAR of each path of the closure.

    Raises:
        FormatError: a size is none.
    """

    def __init__(
        self, paths: Mapping[int, StorePath], rows: Mapping[int, Row], edges: Sequence[Row], store_dir: StoreDir
    ) -> None:
        self.sizes: Mapping[StorePath, int] = {paths[key]: number(row[_NAR_SIZE]) for key, row in rows.items()}
        self._paths = paths
        self._rows = rows
        self._edges = edges
        self._store_dir = store_dir

    def infos(self, wanted: Collection[StorePath]) -> Sequence[PathInfo]:
        """As in `Closure`."""
        if not wanted:
            return []
        these, references = frozenset(wanted), self._references()
        ordered = in_order(self._rows, references.__getitem__)
        try:
            return [self._info(key, references[key]) for key in ordered if self._paths[key] in these]
        except FormatError as error:
            raise DaemonProtocolError(f"the store's database: a row does not parse: {error}") from error

    def all_infos(self) -> dict[StorePath, PathInfo]:
        """The path infos of all paths, in the order of the rows.

        Raises:
            FormatError: a row does not parse.
        """
        references = self._references()
        return {self._paths[key]: self._info(key, references[key]) for key in self._rows}

    def _references(self) -> dict[int, list[int]]:
        references: dict[int, list[int]] = {key: [] for key in self._rows}
        for referrer, reference in self._edges:
            references[referrer].append(reference)
        return references

    def _info(self, key: int, references: Iterable[int]) -> PathInfo:
        referred = {self._paths[reference] for reference in references}
        return path_info(self._paths[key], self._rows[key], referred, self._store_dir)


def closure(query: Query, roots: Collection[StorePath], store_dir: StoreDir, limit: int = _ALL) -> ClosureRows:
    """The valid ones of `roots` with all that they refer to, or the nearest `limit` of these.

    Args:
        query: answers statements about the database as it is at one moment.
        roots: where to begin.
        store_dir: of the paths.
        limit: so many paths at most.

    Raises:
        FormatError: a row does not parse.
    """
    full_paths = json.dumps([store_dir.join(path) for path in roots])
    rows: dict[int, Row] = {}
    paths: dict[int, StorePath] = {}
    for key, path, *row in query(_CLOSURE, (full_paths, limit)):
        rows[key], paths[key] = tuple(row), store_dir.parse_path(text(path))
    edges = query(_REFERENCES, (json.dumps(list(rows)),))
    if outside := {reference for _, reference in edges if reference not in paths}:
        outer = query(_PATHS, (json.dumps(list(outside)),))
        paths |= {key: store_dir.parse_path(text(path)) for key, path in outer}
    return ClosureRows(paths, rows, edges, store_dir)
