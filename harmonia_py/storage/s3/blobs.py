"""A `BlobStore` in a bucket: a blob is an object of its key, and its metadata are headers of that.

<prefix>/<key>              the blobs, as any program reads them
<prefix>/.beside/<key>      metadata that are too long for headers
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, Self

from obstore.exceptions import BaseError

from harmonia_py.cache.source import Redirect
from harmonia_py.contents.blobs import IN_USE, Blob, BlobInfo, BlobKey, SpooledFile
from harmonia_py.runtime.bounded import Bounded
from harmonia_py.runtime.threads import Pool, Threads, in_thread
from harmonia_py.storage.s3 import metadata as headers
from harmonia_py.storage.s3.deletions import deletions
from harmonia_py.storage.s3.errors import translated
from harmonia_py.storage.s3.links import Links
from harmonia_py.storage.s3.listing import pages_of_blobs
from harmonia_py.storage.s3.objects import HEAD_BYTES, Found, Objects
from harmonia_py.storage.s3.owner import Identity
from harmonia_py.storage.s3.settings import S3Settings

# Between two reads of metadata that are replaced all the while.
_ATTEMPTS: Final = 5
# Of which files the last use is remembered. The catalog knows it of all of them; this is for files that it does not.
_MAX_USES: Final = 10_000
_BESIDE: Final = ".beside/"
# A client may ask for a closure of 50,000 paths at once. Downloads do not wait for these questions.
_QUESTIONS: Final = 64


class S3Blobs:
    """A `BlobStore` in a bucket. Enter it inside the event loop that uses it, after any fork.

    Args:
        settings: of the bucket, which is not asked before the first blob is.
        identity: of the catalog that the blobs belong to; None where no other catalog can have this prefix.

    Attributes:
        objects: of the bucket, blobs and others.
        links: URLs for clients.
    """

    objects: Objects
    links: Links

    def __init__(self, settings: S3Settings, identity: Identity | None = None) -> None:
        self._settings = settings
        self._identity = identity
        self._readers: dict[BlobKey, int] = {}
        self._uses: Bounded[BlobKey, float] = Bounded(_MAX_USES)
        self._deletions = deletions(self._delete_together)

    async def __aenter__(self) -> Self:
        self.objects = Objects(self._settings, self._identity)
        self._asking = asyncio.Semaphore(_QUESTIONS)
        self.links = Links(self._settings)
        self._putters = Threads(Pool.UPLOAD)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.objects.aclose()
        await self._deletions.aclose()
        await self._putters.aclose()

    async def open(self, key: BlobKey) -> Blob | None:
        """The blob, with its first bytes."""
        found = await self.objects.look(key, HEAD_BYTES)
        metadata = None if found is None else await self._metadata_of(key, found)
        if found is None or metadata is None:
            return None
        return Blob(
            size=found.size,
            metadata=metadata,
            pieces=partial(self.objects.pieces, key, found),
            redirect=self.redirect_of(key, found.size),
            release=self.hold(key),
        )

    @property
    def place(self) -> str:
        """Tells this part of a bucket from all others."""
        return f"{self._settings.endpoint or ''}\n{self._settings.bucket}\n{self._settings.prefix}"

    def hold(self, key: BlobKey) -> Callable[[], None]:
        """Count a blob as one that is read here, until what is returned is called."""
        self._readers[key] = self._readers.get(key, 0) + 1
        self._uses[key] = time.time()
        return partial(self._release, key)

    def redirect_of(self, key: BlobKey, size: int) -> Redirect | None:
        """Tells where clients get a blob of so many bytes themselves; None when they get it here."""
        least = self._settings.redirect_from
        return partial(self.links.to_read, key) if least is not None and size >= least else None

    async def metadata(self, key: BlobKey) -> Mapping[str, str] | None:
        """The metadata of a blob."""
        async with self._asking:
            return await self.metadata_at_once(key)

    async def metadata_at_once(self, key: BlobKey) -> Mapping[str, str] | None:
        """The metadata of a blob that is about to be sent: `metadata` may wait for thousands of questions."""
        # A question for the first byte, unlike one for none, is told whether it is the key or the bucket that is
        # not there.
        found = await self.objects.look(key, 1)
        return None if found is None else await self._metadata_of(key, found)

    async def put(
        self,
        key: BlobKey,
        content: SpooledFile | bytes,
        metadata: Mapping[str, str],
        *,
        durable: bool = False,  # noqa: ARG002  # what a bucket has taken is durable
    ) -> None:
        """Upload the blob, in parts if it is large; it is there when the last one is."""
        await self.objects.owner.check()
        await in_thread(self._putters, self._put, key, content, metadata)

    async def delete(self, key: BlobKey) -> None:
        """Remove a blob; what is asked for at the same time goes with one request."""
        await self.objects.owner.check()
        await self._deletions.ask(key)

    async def list(self) -> AsyncIterator[BlobInfo]:
        """Every blob, in the order of the keys; not those of a prefix inside that belongs to another catalog."""
        async for page in pages_of_blobs(self.objects.questions):
            for key, found in page:
                last_used = self._uses.get(key, found["last_modified"].timestamp())
                yield BlobInfo(key, found["size"], IN_USE if key in self._readers else last_used)

    async def _metadata_of(self, key: BlobKey, found: Found | None) -> Mapping[str, str] | None:
        for _ in range(_ATTEMPTS):
            if found is None or not headers.is_beside(found.attributes):
                return None if found is None else headers.parse(found.attributes)
            beside = await self.objects.look(f"{_BESIDE}{key}", 1024 * 1024)
            metadata = None if beside is None else headers.parse_beside(found.attributes, beside.head)
            if metadata is not None:
                return metadata
            found = await self.objects.look(key, 1)  # replaced, or deleted, in between
        return None

    def _release(self, key: BlobKey) -> None:
        readers = self._readers.pop(key) - 1
        if readers:
            self._readers[key] = readers

    # In threads

    def _put(self, key: BlobKey, content: SpooledFile | bytes, metadata: Mapping[str, str]) -> None:
        token = secrets.token_hex(8)
        attributes, beside = headers.attributes_of(key, metadata, token)
        with translated("keep a file in the bucket"):
            if beside is not None:
                self.objects.bodies.put(f"{_BESIDE}{key}", beside, use_multipart=False)
            try:
                self._upload(key, content, attributes)
            except (BaseError, OSError):
                # The answer may be what was lost.
                if not self._has_arrived(key, token):
                    raise

    def _upload(self, key: BlobKey, content: SpooledFile | bytes, attributes: dict[str, str]) -> None:
        part = self._settings.part_size
        size = len(content) if isinstance(content, bytes) else content.size
        # Opened anew: the library reads with an offset of its own.
        data = content if isinstance(content, bytes) else Path(f"/proc/self/fd/{content.fd}")
        self.objects.bodies.put(key, data, attributes=attributes, use_multipart=size > part, chunk_size=part)

    def _has_arrived(self, key: BlobKey, token: str) -> bool:
        with suppress(BaseError, OSError):
            return headers.is_of(self.objects.questions.get(key, options={"head": True}).attributes, token)
        return False

    async def _delete_together(self, keys: Sequence[BlobKey]) -> None:
        await self.objects.remove([name for key in keys for name in (key, f"{_BESIDE}{key}")])
