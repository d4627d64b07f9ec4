"""A `Source` over the objects of a cache: what was pushed to it, in the files in which it came."""

import json
import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from harmonia_py.cache.found import Found, Origin
from harmonia_py.cache.source import UNNAMED, Asker, DocumentKind, Download, NotAtOnce
from harmonia_py.cache.tree import BuildId, DebugFile
from harmonia_py.cache.validity import Validity
from harmonia_py.catalog.caches import CacheId, time_by
from harmonia_py.catalog.changes import Changes
from harmonia_py.catalog.last_uses import LastUses
from harmonia_py.catalog.objects import Document, Objects, ObjectState, StoredObject
from harmonia_py.catalog.objects import DocumentKind as StoredKind
from harmonia_py.catalog.quarantine import Quarantine
from harmonia_py.contents.blobs import Blob, BlobKey
from harmonia_py.errors import FormatError, StorageError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo, NarUrl
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StorePath

OpenBlob = Callable[[str], Awaitable[Download | None]]
"""Opens the bytes under a key; None when there are none."""

# Every byte was hashed here, and a content address was held against the contents.
PUSHED: Final = Origin("pushed", vouches_for_nar=True)


class StoredObjects(Struct, frozen=True, eq=False):
    """The source of paths that were pushed to a cache. A missing file is noted, and asked for at the next push.

    Attributes:
        cache: whose objects these are.
        objects: of all caches.
        quarantine: is told of a file that is missing.
        uses: counts when objects were last asked for.
        open_blob: opens files.
        open_nar: opens the NARs of files that are made of chunks, as they are.
        want_listing: has the listing of an object made again that is lost, soon.
        removals: epochs in which nothing is removed from any cache of the catalog.
        open_at_once: opens a file if that waits for nothing; None where no file can be opened so.
        clock: seconds since the epoch.
    """

    cache: CacheId
    objects: Objects
    quarantine: Quarantine
    uses: LastUses
    open_blob: OpenBlob
    open_nar: OpenBlob
    want_listing: Callable[[CacheId, HashPart], None]
    removals: Changes
    open_at_once: Callable[[BlobKey], Blob | None] | None = None
    clock: Callable[[], float] = time.time

    async def narinfo(self, hash_part: HashPart) -> Found | None:
        """As in `Source`."""
        # A path may still be shown for a second after it was removed; its bytes stay longer.
        validity = Validity(inf, (self.removals.epoch(),))
        stored = await self._find(hash_part)
        return None if stored is None else Found(narinfo_of(stored), PUSHED, validity)

    async def nar(self, url: NarUrl, asker: Asker = UNNAMED) -> Download | None:
        """As in `Source`: the file as the client compressed it, or one that is made of chunks.

        What came as it is, and is made of chunks now, is still to be had by the URL that it had.
        """
        if asker.at_once and self.open_at_once is None:
            raise NotAtOnce
        stored = await self._find(url.hash_part)
        if stored is None or url.nar_hash not in {None, stored.path_info.nar_hash}:
            return None
        if asker.at_once:
            return self._at_once(url, stored)
        open_file = self.open_blob
        if url.compression != stored.file.compression:
            if not stored.file.is_chunked or url.compression != "none":
                return None
            open_file = self.open_nar
        download = await open_file(stored.file.blob_key)
        if download is None:
            await self.quarantine.finds(stored.file)
        return download

    def _at_once(self, url: NarUrl, stored: StoredObject) -> Download:
        assert self.open_at_once is not None
        is_a_file = url.compression == stored.file.compression and not stored.file.is_chunked
        blob = self.open_at_once(BlobKey(stored.file.blob_key)) if is_a_file else None
        if blob is None:
            raise NotAtOnce
        return blob.download(stored.file.blob_key)

    async def document(self, kind: DocumentKind, name: StorePath | HashPart) -> Download | None:
        """As in `Source`; logs by the whole name of their derivation, listings by the hash part."""
        found = await self.objects.document(self.cache, _KINDS[kind], name)
        download = None if found is None else await self._open(found)
        if download is None and kind is DocumentKind.LISTING:
            hash_part = HashPart(name)
            if await self.objects.find(self.cache, hash_part) is not None:
                self.want_listing(self.cache, hash_part)
        return download

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """As in `Source`."""
        found = await self.objects.document(self.cache, *document_of(output))
        if found is None:
            return None
        if found.body is None:
            raise StorageError("a realisation is not where it is kept")
        try:
            return parse_realisation(found.body, output)
        except FormatError as error:
            raise StorageError(f"a realisation that is kept does not parse: {error}") from error

    async def find(self, build_id: BuildId) -> DebugFile | None:
        """As in `DebugFiles`."""
        found = await self.objects.document(self.cache, StoredKind.DEBUG_FILE, build_id)
        if found is None or found.body is None:
            return None
        stored = await self._find(HashPart(json.loads(found.body)["hash_part"]))
        if stored is None:
            return None
        info = stored.path_info
        return DebugFile(info.store_path, info.nar_hash, stored.file.compression)

    async def _find(self, hash_part: HashPart) -> StoredObject | None:
        stored = await self.objects.find(self.cache, hash_part)
        if stored is not None and stored.state is ObjectState.CONDEMNED:
            # A client that is shown a path counts on it: so the object is revived, unless it has been removed.
            await self.objects.used({(self.cache, hash_part): time_by(self.clock)})
            return await self.objects.find(self.cache, hash_part)
        if stored is not None:
            self.uses.note(self.cache, hash_part)
        return stored

    async def _open(self, document: Document) -> Download | None:
        if document.body is not None:
            return Download.of_bytes(document.body, Hash.of(document.body).nix32)
        assert document.blob_key is not None
        return await self.open_blob(document.blob_key)


_KINDS: Final = {DocumentKind.LISTING: StoredKind.LISTING, DocumentKind.LOG: StoredKind.LOG}


def narinfo_of(stored: StoredObject) -> NarInfo:
    """The narinfo of an object, with the signatures that it came with."""
    info = replace(stored.path_info, registration_time=stored.pushed)
    return NarInfo(
        path_info=info,
        url=str(NarUrl(info.store_path.hash_part, info.nar_hash, stored.file.compression)),
        compression=stored.file.compression,
        file_hash=stored.file.file_hash,
        file_size=stored.file.file_size,
    )


def document_of(output: DrvOutput) -> tuple[StoredKind, str]:
    """The kind and name under which a realisation is kept, by either scheme."""
    kind = StoredKind.REALISATION if isinstance(output.derivation, Hash) else StoredKind.BUILD_TRACE
    return kind, str(output)


def parse_realisation(data: bytes, output: DrvOutput) -> Realisation:
    """The realisation of `output` in the form that its scheme has.

    Raises:
        FormatError: not that.
    """
    if isinstance(output.derivation, StorePath):
        return Realisation.parse_new(data, output)
    realisation = Realisation.parse_old(data)
    if realisation.id != output:
        raise FormatError("the realisation is that of another output")
    return realisation
