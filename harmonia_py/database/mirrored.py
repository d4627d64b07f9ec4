"""`Mirrored` and `Mismatches` over a database."""

from collections.abc import Sequence
from typing import Final

from harmonia_py.catalog.caches import MIRROR, STORE, CacheId, Timestamp
from harmonia_py.catalog.mirrored import MirroredObject, UpstreamNarInfo, UpstreamRealisation
from harmonia_py.catalog.objects import Publication, StoredObject
from harmonia_py.contents.kept_files import Mismatch
from harmonia_py.database.object_rows import OBJECT, OBJECTS, READABLE, digits, sha256, stored_object
from harmonia_py.database.ports import Transactions, reads, writes
from harmonia_py.database.publishing import publish
from harmonia_py.database.removing import forget_objects
from harmonia_py.database.transaction import Topic, Transaction, ask, ask_as, ask_one
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.store_path import HashPart, StorePath

_NS: Final = 1_000_000_000
# Upstreams say how long they are believed; some say for ever.
_LONGEST_NS: Final = 2**62

_TOLD: Final = """
    select upstream, url, compression, file_hash, file_size, fetched_ns, max_age_ns from upstream_narinfos
    where hash_part = $1
"""
_IS_SEEN: Final = f"select 1 from objects o where o.cache_id = $1 and o.hash_part = $2 and {READABLE}"
_OBJECTS: Final = f"{OBJECTS} where o.cache_id in ($1, $2) and o.hash_part = $3 and {READABLE} order by o.cache_id"
_KEEP: Final = """
    insert into upstream_narinfos (hash_part, upstream, url, compression, file_hash, file_size, fetched_ns, max_age_ns)
    values ($1, $2, $3, $4, $5, $6, $7, $8)
    on conflict (hash_part) do update set upstream = excluded.upstream, url = excluded.url,
        compression = excluded.compression, file_hash = excluded.file_hash, file_size = excluded.file_size,
        fetched_ns = excluded.fetched_ns, max_age_ns = excluded.max_age_ns
"""
_IS_KEPT: Final = "select 1 from objects where cache_id = $1 and hash_part = $2 and nar_hash = $3"
_FILE_OF: Final = "select file_hash from objects where cache_id = $1 and hash_part = $2"
_REALISATION: Final = "select body, upstream from upstream_realisations where output = $1"
_KEEP_REALISATION: Final = """
    insert into upstream_realisations (output, body, upstream, kept_s) values ($1, $2, $3, $4)
    on conflict (output) do update set body = excluded.body, upstream = excluded.upstream, kept_s = excluded.kept_s
"""
_NOTE: Final = """
    insert into mismatches (store_path, expected, actual, found_s) values ($1, $2, $3, $4)
    on conflict (store_path) do update set expected = excluded.expected, actual = excluded.actual,
        found_s = excluded.found_s
"""
_IS_WRONG: Final = "select 1 from mismatches where store_path = $1"
_ALL: Final = "select store_path, expected, actual, found_s from mismatches order by found_s desc, store_path limit $1"


