"""Files of NARs taken into a catalog that was lost: each is read once, whether it is there whole or as chunks."""

from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from harmonia_py.catalog.nars import RECIPES
from harmonia_py.chunks.rebuilding import RebuiltChunks
from harmonia_py.chunks.recipe import ChunkHash
from harmonia_py.contents.blobs import Blob, BlobKey
from harmonia_py.contents.nar_check import NarBounds, NarCheck
from harmonia_py.contents.pieces import whole_portions
from harmonia_py.contents.whole_blob import NOT_WHOLE
from harmonia_py.errors import PushConflict
from harmonia_py.push.claims import PushedFile
from harmonia_py.push.listings import LongListings
from harmonia_py.push.ports import PushPorts
from harmonia_py.push.receiving import MAX_NAR_SIZE, PushSession
from harmonia_py.push.upload_check import CheckedUpload, NarObserver, blob_key_of
from harmonia_py.runtime.threads import in_thread

_BOUNDS: Final = NarBounds(nar_size=MAX_NAR_SIZE)


class RebuiltFiles(Struct, frozen=True, eq=False):
    """Takes files that are in the storage into caches.

    Attributes:
        ports: the catalog, which is filled, and the files.
        listings: keeps those that are long.
        chunks: reads files that are made of chunks.
        report: called with the number of bytes of each file that was read.
    """

    ports: PushPorts
    listings: LongListings
    chunks: RebuiltChunks
    report: Callable[[int], object]

    async def receive(self, session: PushSession, file: PushedFile, *, is_chunked: bool) -> None:
        """Take a file into the cache of a session; it is read unless another path or cache has it already.

        Args:
            session: that has the file until a path has it.
            file: its hash and compression.
            is_chunked: whether it is made of chunks.

        Raises:
            FormatError: the file has another hash than its name says, or cannot be made of its chunks.
            PushConflict: the file is not there.
            StorageError: the storage or the catalog does not answer.
        """
        nars = self.ports.nars
        row = await nars.file(file.file_hash)
        findings = None if row is None or row.nar_hash is None else await nars.findings(row.nar_hash)
        if row is not None and findings is not None:
            await self.ports.uploads.received(session.cache, session.id, row, findings=findings, now=self.ports.now())
        elif is_chunked:
            await self._receive_chunked(session, file)
        else:
            await self._receive_whole(session, file)

    async def _receive_whole(self, session: PushSession, file: PushedFile) -> None:
        key = blob_key_of(file)
        await self.ports.uploads.expect(session.cache, session.id, file.file_hash, key, now=self.ports.now())
        blob = await self.ports.blobs.open(key)
        if blob is None:
            raise PushConflict(f"{key}: {NOT_WHOLE}")
        observer = NarObserver()
        with blob:
            check = NarCheck(None, file.compression, file.file_hash, blob.size, observers=[observer], bounds=_BOUNDS)
            await in_thread(self.ports.threads, partial(self._feed, check, blob))
        self.report(blob.size)
        upload = observer.upload(file.compression, check)
        await self._keep_listing(upload)
        await self.ports.uploads.received(
            session.cache, session.id, upload.file, findings=upload.findings, now=self.ports.now()
        )

    async def _receive_chunked(self, session: PushSession, file: PushedFile) -> None:
        key, observer = BlobKey(f"{RECIPES}{file.file_hash.nix32}"), NarObserver()
        check = NarCheck(None, file.compression, file.file_hash, observers=[observer], bounds=_BOUNDS)
        chunks: dict[ChunkHash, int] | None = await self.chunks.read_file(key, check)
        if chunks is None:
            raise PushConflict(f"{key}: {NOT_WHOLE}")
        upload = observer.upload(file.compression, check)
        await self._keep_listing(upload)
        row = replace(upload.file, blob_key=key)
        await self.chunks.received(session.cache, session.id, row, chunks, upload.findings)

    def _feed(self, check: NarCheck, blob: Blob) -> None:
        for portion in whole_portions(blob.pieces(0, None), blob.size):
            check.feed(portion)
        check.finish()

    async def _keep_listing(self, upload: CheckedUpload) -> None:
        if upload.long_listing is not None:
            assert upload.file.nar_hash is not None
            await self.listings.keep(upload.file.nar_hash, upload.long_listing)
