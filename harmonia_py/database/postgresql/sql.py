"""The one SQL text of the catalog as PostgreSQL takes it.

A parameter has the type that the server infers from where it stands, which for `$1 - 86400` is one of 32 bits, and for
`$1 || ' '` none at all. So each is cast to the type of its value. Text is compared byte by byte, as SQLite does it and
as Python sorts: in the order of a language `.store` comes after `0`, and pages would leave rows out.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from harmonia_py.database.transaction import Statement, Value

_PARAMETER: Final = re.compile(r"\$([0-9]+)")
_ID: Final = re.compile(r"\b(?!cache_id\b)(\w*id) integer\b")
_TEXT: Final = re.compile(r"\btext\b")
_VALUES: Final = re.compile(r"values \(\$1(?:, \$[0-9]+)*\)")
_TYPES: Final = {int: "bigint", str: "text", bytes: "bytea"}


def cast(sql: str, parameters: Sequence[Value]) -> str:
    """A statement with the type of each parameter beside it; None has the type of the place where it stands."""
    return _cast(sql, tuple(map(_base, parameters)))


def definition(sql: str) -> str:
    """A statement of a migration, with the order of bytes for each column of text, and as many ids as SQLite has.

    Caches are few: the id of theirs that most rows have stays short.
    """
    if not sql.lower().startswith(("create table", "alter table")):
        return sql
    return _ID.sub(r"\1 bigint", _TEXT.sub('text collate "C"', sql))


Parameter = Value | list[Value]
_Types = tuple[type, ...]


def together(statements: Sequence[Statement]) -> tuple[str, list[Parameter]]:
    """Statements that have nothing to do with each other as one, with a table for each of them; and its parameters."""
    shapes: list[tuple[str, _Types, bool]] = []
    parameters: list[Parameter] = []
    for statement in statements:
        if statement.many is None:
            shapes.append((statement.sql, tuple(map(_base, statement.parameters)), False))
            parameters += statement.parameters
            continue
        columns = [list(column) for column in zip(*statement.many, strict=True)]
        types = tuple(next((_base(value) for value in column if value is not None), type(None)) for column in columns)
        shapes.append((statement.sql, types, True))
        parameters += (column for column, type_ in zip(columns, types, strict=True) if type_ in _TYPES)
    return _together(tuple(shapes)), parameters


def _base(value: Value) -> type:
    """Hash parts and store paths are texts."""
    return next((base for base in _TYPES if isinstance(value, base)), type(value))


@lru_cache(maxsize=1024)
def _together(shapes: tuple[tuple[str, _Types, bool], ...]) -> str:
    parts: list[str] = []
    before = 0
    for number, (sql, types, is_many) in enumerate(shapes):
        text = _of_rows(sql, types, before) if is_many else _cast(sql, types, before)
        parts.append(f"_{number} as ({text})")
        before += sum(type_ in _TYPES for type_ in types) if is_many else len(types)
    return f"with {', '.join(parts)} select 1"


def _of_rows(sql: str, types: _Types, before: int) -> str:
    """A statement with `values ($1, $2 …)` for many rows, given as an array for each column that is not all None."""
    known = [number for number, type_ in enumerate(types) if type_ in _TYPES]
    columns = ", ".join(f"c{number}" if number in known else "null" for number in range(len(types)))
    arrays = ", ".join(f"${before + at}::{_TYPES[types[number]]}[]" for at, number in enumerate(known, start=1))
    names = ", ".join(f"c{number}" for number in known)
    rows, count = _VALUES.subn(f"select {columns} from unnest({arrays}) as rows ({names})", sql)
    assert count == 1, sql
    return rows


@lru_cache(maxsize=1024)
def _cast(sql: str, types: _Types, before: int = 0) -> str:
    def with_type(match: re.Match[str]) -> str:
        number = int(match[1])
        name = _TYPES.get(types[number - 1])
        return f"${before + number}" if name is None else f"${before + number}::{name}"

    return _PARAMETER.sub(with_type, sql)
