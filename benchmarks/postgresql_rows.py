"""Any number of objects in a catalog in PostgreSQL, made by the server itself: a million in a minute or two.

Each has a file, a NAR, a name as long as names are, and six references to objects before it, two of them popular.
"""

from typing import Final

from harmonia_py.database.postgresql.connections import Connection
from harmonia_py.database.postgresql.sql import cast

REFERENCES: Final = 6
_PORTION: Final = 50_000

# The digits of Nix's base-32 leave out e: hexadecimal ones with z in its place are some. A hash of 256 bits has 52 of
# them, the first of which is 0 or 1.
_FUNCTIONS: Final = """
    create or replace function pg_temp.part(i bigint) returns text immutable language sql
        as $$ select translate(md5(i::text), 'e', 'z') $$;
    create or replace function pg_temp.hash(kind text, i bigint) returns text immutable language sql
        as $$ select '0' || translate(md5(kind || i) || substr(md5(i || kind), 1, 19), 'e', 'z') $$;
    create or replace function pg_temp.name(i bigint) returns text immutable language sql
        as $$ select 'package-' || i % 5000 || '-1.' || i % 40 || '.' || i % 7 $$;
    create or replace function pg_temp.reference(i bigint, n bigint) returns bigint immutable language sql
        as $$ select case when n < 3 then (i * (n + 7)) % least(i, 200) else i - 1 - (i * n) % least(i, 5000) end $$;
"""
_ROWS: Final = (
    "insert into nars select pg_temp.hash('nar', i), 400000 + i % 1000, '{}' from generate_series($1, $2) i",
    """
    insert into nar_files select pg_temp.hash('file', i), 100000 + i % 1000, 'zstd',
        'nar/' || pg_temp.hash('file', i) || '.nar.zst', pg_temp.hash('nar', i), null, null, $3 - i % 2000000
    from generate_series($1, $2) i
    """,
    """
    insert into objects (cache_id, hash_part, name, nar_hash, file_hash, file_size, store_references, deriver,
        signatures, state, pushed_by, pushed_s, used_s, aged_from_s)
    select $4, pg_temp.part(i), pg_temp.name(i), pg_temp.hash('nar', i), pg_temp.hash('file', i), 100000 + i % 1000,
        coalesce((select string_agg(pg_temp.part(r) || '-' || pg_temp.name(r), ' ') from (
            select distinct pg_temp.reference(i, n) r from generate_series(1, $5) n where i > 0
        ) one), ''),
        pg_temp.part(-i) || '-' || pg_temp.name(i) || '.drv',
        'cache.example.org-1:' || repeat('A', 86) || '==', 'published', 'token ci', $3 - i % 2000000, $3 - i % 2000000,
        $3 - i % 2000000
    from generate_series($1, $2) i
    """,
    """
    insert into object_references select distinct $3, pg_temp.part(i), pg_temp.part(pg_temp.reference(i, n)), 0
    from generate_series($1, $2) i, generate_series(1, $4) n where i > 0
    """,
)


def hash_part(number: int) -> str:
    """Of the object of this number, from 0."""
    from hashlib import md5  # noqa: PLC0415  # no secret

    return md5(str(number).encode()).hexdigest().replace("e", "z")  # as said


async def fill(connection: Connection, cache: int, count: int, *, now: int) -> None:
    """Add `count` objects to a cache that has none."""
    await connection.execute("set statement_timeout = 0; set synchronous_commit = off")
    await connection.execute(_FUNCTIONS)
    for first in range(0, count, _PORTION):
        for sql, others in zip(_ROWS, [(), (now,), (now, cache, REFERENCES), (cache, REFERENCES)], strict=True):
            values = (first, min(first + _PORTION, count) - 1, *others)
            await connection.execute(cast(sql, values), *values)
    await connection.execute("vacuum analyze")
