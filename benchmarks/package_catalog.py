"""A catalog of a million paths whose references are those of the packages of Debian, for benchmarks.

The packages are those that this machine knows (`apt-cache dumpavail`), once for each generation, in which everything
has been built anew.
"""

import re
import sqlite3
import subprocess
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Final

from harmonia_py.catalog.caches import DEFAULT_CACHE, Timestamp
from harmonia_py.nix import base32

NOW: Final = Timestamp(1_700_000_000)
_FIELD: Final = re.compile(r"^(Package|Depends|Pre-Depends): (.*)$", re.MULTILINE)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_FILE_SIZE: Final = 100_000
_USED: Final = Timestamp(NOW - 60 * 86_400)

_NARS: Final = "insert into nars (nar_hash, nar_size) values (?, ?)"
_FILES: Final = f"""
    insert into nar_files (file_hash, file_size, compression, blob_key, nar_hash, checked_s)
    values (?1, {_FILE_SIZE}, 'zstd', 'nar/' || ?1, ?1, {_USED})
"""
_OBJECTS: Final = f"""
    insert into objects (cache_id, hash_part, name, nar_hash, file_hash, file_size, store_references, signatures, state,
        pushed_by, pushed_s, used_s, aged_from_s)
    values ({DEFAULT_CACHE}, ?1, ?2, ?3, ?3, {_FILE_SIZE}, '', '', 'published', 'tests', {_USED}, {_USED}, {_USED})
"""
# Those of the catalog would have to be counted within ten seconds.
_TOTALS: Final = (
    "select cache_id, state, count(*), sum(file_size) from objects group by cache_id, state",
    "select 0, 'stored', count(*), sum(file_size) from nar_files",
)
_STAYS: Final = f"update objects set used_s = {NOW - 1000}, aged_from_s = {NOW - 1000} where rowid > ?"
# A listing of each, as long as that of a small package.
_LISTINGS: Final = f"""
    insert into documents (cache_id, kind, name, size, body, received_s)
    select cache_id, 'ls', hash_part, 300, cast(printf('%.300c', 'x') as blob), {_USED} from objects order by hash_part
"""
_KEEPERS: Final = """
    insert into object_documents (cache_id, hash_part, kind, name)
    select cache_id, hash_part, 'ls', hash_part from objects order by hash_part
"""
_REFERENCES: Final = f"insert into object_references values ({DEFAULT_CACHE}, ?, ?, 0)"


def packages() -> dict[str, list[str]]:
    """The packages, each after those that it depends on; what is a circle there is cut."""
    text = subprocess.run(["apt-cache", "dumpavail"], check=True, capture_output=True, text=True, timeout=300).stdout
    depends: dict[str, list[str]] = {}
    for stanza in text.split("\n\n"):
        fields = dict(_FIELD.findall(stanza))
        if "Package" in fields:
            named = ",".join(filter(None, (fields.get("Pre-Depends"), fields.get("Depends")))).split(",")
            depends[fields["Package"]] = [match[0] for one in named if (match := _NAME.match(one.strip()))]
    ordered: dict[str, list[str]] = {}
    for name in depends:
        _visit(name, depends, ordered)
    return ordered


def _visit(name: str, depends: dict[str, list[str]], ordered: dict[str, list[str]]) -> None:
    pending: list[tuple[str, bool]] = [(name, False)]
    seen: set[str] = set()
    while pending:
        one, is_done = pending.pop()
        if is_done:
            ordered.setdefault(one, sorted({other for other in depends[one] if other in ordered}))
        elif one not in ordered and one not in seen:
            seen.add(one)
            pending.append((one, True))
            pending += [(other, False) for other in depends[one] if other in depends and other not in ordered]


def hash_of(text: str) -> str:
    """32 characters of base 32."""
    return base32.encode(sha256(text.encode()).digest()[:20])


def nar_hash_of(text: str) -> str:
    """A hash as the catalog has it."""
    return base32.encode(sha256(text.encode()).digest())


def fill(path: Path, objects: int, going: int) -> None:
    """Fill a catalog with generations of all packages, of which the first `going` were not used for long."""
    graph = packages()
    count = generation = 0
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma synchronous = off")
        connection.execute("pragma cache_size = -400000")
        while count < objects:
            names = list(graph)[: objects - count]
            hashes = {name: hash_of(f"{generation} {name}") for name in names}
            rows = [(hashes[name], name, nar_hash_of(f"nar {generation} {name}")) for name in names]
            references = [(hashes[one], hashes[other]) for one in names for other in graph[one] if other in hashes]
            _insert(connection, rows, references)
            count, generation = count + len(names), generation + 1
        connection.execute(_STAYS, (going,))
        connection.execute(_LISTINGS)
        connection.execute(_KEEPERS)
        connection.execute("delete from totals")
        for counted in _TOTALS:
            connection.execute(f"insert into totals (cache_id, state, objects, size) {counted}")
        connection.commit()
        connection.execute("pragma wal_checkpoint(truncate)")


def counts(path: Path) -> tuple[int, int]:
    """How many objects and references a catalog has."""
    with closing(sqlite3.connect(path)) as connection:
        return tuple(
            connection.execute(f"select count(*) from {table}").fetchone()[0]
            for table in ("objects", "object_references")
        )


def _insert(
    connection: sqlite3.Connection, rows: list[tuple[str, str, str]], references: list[tuple[str, str]]
) -> None:
    connection.execute("begin")
    connection.executemany(_NARS, [(nar, 2 * _FILE_SIZE) for _, _, nar in rows])
    connection.executemany(_FILES, [(nar,) for _, _, nar in rows])
    connection.executemany(_OBJECTS, rows)
    connection.executemany(_REFERENCES, references)
    connection.execute("commit")
