"""A server of Attic taken over: its caches with their keys, and their paths, each NAR checked as in a push."""

from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Final

from msgspec import Struct, field

from harmonia_py.attic.catalog import AtticCatalog
from harmonia_py.attic.chunk_files import ChunkFiles
from harmonia_py.attic.rows import AtticCache, AtticObject
from harmonia_py.cache.access import Principal
from harmonia_py.cache.cache_name import DEFAULT, CacheName
from harmonia_py.catalog.cache_changes import CacheChanges
from harmonia_py.catalog.caches import CacheRow, CacheSettings
from harmonia_py.catalog.objects import ObjectState
from harmonia_py.catalog.paging import pages_of
from harmonia_py.errors import FormatError, HarmoniaError, PushRefused, StorageFull
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart, StoreDir
from harmonia_py.push.claims import PushedFile
from harmonia_py.push.publishing import PushOrder
from harmonia_py.push.pushes import Pushes
from harmonia_py.push.receiving import PushSession
from harmonia_py.runtime.side_by_side import side_by_side
from harmonia_py.wiring.pushing import PushNode

_PAGE: Final = 500
# NARs that are read, checked and compressed at once.
_AT_ONCE: Final = 4
_BY: Final = Principal("import attic")
_RUN: Final = "import"


class Imported(Struct):
    """The figures of a cache's import.

    Attributes:
        paths: paths that were taken over.
        present: paths that were here already.
        size: bytes of the NARs that were taken over.
        waiting: paths that no reader sees, each with a reference that Attic did not have.
        failed: reasons for which paths were not taken over.
        notes: further remarks for people.
    """

    paths: int = 0
    present: int = 0
    size: int = 0
    waiting: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class AtticImport(Struct, frozen=True, eq=False):
    """Takes over a server of Attic. It may be run again: a path that is here costs only a look.

    Attributes:
        source: Attic's catalog.
        files: Attic's chunks.
        node: takes pushes.
        changes: makes caches.
        retention_seconds: of caches that have none of their own; None for ever.
        report: is told of bytes of NARs that are done.
    """

    source: AtticCatalog
    files: ChunkFiles
    node: PushNode
    changes: CacheChanges
    retention_seconds: int | None = None
    report: Callable[[int], object] = lambda _: None

    async def run(self, cache: AtticCache, name: str) -> Imported:
        """Take over a cache under this name.

        Raises:
            StorageError: a database or a disk fails.
        """
        done = Imported()
        try:
            row = await self._cache(cache, CacheName.parse(name), done)
        except (FormatError, PushRefused) as error:
            done.failed[name] = str(error)
            return done
        pushes = self.node.caches.pushes_of(named := self.node.caches.cache_of(row))
        assert pushes is not None, named
        session = await pushes.session(_BY, _RUN)
        await self._announce(cache, pushes, session)
        await self._paths(cache, pushes, session, done)
        await self._note_waiting(row, done)
        return done

    async def _cache(self, cache: AtticCache, name: CacheName, done: Imported) -> CacheRow:
        """Our cache of this name, with Attic's key; it is made if it is not there.

        Raises:
            FormatError, PushRefused: it cannot become one of ours.
        """
        if cache.store_dir != self.node.store_dir:
            raise PushRefused(f"it is for {cache.store_dir}, and this server for {self.node.store_dir}")
        if name == DEFAULT:
            raise PushRefused("this is the name of the cache at /: give it another one with --rename")
        row, key = await self.node.catalog.caches.find(name), cache.key
        if row is None:
            retention = self.retention_seconds if cache.retention_seconds is None else cache.retention_seconds
            settings = CacheSettings(
                public=cache.public,
                priority=max(0, cache.priority),
                upstream_key_names=cache.upstream_key_names,
                keep_unused=retention or None,
            )
            await self.changes.create(name, settings, key, _BY)
            row = await self.node.catalog.caches.find(name)
            assert row is not None
            return row
        known = {one.name: one.public_key for one in await self.node.catalog.keys.of(row.id)}
        if key.name not in known:
            await self.changes.add_key(row, key, _BY)
            done.notes.append(f"the cache {name} was there: its settings stay, and the key {key.name} signs as well")
        elif str(known[key.name]) == str(key.public_key):
            done.notes.append(f"the cache {name} was there: its settings and keys stay")
        else:
            done.failed[key.name] = "the cache has another key of this name: clients of Attic refuse its paths"
        return row

    def _objects(self, cache: AtticCache) -> AsyncIterator[Sequence[AtticObject]]:
        return pages_of(partial(self.source.objects, cache), lambda found: found.id, size=_PAGE, after=0)

    async def _announce(self, cache: AtticCache, pushes: Pushes, session: PushSession) -> None:
        """Announce all paths of the cache: other references are paths that Attic's clients had left out."""
        async for objects in self._objects(cache):
            infos = [_parsed(found, self.node.store_dir) for found in objects]
            hash_parts = [info.store_path.hash_part for info in infos if isinstance(info, PathInfo)]
            await pushes.sessions.announce(session, hash_parts)

    async def _paths(self, cache: AtticCache, pushes: Pushes, session: PushSession, done: Imported) -> None:
        async for objects in self._objects(cache):
            wanted: dict[HashPart, tuple[AtticObject, PathInfo]] = {}
            for found in objects:
                info = _parsed(found, self.node.store_dir)
                if isinstance(info, PathInfo):
                    wanted[info.store_path.hash_part] = found, info
                else:
                    done.failed[found.store_path] = info
                    self.report(found.nar_size)
            missing = (await pushes.sessions.missing(session, list(wanted), ())).missing
            done.present += len(wanted) - len(missing)
            self.report(sum(wanted[hash_part][0].nar_size for hash_part in wanted.keys() - set(missing)))
            take = partial(self._take, pushes=pushes, session=session, done=done)
            await side_by_side(take, [wanted[hash_part] for hash_part in missing], at_once=_AT_ONCE)

    async def _take(
        self, wanted: tuple[AtticObject, PathInfo], *, pushes: Pushes, session: PushSession, done: Imported
    ) -> None:
        found, info = wanted
        try:
            file = await self._file(found, info, pushes, session)
            narinfo = NarInfo(path_info=info, url=f"nar/{file}", compression=file.compression)
            published = await pushes.publish(
                session, info.store_path.hash_part, narinfo.format(self.node.store_dir), PushOrder.ANNOUNCED
            )
        except StorageFull:
            raise
        except HarmoniaError as error:
            done.failed[info.store_path] = str(error)
        else:
            done.paths += 1
            done.size += info.nar_size
            if published.state is ObjectState.WAITING:
                done.waiting[info.store_path] = ""
        self.report(info.nar_size)

    async def _file(self, found: AtticObject, info: PathInfo, pushes: Pushes, session: PushSession) -> PushedFile:
        """The file of an object's NAR: one that is here, or one made of Attic's chunks."""
        known = (await pushes.sessions.missing(session, (), [info.nar_hash])).nars.get(info.nar_hash)
        if known is not None:
            return known
        chunks = await self.source.chunks(found)
        file = await pushes.receive_nar(session, info, self.files.nar(chunks))
        return PushedFile(file.file_hash, file.compression)

    async def _note_waiting(self, row: CacheRow, done: Imported) -> None:
        """Keep in `waiting` only the paths that still wait."""
        for path in list(done.waiting):
            lacking = await self.node.catalog.objects.waiting(row.id, HashPart(path[:32]))
            if lacking is None:
                del done.waiting[path]
            else:
                done.waiting[path] = f"Attic does not have {', '.join(sorted(lacking))}, which it references"


def _parsed(found: AtticObject, store_dir: StoreDir) -> PathInfo | str:
    """The path info of an object, or what is wrong with it, in words."""
    try:
        return found.path_info(store_dir)
    except FormatError as error:
        return str(error)