class SqlMirrored(Transactions):
    """`Mirrored` and `Realisations`."""

    @reads
    def find(self, hash_part: HashPart) -> Transaction[MirroredObject | None]:
        """As in `Mirrored`."""
        told = yield from ask_one(_TOLD, hash_part)
        stored = yield from ask_as(stored_object, OBJECT, MIRROR, hash_part)
        if told is None or stored is None:
            return None
        upstream, url, compression, file_hash, file_size, fetched_ns, max_age_ns = told
        narinfo = NarInfo(
            path_info=stored.path_info,
            url=url,
            compression=compression,
            file_hash=None if file_hash is None else Hash.parse(file_hash),
            file_size=file_size,
        )
        times = fetched_ns / _NS, max_age_ns / _NS
        said = UpstreamNarInfo(narinfo=narinfo, upstream=upstream, fetched=times[0], max_age=times[1])
        return MirroredObject(upstream_narinfo=said, stored=stored)

    @reads
    def objects(self, hash_part: HashPart) -> Transaction[Sequence[StoredObject]]:
        """As in `Mirrored`."""
        return [stored_object(row) for row in (yield from ask(_OBJECTS, STORE, MIRROR, hash_part))]

    async def keep(self, publication: Publication, narinfo: UpstreamNarInfo, *, now: Timestamp) -> StoredObject | None:
        """As in `Mirrored`."""
        hash_part = publication.path_info.store_path.hash_part

        def keep() -> Transaction[StoredObject | None]:
            if not publication.replace and (yield from ask_one(_IS_SEEN, MIRROR, hash_part)) is not None:
                return None
            yield from publish(publication, now)
            yield from _note(narinfo)
            return (yield from ask_as(stored_object, OBJECT, MIRROR, hash_part))

        topics = (Topic.OBJECTS, Topic.REMOVALS) if publication.replace else (Topic.OBJECTS,)
        # A row that a power cut takes is entered anew with the next request for its file.
        return await self._database.write(keep, *topics, durable=publication.replace)

    @writes(Topic.OBJECTS)
    def refresh(self, narinfo: UpstreamNarInfo) -> Transaction[None]:
        """As in `Mirrored`."""
        info = narinfo.narinfo.path_info
        kept = yield from ask_one(_IS_KEPT, MIRROR, info.store_path.hash_part, digits(info.nar_hash))
        if kept is not None:
            yield from _note(narinfo)

    @writes(Topic.OBJECTS, Topic.REMOVALS)
    def forget(self, cache: CacheId, hash_part: HashPart, *, now: Timestamp) -> Transaction[None]:
        """As in `Mirrored`."""
        row = yield from ask_one(_FILE_OF, cache, hash_part)
        if row is not None:
            yield from forget_objects(cache, [(hash_part, row[0])], now)

    @reads
    def realisation(self, output: str) -> Transaction[UpstreamRealisation | None]:
        """As in `Mirrored`."""
        row = yield from ask_one(_REALISATION, output)
        return None if row is None else UpstreamRealisation(output=output, text=bytes(row[0]), upstream=row[1])

    @writes()
    def keep_realisation(self, realisation: UpstreamRealisation, *, now: Timestamp) -> Transaction[None]:
        """As in `Mirrored`."""
        values = (realisation.output, realisation.text, realisation.upstream, now)
        yield from ask(_KEEP_REALISATION, *values)


class SqlMismatches(Transactions):
    """`Mismatches` in rows of the catalog."""

    @writes()
    def note(self, mismatch: Mismatch) -> Transaction[None]:
        """As in `Mismatches`."""
        actual = None if mismatch.actual is None else digits(mismatch.actual)
        values = (mismatch.store_path, digits(mismatch.expected), actual, mismatch.found)
        yield from ask(_NOTE, *values)

    async def clear(self, store_path: StorePath) -> None:
        """As in `Mismatches`."""
        if await self._database.read(lambda: ask_one(_IS_WRONG, store_path)) is not None:
            await self._database.write(lambda: ask("delete from mismatches where store_path = $1", store_path))

    @reads
    def all(self, limit: int) -> Transaction[Sequence[Mismatch]]:
        """As in `Mismatches`."""
        return [
            Mismatch(
                store_path=StorePath(store_path),
                expected=sha256(expected),
                actual=None if actual is None else sha256(actual),
                found=Timestamp(found),
            )
            for store_path, expected, actual, found in (yield from ask(_ALL, limit))
        ]


def _note(told: UpstreamNarInfo) -> Transaction[None]:
    narinfo = told.narinfo
    file_hash = None if narinfo.file_hash is None else str(narinfo.file_hash)
    place = (told.upstream, narinfo.url, narinfo.compression, file_hash, narinfo.file_size)
    times = (int(told.fetched * _NS), min(int(told.max_age * _NS), _LONGEST_NS))
    yield from ask(_KEEP, narinfo.path_info.store_path.hash_part, *place, *times)
