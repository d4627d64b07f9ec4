"""The check of a log or a listing, of which nothing is known beforehand."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Final

from harmonia_py.contents.codecs import Unpacker
from harmonia_py.contents.file_check import FileCheck
from harmonia_py.contents.memory import Share
from harmonia_py.errors import FormatError
from harmonia_py.nix.hashes import Hash

# The log of a build may have gigabytes; no person reads it then.
_MAX_DOCUMENT_BYTES: Final = 1024 * 1024 * 1024


class DocumentCheck(FileCheck):
    """Decodes a document, and computes its hash, which becomes its validator.

    Args:
        compression: of what comes.
        share: of the memory; None for one of its own.

    Attributes:
        size: of what was decoded so far, in bytes.
    """

    def __init__(self, compression: str = "none", share: Share | None = None) -> None:
        super().__init__()
        self._unpacker = Unpacker(compression, share=share)
        self._digest = hashlib.sha256()
        self._taken = 0
        self.size = 0

    def _portions(self, data: bytes | memoryview) -> Iterator[bytes | memoryview]:
        self._taken += len(data)
        for portion in self._unpacker.feed(data):
            self.size += len(portion)
            if self.size > _MAX_DOCUMENT_BYTES:
                raise FormatError("it is far too long")
            self._digest.update(portion)
            yield portion
        # Streams of nothing may come for ever.
        if self._taken > _MAX_DOCUMENT_BYTES:
            raise FormatError("it is far too long")

    def _last(self) -> bytes:
        if not self._unpacker.is_whole:
            raise FormatError("it ends too early")
        return b""

    def metadata(self) -> Mapping[str, str]:
        """The metadata to keep with it."""
        return {"file_hash": str(Hash("sha256", self._digest.digest()))}
