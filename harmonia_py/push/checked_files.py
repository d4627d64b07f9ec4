"""Files that were checked: bytes first, then the row; from then on the push URLs of their cache serve them."""

from collections.abc import Awaitable, Callable

from msgspec import Struct

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.nars import BeingDeleted
from harmonia_py.catalog.nars import once_deleted as written_once_deleted
from harmonia_py.catalog.objects import Document, DocumentKind
from harmonia_py.catalog.uploads import Uploads
from harmonia_py.contents.blobs import BlobKey, BlobStore, SpooledFile
from harmonia_py.errors import PushConflict
from harmonia_py.nix.hashes import Hash
from harmonia_py.push.claims import PushedFile
from harmonia_py.push.listings import LongListings, listing_key_of
from harmonia_py.push.past_server.ports import SeizedUpload
from harmonia_py.push.upload_check import CheckedUpload, blob_key_of


async def once_deleted(write: Callable[[], Awaitable[object]]) -> None:
    """Call `write` as `catalog.nars.once_deleted` does.

    Raises:
        PushConflict: the deletion takes too long.
    """
    try:
        await written_once_deleted(write)
    except BeingDeleted:
        raise PushConflict("what was there before is still being deleted: run the same command again") from None


class CheckedFiles(Struct, frozen=True, eq=False):
    """Keeps checked files.

    Attributes:
        blobs: has their bytes.
        uploads: their rows.
        listings: their listings, where these are long.
        now: the time.
    """

    blobs: BlobStore
    uploads: Uploads
    listings: LongListings
    now: Callable[[], Timestamp]

    async def expect(self, cache: CacheId, session: str, file: PushedFile) -> None:
        """Note that a file is coming, so that the collector leaves its bytes; wait while older ones are deleted.

        Raises:
            PushConflict: that takes too long.
            StorageError: it cannot be noted.
        """

        async def expect() -> None:
            await self.uploads.expect(cache, session, file.file_hash, blob_key_of(file), now=self.now())

        await once_deleted(expect)

    async def keep(
        self, cache: CacheId, session: str, checked: CheckedUpload, content: SpooledFile | bytes | SeizedUpload
    ) -> None:
        """Put a file among the blobs, and note it in the catalog.

        Raises:
            PushConflict: what was there before is still being deleted.
            StorageError: it cannot be kept.
        """
        file = checked.file
        if checked.long_listing is not None:
            assert file.nar_hash is not None
            await self._keep_listing(cache, session, file.nar_hash, checked.long_listing)
        key = BlobKey(file.blob_key)
        if not isinstance(content, bytes):
            # Once more, or of a bare NAR for the first time: a long upload may outlive its session, which begins again.
            await self.expect(cache, session, PushedFile(file.file_hash, file.compression))
        if isinstance(content, SpooledFile | bytes):
            await self.blobs.put(key, content, checked.metadata, durable=True)
        else:
            await content.keep(key)
        try:
            await self.uploads.received(cache, session, file, findings=checked.findings, now=self.now())
        except BeingDeleted:
            raise PushConflict("its session ended while it came: run the same command again") from None

    async def _keep_listing(self, cache: CacheId, session: str, nar_hash: Hash, listing: bytes) -> None:
        # It waits under the hash of the NAR for the paths that have this NAR.
        key = listing_key_of(nar_hash)
        document = Document(kind=DocumentKind.LISTING, name=nar_hash.nix32, size=len(listing), blob_key=key)

        async def keep() -> None:
            await self.listings.keep(nar_hash, listing)
            await self.uploads.attach(cache, session, document, (), now=self.now())

        await once_deleted(keep)
