"""The listings of NARs that are pushed: a short one is in the catalog, a long one is a file, once for all caches."""

from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

from msgspec import Struct

from harmonia_py.catalog.objects import Document, DocumentKind
from harmonia_py.contents.blobs import BlobKey, BlobStore
from harmonia_py.nix.hashes import Hash
from harmonia_py.push.findings import Findings
from harmonia_py.runtime.threads import in_thread


def listing_key_of(nar_hash: Hash) -> BlobKey:
    """The key of a long listing."""
    return BlobKey(f"nar/{nar_hash.nix32}.ls")


def listing_of(name: str, nar_hash: Hash, findings: Findings) -> Document:
    """The listing of a NAR with these findings, as the document of this name."""
    if findings.listing is not None:
        body = findings.listing.encode()
        return Document(kind=DocumentKind.LISTING, name=name, size=len(body), body=body)
    key = listing_key_of(nar_hash)
    return Document(kind=DocumentKind.LISTING, name=name, size=findings.listing_size, blob_key=key)


class LongListings(Struct, frozen=True, eq=False):
    """Keeps long listings.

    Attributes:
        blobs: for all of them.
        reserve: `Nars.reserve`.
        threads: hash.
    """

    blobs: BlobStore
    reserve: Callable[[str], Awaitable[None]]
    threads: Executor

    async def keep(self, nar_hash: Hash, listing: bytes) -> None:
        """Keep a listing; it stays once a document names its key.

        Raises:
            BeingDeleted: what was there before is being deleted; try again a moment later.
            StorageError: it cannot be kept.
        """
        key = listing_key_of(nar_hash)
        await self.reserve(key)
        file_hash = await in_thread(self.threads, Hash.of, listing)
        await self.blobs.put(key, listing, {"file_hash": str(file_hash)}, durable=True)
