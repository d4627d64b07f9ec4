"""A `Source` whose NARs are files, behind the port: what it gives and when is up to the test."""

import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from catalogs import opened_catalog

from harmonia_py.cache.found import LOCAL, Found
from harmonia_py.cache.source import UNNAMED, Asker, DocumentKind, Download, FileSlice, Piece
from harmonia_py.catalog.kept import Kept
from harmonia_py.catalog.last_uses import LastUses
from harmonia_py.contents.compressed import CompressedNars
from harmonia_py.contents.compressing import Compressing
from harmonia_py.contents.encoders import Zstd
from harmonia_py.contents.ingest import Intake
from harmonia_py.contents.storage import Storage
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo, NarUrl
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.storage.disk import DiskBlobs
from harmonia_py.storage.spool import DiskSpool
from harmonia_py.wiring.replaceable_housekeeping import kept_ports

STORE_PATH: Final = StorePath.parse("n5wkd9frr45pa74if5gpz9j7mifg27fh-hello-2.12")


class FileNar:
    """One store path whose NAR is the bytes of a file.

    Attributes:
        gate: while it is clear, a dump stands still after the first half.
        half: set when a dump has reached the gate.
        dumps: a file that grows by one byte for every dump, in whichever process.
        taken: how many downloads have been handed out and not yet released.
    """

    def __init__(self, file: Path, path_info: PathInfo | None = None) -> None:
        data = file.read_bytes()
        self.path_info = path_info or PathInfo(store_path=STORE_PATH, nar_hash=Hash.of(data), nar_size=len(data))
        self.gate = threading.Event()
        self.gate.set()
        self.half = threading.Event()
        self.dumps = file.with_suffix(".dumps")
        self.taken = 0
        self._file = file

    @property
    def url(self) -> NarUrl:
        """Where the compressed NAR is."""
        return NarUrl(self.path_info.store_path.hash_part, self.path_info.nar_hash, "zstd")

    def dump_count(self) -> int:
        """How often the NAR has been dumped, by all processes."""
        return self.dumps.stat().st_size if self.dumps.exists() else 0

    async def narinfo(self, hash_part: HashPart) -> Found | None:
        if hash_part != self.path_info.store_path.hash_part:
            return None
        url = NarUrl(hash_part, self.path_info.nar_hash, "none")
        return Found(NarInfo(path_info=self.path_info, url=str(url), compression="none"), LOCAL, None)

    async def nar(self, url: NarUrl, asker: Asker = UNNAMED) -> Download | None:  # noqa: ARG002  # the port's signature
        if url != NarUrl(self.path_info.store_path.hash_part, self.path_info.nar_hash, "none"):
            return None
        self.taken += 1
        return Download(size=self.path_info.nar_size, etag="nar", pieces=self._pieces, release=self._release)

    async def document(self, kind: DocumentKind, name: StorePath | HashPart) -> Download | None:  # noqa: ARG002  # the port's signature
        return None

    async def realisation(self, output: DrvOutput) -> Realisation | None:  # noqa: ARG002  # the port's signature
        return None

    def _release(self) -> None:
        self.taken -= 1

    def _pieces(self, start: int, stop: int | None) -> Iterator[Piece]:
        assert (start, stop) == (0, None)
        with self.dumps.open("ab") as dumps:
            dumps.write(b".")
        fd = os.open(self._file, os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            yield os.pread(fd, 100, 0)
            middle = max(min(100, size), size // 2)
            if middle > 100:
                yield FileSlice(fd, 100, middle - 100)
            self.half.set()
            assert self.gate.wait(60)
            if size > middle:
                yield FileSlice(fd, middle, size - middle)
        finally:
            os.close(fd)


def compressing(at_once: int = 2, threads: int = 0) -> Compressing:
    """As `app.py` would make it. Without threads of its own zstd gives its output while its input comes."""
    return Compressing(settings=Zstd(threads=threads), at_once=at_once)


@asynccontextmanager
async def storage_in(directory: Path | None) -> AsyncIterator[Storage]:
    """A spool and blobs below a directory; without one nothing can be kept."""
    if directory is None:
        yield Storage()
        return
    async with DiskSpool(directory) as spool, DiskBlobs(directory) as blobs:
        yield Storage(spool, blobs)


@asynccontextmanager
async def kept_in(storage: Storage) -> AsyncIterator[Kept]:
    """What is known of the files in a storage, with a catalog where `wiring` has it."""
    if storage.blobs is None:
        yield Kept(storage, None)
        return
    assert isinstance(storage.blobs, DiskBlobs)
    async with opened_catalog("sqlite", storage.blobs._directory._directory / ".catalog") as catalog:
        yield Kept(storage, kept_ports(catalog, LastUses(catalog.objects)))


@asynccontextmanager
async def compressed(
    nar: FileNar, storage: Storage, threads: Compressing | None = None
) -> AsyncIterator[CompressedNars]:
    """The compressed NAR of `nar`, as `wiring` makes it."""
    async with (
        Intake(storage) as intake,
        kept_in(storage) as kept,
        CompressedNars(nar, intake, kept, threads or compressing()) as source,
    ):
        yield source
