"""Catalogs on real databases, and values to put into them."""

import asyncio
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest
from postgresql import shared

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.nars import NarFile
from harmonia_py.catalog.objects import Publication
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.postgresql.connections import Address
from harmonia_py.database.postgresql.database import PostgresDatabase
from harmonia_py.database.sqlite import SqliteDatabase
from harmonia_py.database.transaction import Database
from harmonia_py.nix import base32
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo, sorted_references
from harmonia_py.nix.store_path import HashPart, StorePath

BACKENDS: Final = ("sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql))
NOW: Final = Timestamp(1_700_000_000)


@asynccontextmanager
async def opened_catalog(backend: str, directory: Path) -> AsyncIterator[SqlCatalog]:
    catalog = SqlCatalog(await DATABASES[backend](directory))
    try:
        yield catalog
    finally:
        await catalog.aclose()


async def open_sqlite(path: Path) -> SqliteDatabase:
    """A database at `path`; a new one is a copy of an empty one, because to make it takes ten times as long."""
    await asyncio.to_thread(_copy_unless_there, path)
    return await SqliteDatabase.open(path)


def _copy_unless_there(path: Path) -> None:
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    shutil.copyfile(Path(_template().name) / "catalog.sqlite", path)
    with closing(sqlite3.connect(path, isolation_level=None)) as copy:
        copy.execute("pragma synchronous = off")
        copy.execute("update migrations set applied_s = ?", (int(time.time()),))  # it is made now


@cache
def _template() -> TemporaryDirectory[str]:
    directory = TemporaryDirectory(prefix="harmonia-py-catalog-")

    async def make() -> None:
        await (await SqliteDatabase.open(Path(directory.name) / "catalog.sqlite")).aclose()

    asyncio.run(make())
    return directory


async def _sqlite(directory: Path) -> Database:
    return await open_sqlite(directory / "catalog.sqlite")


async def _postgresql(directory: Path) -> Database:
    url = directory / "postgresql"
    if not url.exists():
        url.write_text(shared().database())
    return await PostgresDatabase.open(Address(url.read_text()))


DATABASES: Final = {"sqlite": _sqlite, "postgresql": _postgresql}


def later(seconds: int) -> Timestamp:
    return Timestamp(NOW + seconds)


def store_path(name: str) -> StorePath:
    return StorePath.parse(f"{base32.encode(sha256(name.encode()).digest()[:20])}-{name}")


def hash_part(name: str) -> HashPart:
    return store_path(name).hash_part


def hash_parts(names: Iterable[str]) -> frozenset[HashPart]:
    return frozenset(map(hash_part, names))


def nar_file(name: str, *, size: int = 100) -> NarFile:
    """A checked file; the same for the same name."""
    file_hash = Hash.of(f"file {name}".encode())
    return NarFile(
        file_hash=file_hash,
        file_size=size,
        compression="zstd",
        blob_key=f"nar/{file_hash.nix32}.nar.zst",
        nar_hash=Hash.of(f"nar {name}".encode()),
        nar_size=2 * size,
    )


def path_info(name: str, references: Iterable[str] = (), *, nar: str | None = None) -> PathInfo:
    file = nar_file(nar or name)
    assert file.nar_hash is not None
    assert file.nar_size is not None
    return PathInfo(
        store_path=store_path(name),
        nar_hash=file.nar_hash,
        nar_size=file.nar_size,
        references=sorted_references(map(store_path, references)),
    )


def publication(
    cache: CacheId,
    name: str,
    references: Iterable[str] = (),
    *,
    nar: str | None = None,
    session: str | None = None,
    replace: bool = False,
    elsewhere: Iterable[str] = (),
) -> Publication:
    return Publication(
        cache=cache,
        path_info=path_info(name, references, nar=nar),
        file=nar_file(nar or name),
        session=session,
        pushed_by="tests",
        replace=replace,
        elsewhere=hash_parts(elsewhere),
    )


async def receive(
    catalog: SqlCatalog,
    cache: CacheId,
    session: str,
    file: NarFile,
    *,
    findings: str | None = None,
    in_place_of: str | None = None,
    now: Timestamp,
) -> None:
    """Note that a file is expected, and then that it is here."""
    uploads = catalog.uploads
    await uploads.expect(cache, session, file.file_hash, file.blob_key, now=now)
    await uploads.received(cache, session, file, findings=findings, in_place_of=in_place_of, now=now)
