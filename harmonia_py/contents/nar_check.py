"""The one verifier of NARs: a file of a NAR decompressed, hashed, shown to observers and re-coded as it comes.

What is claimed before the file comes is verified here. The narinfo of a pushed file comes after it: what was computed
here is then what it is held against (`push/evidence_check`).

It runs in bounded memory: decompression stops at the NarSize, because a few bytes can stand for a disk full of zeros,
and no window is larger than a bound. Everything here computes and may take long, so a thread calls it; hashes and
codecs let other threads run.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from msgspec import Struct

from harmonia_py.contents.codecs import MAX_WINDOW_BYTES, USUAL_WINDOW_BYTES, Unpacker
from harmonia_py.contents.encoders import Encoder, Plain
from harmonia_py.contents.file_check import FileCheck
from harmonia_py.contents.memory import MemoryFull, Share
from harmonia_py.errors import FormatError
from harmonia_py.nix.content_check import content_check
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo

# Zeros between streams, empty streams and frames to be skipped could go on for ever: a file may have so many of them.
_PADDING_BYTES: Final = 1024 * 1024


class NarObserver(Protocol):
    """Sees the bytes of a NAR as they pass, in the thread that verifies it."""

    def update(self, data: bytes) -> None:
        """Take the next bytes, at least one and in portions of any size.

        Raises:
            FormatError: the NAR is refused.
        """

    def finish(self) -> object:
        """Note that the NAR has ended, and that every claimed hash is right.

        Raises:
            FormatError: the NAR is refused.
        """


class WrongNar(FormatError):
    """The NAR in a file is not the one that was claimed.

    Attributes:
        nar_hash: what it has instead; None when it is too long, and the rest was not read.
    """

    def __init__(self, message: str, nar_hash: Hash | None = None) -> None:
        super().__init__(message)
        self.nar_hash = nar_hash


class NarBounds(Struct, frozen=True, kw_only=True):
    """The bounds of a file, whatever is claimed.

    Attributes:
        nar_size: number of bytes of the NAR; None for no bound but the claim's.
        window: bytes that a decompressor may have to look back.
        usual_window: bytes that it may have to look back without a share of the memory.
    """

    nar_size: int | None = None
    window: int = MAX_WINDOW_BYTES
    usual_window: int = USUAL_WINDOW_BYTES


class CheckedNar(Struct, frozen=True):
    """The computed facts of a NAR and of the file that is offered, which was made of it or which it came in."""

    nar_hash: Hash
    nar_size: int
    file_hash: Hash
    file_size: int


def _longest(nar_size: int) -> int:
    """Bytes that a file of a NAR may have: what cannot be compressed grows by a hundredth, and a quarter is allowed."""
    return nar_size + nar_size // 4 + _PADDING_BYTES


class NarCheck(FileCheck):
    """The check of a NAR's file. What is not claimed is computed all the same (`checked`).

    Args:
        path_info: claims NarHash and NarSize, and perhaps a content address, which counts as well; None for no claim.
        compression: of the file that comes.
        file_hash: of that file, when it is claimed.
        file_size: number of its bytes, when that is claimed.
        encoder: makes the file that is offered of the NAR; None where that is the file that comes.
        observers: see the NAR.
        bounds: hold also where nothing is claimed.
        share: of the memory; None for one of its own.

    Raises:
        FormatError: more is claimed than the bounds allow.
    """

    def __init__(
        self,
        path_info: PathInfo | None,
        compression: str,
        file_hash: Hash | None = None,
        file_size: int | None = None,
        *,
        encoder: Encoder | None = None,
        observers: Sequence[NarObserver] = (),
        bounds: NarBounds = NarBounds(),  # noqa: B008  # frozen
        share: Share | None = None,
    ) -> None:
        super().__init__()
        self._path_info = path_info
        self._contents = None if path_info is None else content_check(path_info)
        self._observers = [*observers, *([] if self._contents is None else [self._contents])]
        self._expected_hash = file_hash
        self._expected_size = file_size
        self._max_nar_size = bounds.nar_size
        if path_info is not None:
            if bounds.nar_size is not None and path_info.nar_size > bounds.nar_size:
                raise FormatError("its NarSize is more than is taken")
            self._max_nar_size = path_info.nar_size
        self._unpacker = Unpacker(
            compression, bounds.window, bounds.usual_window, longest=self._max_nar_size, share=share
        )
        # The first bytes, when the memory was full.
        self._waiting = b""
        self.size = 0
        # An upstream may have named its file's hash by another algorithm.
        self._digest = hashlib.new("sha256" if file_hash is None else file_hash.algorithm, usedforsecurity=False)
        self._nar_size = 0
        self._out_size = 0
        self._encoder = encoder
        # Hashing takes most of the time, so equal bytes are hashed once.
        is_sha256 = self._digest.name == "sha256"
        self._nar_digest = self._digest if is_sha256 and compression == "none" else hashlib.sha256()
        self._out_digest = hashlib.sha256()
        if encoder is None and is_sha256:
            self._out_digest = self._digest
        elif isinstance(encoder, Plain):
            self._out_digest = self._nar_digest

    @property
    def checked(self) -> CheckedNar:
        """The computed facts, once `finish` has returned."""
        return CheckedNar(
            Hash("sha256", self._nar_digest.digest()),
            self._nar_size,
            Hash("sha256", self._out_digest.digest()),
            self._out_size,
        )

    def _portions(self, data: bytes | memoryview) -> Iterator[bytes | memoryview]:
        if not self.size:
            data = self._admitted(data)
        if self._encoder is None:
            # First, so that no client waits for the computing.
            self._count_out(data)
            yield data
        self.size += len(data)
        if self._expected_size is not None and self.size > self._expected_size:
            raise FormatError("it is longer than its FileSize")
        if self._max_nar_size is not None and self.size > _longest(self._max_nar_size):
            raise FormatError("it is far longer than its NAR")
        self._digest.update(data)
        for portion in self._unpacker.feed(data):
            self._see(portion)
            out = b"" if self._encoder is None else self._encoder.compress(portion)
            self._count_out(out)
            yield out

    def _admitted(self, data: bytes | memoryview) -> bytes | memoryview:
        """The first bytes, once there is memory for them: until then no client learns that the file has begun."""
        if self._waiting:
            data, self._waiting = self._waiting + bytes(data), b""
        try:
            self._unpacker.admit(data)
        except MemoryFull:
            self._waiting = bytes(data)
            raise
        return data

    def _see(self, portion: bytes | memoryview) -> None:
        self._nar_size += len(portion)
        if self._max_nar_size is not None and self._nar_size > self._max_nar_size:
            raise WrongNar("its NAR is longer than its NarSize")
        if self._nar_digest is not self._digest:
            self._nar_digest.update(portion)
        if self._observers:
            data = bytes(portion)
            for observer in self._observers:
                observer.update(data)

    def _last(self) -> bytes:
        if self._expected_size not in (None, self.size):
            raise FormatError("it is shorter than its FileSize")
        if not self._unpacker.is_whole:
            raise FormatError(f"it is no whole {self._unpacker.compression} file")
        if self._expected_hash is not None and self._expected_hash.digest != self._digest.digest():
            raise FormatError("it has another FileHash")
        nar_hash = Hash("sha256", self._nar_digest.digest())
        if self._path_info is not None:
            if self._nar_size != self._path_info.nar_size:
                raise WrongNar("its NAR is shorter than its NarSize", nar_hash)
            if nar_hash != self._path_info.nar_hash:
                raise WrongNar("its NAR has another NarHash", nar_hash)
        for observer in self._observers:
            observer.finish()
        last = b"" if self._encoder is None else self._encoder.flush()
        self._count_out(last)
        return last

    def metadata(self) -> dict[str, str]:
        """The metadata of the offered file, which `verify` holds it against later."""
        checked = self.checked
        facts = {
            "nar_hash": str(checked.nar_hash),
            "nar_size": str(checked.nar_size),
            "file_hash": str(checked.file_hash),
            "file_size": str(checked.file_size),
        }
        if self._path_info is not None:
            facts["store_path"] = self._path_info.store_path
            if self._contents is not None:
                facts["ca"] = str(self._path_info.ca)
        return facts

    def _count_out(self, data: bytes | memoryview) -> None:
        if self._out_digest is not self._digest and self._out_digest is not self._nar_digest:
            self._out_digest.update(data)
        self._out_size += len(data)
