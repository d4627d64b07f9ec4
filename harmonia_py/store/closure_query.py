"""The closure of paths, asked of a store's database in two statements.

Source: `src/libstore/schema.sql` of Nix.
"""

import json
from collections.abc import Callable, Collection
from typing import Any, Final

from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.store.rows import Row, path_info, text

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
# SQLite's word for no limit.
_ALL: Final = -1
_REFERENCES: Final = "select referrer, reference from Refs where referrer in (select value from json_each(?))"

Query = Callable[[str, tuple[object, ...]], list[Row]]


def closure(
    query: Query, roots: Collection[StorePath], store_dir: StoreDir, limit: int = _ALL
) -> dict[StorePath, PathInfo]:
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
    rows: dict[Any, Row] = {row[0]: row[1:] for row in query(_CLOSURE, (full_paths, limit))}
    paths = {key: store_dir.parse_path(text(row[0])) for key, row in rows.items()}
    references: dict[Any, set[StorePath]] = {key: set() for key in rows}
    edges = query(_REFERENCES, (json.dumps(list(rows)),))
    if outside := {reference for _, reference in edges if reference not in paths}:
        outer = query(_PATHS, (json.dumps(list(outside)),))
        paths |= {key: store_dir.parse_path(text(path)) for key, path in outer}
    for referrer, reference in edges:
        references[referrer].add(paths[reference])
    return {paths[key]: path_info(row, references[key], store_dir) for key, row in rows.items()}
