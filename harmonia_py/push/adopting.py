"""Paths of other caches published in one: their files are here already, and stay where they are."""

from collections.abc import Awaitable, Callable, Collection, Sequence

from msgspec import Struct

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.audit import entry_now
from harmonia_py.catalog.caches import CacheRow
from harmonia_py.catalog.nars import NarFile
from harmonia_py.catalog.objects import Published, StoredObject
from harmonia_py.errors import PushConflict, PushTooLarge
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.push.claims import PushedFile, claim_of
from harmonia_py.push.ports import PushPorts
from harmonia_py.push.publishing import deleted_as_conflict
from harmonia_py.push.receiving import PushSession
from harmonia_py.push.room import RoomForPushes

Publish = Callable[[PushSession, HashPart, bytes], Awaitable[Published]]
"""`Pushes.publish`."""


class Adopting(Struct, frozen=True, eq=False):
    """Publishes paths of other caches in one cache.

    Attributes:
        cache: that takes the paths.
        ports: where paths are published.
        room: of the cache.
        publish: publishes a path whose file was taken.
    """

    cache: CacheRow
    ports: PushPorts
    room: RoomForPushes
    publish: Publish

    async def check_files(self, files: Collection[NarFile]) -> None:
        """Make sure that the bytes of files that this cache has published are in the storage.

        Raises:
            PushConflict: they are not; the objects that have such a file are hidden from now on.
            StorageError: that cannot be told.
        """
        absent = await self.ports.quarantine.absent({file.blob_key for file in files})
        lost = [file for file in files if file.blob_key in absent and not await self.ports.quarantine.finds(file)]
        if lost:
            raise PushConflict(f"nar/{_name(lost[0])} is lost: push it again to the cache that had it")

    def check_nar_size(self, info: PathInfo) -> None:
        """Refuse a NAR that is larger than this cache takes.

        Raises:
            PushTooLarge: the NAR is larger.
        """
        most = self.cache.settings.max_nar_size
        if most is not None and info.nar_size > most:
            raise PushTooLarge(f"{info.store_path}: its NAR is {info.nar_size} bytes, and {most} are taken at the most")

    async def adopt(self, session: PushSession, stored: StoredObject) -> Published:
        """Publish a path of another cache, whose file is here; otherwise as `Pushes.publish`.

        Raises:
            PushConflict: the file is gone, or being deleted.
            PushTooLarge: the NAR is larger than this cache takes.
            QuotaExceeded: this cache is full.
        """
        info, file_hash = stored.path_info, stored.file.file_hash
        self.check_nar_size(info)
        await self.room.check(stored.file.file_size)
        with self.room.arriving(stored.file.file_size), deleted_as_conflict(_name(stored.file)):
            file = await self.ports.adoption.adopt(session.cache, session.id, file_hash, now=self.ports.now())
        if file is None:
            raise PushConflict(f"the file of {info.store_path} went meanwhile: try again")
        await self.room.came(file.file_size)
        claim = claim_of(info, file).format(self.ports.store_dir)
        return await self.publish(session, info.store_path.hash_part, claim)

    async def note_promotion(self, session: PushSession, source: CacheName, paths: Sequence[StorePath]) -> None:
        """Note in the audit log that paths of `source` were published; the entry names the last of them."""
        detail = {"from": source, "paths": len(paths)}
        entry = entry_now(session.principal, "promote", cache=self.cache.name, subject=paths[-1], detail=detail)
        await self.ports.audit.note([entry])


def _name(file: NarFile) -> PushedFile:
    return PushedFile(file.file_hash, file.compression)
