"""What a server of Attic leaves on a disk: an SQLite database of its schema, and chunks in its storage.

    tree = AtticTree(tmp_path)
    cache = tree.cache("team", key=SecretKey.generate("team"), public=True)
    tree.path(cache, of_pushed(GLIBC), chunk_size=1024)
    tree.write_config()                                     # server.toml

Written from `server/src/database/migration` and `server/src/storage/local.rs` of Attic at b7c9056; the cuts are of
equal size, which no reader of chunks can tell from those of FastCDC.
"""

import hashlib
import json
import lzma
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path as FilePath
from typing import Any, Final

import brotli
import tomli_w
from attic_client import Path
from zstd_library import zstd

from harmonia_py.nix.signing import SecretKey

_CREATED: Final = "2026-01-02 03:04:05.678901234 +00:00"
_SCHEMA: Final = """
    create table "cache" ("id" integer not null primary key autoincrement, "name" varchar(50) not null unique,
        "keypair" varchar not null, "is_public" boolean not null, "store_dir" varchar not null,
        "priority" integer not null, "upstream_cache_key_names" varchar not null,
        "created_at" timestamp_with_timezone_text not null, "deleted_at" timestamp_with_timezone_text null,
        "retention_period" integer null);
    create table "nar" ("id" integer not null primary key autoincrement, "state" char(1) not null,
        "nar_hash" varchar not null, "nar_size" bigint not null, "compression" varchar not null,
        "num_chunks" integer not null, "holders_count" integer not null default 0,
        "created_at" timestamp_with_timezone_text not null);
    create table "chunk" ("id" integer not null primary key autoincrement, "state" char(1) not null,
        "chunk_hash" varchar not null, "chunk_size" bigint not null, "file_hash" varchar null, "file_size" bigint null,
        "compression" varchar not null, "remote_file" varchar not null, "remote_file_id" varchar not null unique,
        "holders_count" integer not null default 0, "created_at" timestamp_with_timezone_text not null);
    create table "chunkref" ("id" integer not null primary key autoincrement, "nar_id" bigint not null
        references "nar" ("id") on delete cascade, "seq" integer not null, "chunk_id" bigint null
        references "chunk" ("id") on delete set null);
    create table "object" ("id" integer not null primary key autoincrement, "cache_id" bigint not null
        references "cache" ("id") on delete cascade, "nar_id" bigint not null references "nar" ("id") on delete cascade,
        "store_path_hash" varchar(32) not null, "store_path" varchar not null, "references" varchar not null,
        "system" varchar, "deriver" varchar, "sigs" varchar not null, "ca" varchar,
        "created_at" timestamp_with_timezone_text not null, "last_accessed_at" timestamp_with_timezone_text null,
        "created_by" varchar null);
    create unique index "idx-object-cache-hash" on "object" ("cache_id", "store_path_hash");
"""
_PACK: Final[dict[str, Callable[[bytes], bytes]]] = {
    "none": bytes,
    "zstd": zstd.compress,
    "xz": partial(lzma.compress, preset=0),
    "br": brotli.compress,
}


class AtticTree:
    def __init__(self, root: FilePath) -> None:
        self.root = root / "atticd"
        self.storage = self.root / "storage"
        self.storage.mkdir(parents=True)
        (self.storage / "VERSION").write_text("1")
        self.database = self.root / "server.db"
        self._connection = sqlite3.connect(self.database, isolation_level=None)
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        self._connection.close()

    @property
    def url(self) -> str:
        return f"sqlite://{self.database}?mode=rwc"

    def write_config(self, **tables: Any) -> FilePath:
        file = self.root / "server.toml"
        settings = {"database": {"url": self.url}, "storage": {"type": "local", "path": str(self.storage)}}
        file.write_text(tomli_w.dumps(settings | tables))
        return file

    def run(self, sql: str, *parameters: Any) -> int:
        cursor = self._connection.execute(sql, parameters)
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql).fetchall()

    def _insert(self, table: str, **values: Any) -> int:
        columns = ", ".join(f'"{name}"' for name in values)
        marks = ", ".join("?" for _ in values)
        return self.run(f'insert into "{table}" ({columns}) values ({marks})', *values.values())

    def cache(
        self,
        name: str,
        *,
        key: SecretKey | None = None,
        public: bool = False,
        store_dir: str = "/nix/store",
        upstreams: Sequence[str] = ("cache.nixos.org-1",),
        retention: int | None = None,
        deleted: bool = False,
    ) -> int:
        return self._insert(
            "cache",
            name=name,
            keypair=(key or SecretKey.generate(name)).format(),
            is_public=int(public),
            store_dir=store_dir,
            priority=41,
            upstream_cache_key_names=json.dumps(list(upstreams)),
            created_at=_CREATED,
            deleted_at=_CREATED if deleted else None,
            retention_period=retention,
        )

    def nar(self, data: bytes, *, chunk_size: int | None = None, compression: str = "zstd", state: str = "V") -> int:
        """A NAR cut into chunks, each in a file of its own."""
        size = chunk_size or max(len(data), 1)
        parts = [data[start : start + size] for start in range(0, len(data), size)]
        nar_id = self._insert(
            "nar",
            state=state,
            nar_hash=f"sha256:{hashlib.sha256(data).hexdigest()}",
            nar_size=len(data),
            compression=compression,
            num_chunks=len(parts),
            created_at=_CREATED,
        )
        for seq, part in enumerate(parts):
            self._insert("chunkref", nar_id=nar_id, seq=seq, chunk_id=self._chunk(part, compression))
        return nar_id

    def _chunk(self, part: bytes, compression: str) -> int:
        packed = _PACK[compression](part)
        name = f"{uuid.uuid4()}.chunk"
        file = self.storage / name[0] / name[:2] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(packed)
        return self._insert(
            "chunk",
            state="V",
            chunk_hash=f"sha256:{hashlib.sha256(part).hexdigest()}",
            chunk_size=len(part),
            file_hash=f"sha256:{hashlib.sha256(packed).hexdigest()}",
            file_size=len(packed),
            compression=compression,
            remote_file=json.dumps({"Local": {"name": name}}),
            remote_file_id=f"local:{name}",
            created_at=_CREATED,
        )

    def path(self, cache: int, path: Path, *, nar: int | None = None, **options: Any) -> int:
        """A path of a cache, with a NAR of its own unless one is given; the id of the NAR."""
        nar_id = self.nar(path.nar, **options) if nar is None else nar
        self._insert(
            "object",
            cache_id=cache,
            nar_id=nar_id,
            store_path_hash=path.store_path.hash_part,
            store_path=path.store_dir.join(path.store_path),
            references=json.dumps(list(path.references)),
            sigs=json.dumps(list(path.sigs)),
            ca=path.ca,
            created_at=_CREATED,
            created_by="alice",
        )
        return nar_id

    def chunk_files(self, nar: int) -> list[FilePath]:
        rows = self._connection.execute(
            "select c.remote_file from chunkref r join chunk c on c.id = r.chunk_id where r.nar_id = ? order by r.seq",
            (nar,),
        )
        names = [json.loads(row[0])["Local"]["name"] for row in rows]
        return [self.storage / name[0] / name[:2] / name for name in names]
