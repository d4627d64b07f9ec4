"""Pushes to a cache whose paths go into the local store: a path is added, noted in the audit log, its file given up.

A path that comes before its references waits for those that its client is going to push. For any others it is refused:
the garbage collector of the store may have removed what a client remembers to be there.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.audit import AuditEntry, entry_now
from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.nars import BeingDeleted, NarFile
from harmonia_py.catalog.objects import ObjectState, Published, StoredObject
from harmonia_py.catalog.uploads import LET_GO_SECONDS, SESSION_SECONDS
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.errors import FormatError, HarmoniaError, PushConflict, PushRefused
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.push.claims import PushedFile
from harmonia_py.push.evidence_check import other_references
from harmonia_py.push.ports import PushPorts
from harmonia_py.push.publishing import CheckedClaim, ToCome, not_here
from harmonia_py.push.receiving import PushSession
from harmonia_py.push.store_import import StoreImport

_log = logging.getLogger(__name__)

# Waiting paths that are read from the catalog at once.
_PAGE: Final = 100
# Pushes wait for the same connections to the nix-daemon.
_PASS_SECONDS: Final = 30.0
# Another client may be sending a reference at this moment, or another worker adding it.
_REFERENCE_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.25


class IntoStore(Struct, eq=False):
    """Takes the paths that are pushed to one cache into the local store.

    Attributes:
        name: of the cache.
        view: the cache as its readers see it.
        ports: the files and their facts, and the paths that wait.
        publish: lets a path wait: `Publisher.publish`.
        store_import: adds paths to the store.
        pass_seconds: after which `take_what_waits` leaves the rest to the next call.
    """

    name: CacheName
    ports: PushPorts
    view: BinaryCache
    publish: Callable[[CheckedClaim], Awaitable[Published]]
    store_import: StoreImport
    pass_seconds: float = _PASS_SECONDS
    _looked_at: HashPart | None = None

    async def has(self, store_path: StorePath) -> bool:
        """As `StoreImport.has`."""
        return await self.store_import.has(store_path)

    async def add(self, session: PushSession, claim: CheckedClaim, to_come: ToCome | None) -> Published:
        """Add a path whose claims were checked, and the paths that waited for it; or let it wait for its references.

        A NAR that the store has already stays.

        Args:
            session: of the client.
            claim: of the path.
            to_come: selects the references that the client will still push; None: it pushes them first.

        Raises what `StoreImport.add` raises, and:
            PushConflict: the store lacks a reference that is not to come, or the file is not here any more.
            StorageError: the file cannot be read, or the catalog cannot be written.
        """
        return await self.store_import.to_its_end(self._add(session, claim, to_come))

    async def _add(self, session: PushSession, claim: CheckedClaim, to_come: ToCome | None) -> Published:
        info, file = claim.publication.path_info, claim.publication.file
        if to_come is None:
            await self._await_references(info)
        elif (waiting := await self._wait(claim, to_come)) is not None:
            return waiting
        added = await self._take(session.cache, info, file, session.principal, in_place_of=session.id)
        promoted = await self._take_what_waited(session.cache, info.store_path.hash_part)
        if added:
            return Published(state=ObjectState.PUBLISHED, promoted=promoted)
        found = await self.view.narinfo(info.store_path.hash_part)
        first = None if found is None else found.narinfo.path_info.nar_hash
        first = None if first == info.nar_hash else first
        return Published(state=ObjectState.PUBLISHED, first=first, promoted=promoted)

    async def _await_references(self, info: PathInfo) -> None:
        """Return when the store has all references of a path, of which another client may be sending some."""
        clock = asyncio.get_running_loop().time
        end = clock() + _REFERENCE_SECONDS
        while missing := await self.store_import.missing(info):
            if clock() > end:
                raise _lacking(info, missing)
            await asyncio.sleep(_LOOK_SECONDS)

    async def _wait(self, claim: CheckedClaim, to_come: ToCome) -> Published | None:
        """Let a path wait for the references that the store lacks; None when it lacks none."""
        info, published = claim.publication.path_info, None
        others = set(other_references(info))
        missing = await self.store_import.missing(info)
        while missing:
            if never := missing - await to_come(missing):
                if published is not None:  # it waits, and its client hears that it is refused
                    await self._forget(claim.publication.cache, info.store_path)
                raise _lacking(info, never)
            publication = replace(claim.publication, awaited=missing, elsewhere=frozenset(others - missing))
            published = await self.publish(replace(claim, publication=publication))
            # A reference that came meanwhile has not seen this path wait.
            before, missing = missing, await self.store_import.missing(info)
            if missing == before:
                return published
        return None

    async def _take(
        self, cache: CacheId, info: PathInfo, file: NarFile, pushed_by: str, *, in_place_of: str | None = None
    ) -> bool:
        """Add a path whose references are all there; False when the store has it already."""
        blob = await self.ports.blobs.open(BlobKey(file.blob_key))
        if blob is None:
            await self.ports.quarantine.finds(file)
            raise not_here(PushedFile(file.file_hash, file.compression))
        added = await self.store_import.add(info, file, blob)
        # A session of its own lets the file go soon, however long the client goes on pushing.
        ends = Timestamp(self.ports.now() - SESSION_SECONDS + LET_GO_SECONDS)
        with suppress(BeingDeleted):  # the session that brought the file has ended: it goes now
            await self.ports.uploads.received(
                cache, f"added {file.file_hash.nix32}", file, in_place_of=in_place_of, now=ends
            )
        if added:
            await self.ports.audit.note([self._entry(info, pushed_by)])
        return added

    async def take_what_waits(self, cache: CacheId) -> None:
        """Add waiting paths whose references the store has by now; what there is no time for comes in the next call.

        References come by other ways than a push as well, as by a build; and a server may have been killed, or the
        nix-daemon away, when the last of them came.

        Raises:
            DaemonError: the nix-daemon cannot tell.
            StorageError: the catalog cannot tell, or cannot be written.
        """
        await self.store_import.to_its_end(self._take_what_waits(cache))

    async def _take_what_waits(self, cache: CacheId) -> None:
        clock = asyncio.get_running_loop().time
        until = clock() + self.pass_seconds
        while page := await self.ports.awaiting.page(cache, self._looked_at, _PAGE):
            for waiting in page:
                self._looked_at = waiting.path_info.store_path.hash_part
                if not await self.store_import.missing(waiting.path_info):
                    await self._take_ready(cache, [waiting], until)
                if clock() >= until:
                    return
        self._looked_at = None

    async def _take_what_waited(self, cache: CacheId, hash_part: HashPart) -> tuple[HashPart, ...]:
        """Add the paths that waited for this one alone, then those that waited for them; returns those added."""
        waited = await self.ports.awaiting.arrived(cache, hash_part, now=self.ports.now())
        return await self._take_ready(cache, waited)

    async def _take_ready(
        self, cache: CacheId, waited: Sequence[StoredObject], until: float = math.inf
    ) -> tuple[HashPart, ...]:
        """Add these paths, then until that time of the loop those that waited for them alone; returns all added.

        A path that the store refuses is forgotten, and a client that sends it again is told why. Where something else
        is in the way, it goes on waiting.
        """
        clock = asyncio.get_running_loop().time
        taken: list[HashPart] = []
        ready = list(waited)
        while ready and (not taken or clock() < until):
            waiting = ready.pop()
            path = waiting.path_info.store_path
            try:
                if await self.store_import.missing(waiting.path_info):
                    raise PushConflict("one of its references was collected since it came")
                await self._take(cache, waiting.path_info, waiting.file, waiting.pushed_by)
            except HarmoniaError as error:
                _log.warning("%s waited for its references, and is not added to the store: %s", path, error)
                # A conflict ends when a reference, or the file, comes again.
                if isinstance(error, PushRefused | FormatError) and not isinstance(error, PushConflict):
                    await self._forget(cache, path)
                continue
            taken.append(path.hash_part)
            ready += await self.ports.awaiting.arrived(cache, path.hash_part, now=self.ports.now())
        return tuple(taken)

    async def _forget(self, cache: CacheId, path: StorePath) -> None:
        await self.ports.awaiting.forget(cache, path.hash_part, now=self.ports.now())

    def _entry(self, info: PathInfo, pushed_by: str) -> AuditEntry:
        detail = {"nar_hash": str(info.nar_hash), "into": "store"}
        return entry_now(pushed_by, "push", cache=self.name, subject=info.store_path, detail=detail)


def _lacking(info: PathInfo, missing: Collection[HashPart]) -> PushConflict:
    first = next(path for path in info.references if path.hash_part in missing)
    return PushConflict(
        f"References: {first} is not in the store of this machine: push it first, or run the same command again with "
        "--refresh"
    )
