"""Logs and realisations that clients push: checked, and kept until their objects are there.

Listings and indexes of debug files are taken as well, and dropped: this server makes its own from the NARs.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.nars import BeingDeleted
from harmonia_py.catalog.objects import Document, DocumentKind
from harmonia_py.catalog.stored import document_of, parse_realisation
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.spool import Spool
from harmonia_py.errors import FormatError, PushConflict, PushRefused
from harmonia_py.nix.realisation import DrvOutput
from harmonia_py.nix.store_path import StorePath
from harmonia_py.push.checked_files import once_deleted
from harmonia_py.push.claims import MAX_SIGNATURES
from harmonia_py.push.ports import PushPorts
from harmonia_py.push.receiving import PushSession
from harmonia_py.push.texts import keep_text

# More than the log of a browser's build has; a log goes to the disk as it comes.
MAX_LOG_SIZE: Final = 256 * 1024 * 1024


class PushedDocuments(Struct, frozen=True, eq=False):
    """Takes in the documents of one cache.

    Attributes:
        name: of the cache.
        ports: has those that are published, and those that wait.
        spool: for logs that are arriving.
        into_store: whether the local store takes what is pushed. It takes no documents: a realisation is checked and
            forgotten, a log is refused.
    """

    name: CacheName
    ports: PushPorts
    spool: Spool
    into_store: bool

    async def log(
        self, session: PushSession, derivation: StorePath, portions: AsyncIterator[bytes], coding: str | None
    ) -> None:
        """Take in the build log of a derivation. The first one stays, as long as it is there.

        Args:
            session: of the client.
            derivation: that was built.
            portions: of the text.
            coding: the content coding of the portions.

        Raises:
            FormatError: not a derivation, or the text is not in that coding.
            PushRefused: this cache keeps no logs, or the coding is not known.
            PushTooLarge: more than `MAX_LOG_SIZE` bytes.
            PushConflict: an earlier log of this derivation is still being deleted.
            StorageError: it cannot be kept.
        """
        if not derivation.is_derivation:
            raise FormatError("a log is that of a derivation")
        if self.into_store:
            raise PushRefused("logs are not taken: what is pushed here goes into the store of this machine")
        standing = await self.ports.objects.document(session.cache, DocumentKind.LOG, derivation, pending=True)
        if standing is not None and await self._is_here(standing):
            return
        key = BlobKey(f"{self.name}/log/{derivation}")
        await once_deleted(lambda: self.ports.nars.reserve(key))
        size = await keep_text(self.ports, self.spool, key, portions, coding, max_size=MAX_LOG_SIZE)
        document = Document(kind=DocumentKind.LOG, name=derivation, size=size, blob_key=key)
        keepers = [derivation.hash_part]
        try:
            await self.ports.uploads.attach(session.cache, session.id, document, keepers, now=self.ports.now())
        except BeingDeleted:
            raise PushConflict("the log was deleted while it came: run the same command again") from None

    async def _is_here(self, log: Document) -> bool:
        return log.blob_key is None or await self.ports.blobs.metadata(BlobKey(log.blob_key)) is not None

    async def realisation(self, session: PushSession, output: DrvOutput, data: bytes) -> None:
        """Take in the realisation of an output. The first one stays; signatures of others are added to it.

        Raises:
            FormatError: it is no realisation of this output, or has malformed signatures, or too many.
            StorageError: it cannot be kept.
        """
        given = await asyncio.to_thread(parse_realisation, data, output)
        if len(given.signatures) > MAX_SIGNATURES:
            raise FormatError(f"the realisation has more than {MAX_SIGNATURES} signatures")
        if self.into_store:
            return
        kind, name = document_of(output)
        standing = await self.ports.objects.document(session.cache, kind, name)
        if standing is not None and standing.body is not None:
            first = parse_realisation(standing.body, output)
            if first.out_path != given.out_path:
                return
            given = replace(first, signatures=tuple(sorted({*first.signatures, *given.signatures})[:MAX_SIGNATURES]))
            if given == first:
                return
        body = given.format_old() if kind is DocumentKind.REALISATION else given.format_new()
        document = Document(kind=kind, name=name, size=len(body), body=body)
        keepers = [given.out_path.hash_part]
        await self.ports.uploads.attach(session.cache, session.id, document, keepers, now=self.ports.now())
