"""Files of a directory that the catalog does not know, entered by the facts in their own metadata.

Releases without a catalog kept facts in the metadata of files, and narinfos, realisations and marks in files without
bytes. A process that was killed between writing a file and naming it leaves one of the same kind. Nothing is fetched
and no file is read: its metadata has its hashes. What has been named is skipped, so this may be killed at any time.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

from msgspec import Struct

from harmonia_py.catalog.caches import MIRROR, STORE, Timestamp, time_by
from harmonia_py.catalog.kept import KeptPorts
from harmonia_py.catalog.mirrored import UpstreamNarInfo, UpstreamRealisation
from harmonia_py.catalog.nars import PACKS, RECIPES, NarFile
from harmonia_py.catalog.objects import Document, DocumentKind, Publication
from harmonia_py.catalog.paging import batches_of
from harmonia_py.contents.blobs import BlobInfo, BlobKey, BlobStore
from harmonia_py.contents.kept_files import Mismatch, key_of, url_of
from harmonia_py.errors import FormatError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo, NarUrl
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath

_log = logging.getLogger(__name__)

# Files that are looked at together: the catalog makes them durable together.
_BATCH: Final = 64
_NARINFO: Final = ".narinfo"
_REALISATION: Final = ".doi"
_MISMATCH: Final = ".mismatch"
_DOCUMENT: Final = re.compile(r"(.+)\.(ls|log)", re.ASCII)
_NAR: Final = re.compile(r"[^?]+\.nar(?:\.[0-9a-z]+)?(?:\?hash=[0-9a-z]{32})?", re.ASCII)


class Takeover(Struct, frozen=True, eq=False):
    """Enters the kept files that the catalog does not know.

    Attributes:
        blobs: that are looked through.
        ports: the catalog.
        store_dir: narinfos of another one are not kept.
        clock: seconds since the epoch.
    """

    blobs: BlobStore
    ports: KeptPorts
    store_dir: StoreDir
    clock: Callable[[], float] = time.time

    async def run(self) -> int:
        """Look through all files; returns how many were entered.

        Raises:
            StorageError: files or catalog cannot be read or written.
        """
        named = 0
        async for batch in batches_of(self.blobs.list(), _BATCH):
            unnamed = await self.ports.repairs.unnamed([info.key for info in batch])
            await self._discard_chunks(unnamed)
            named += sum(await asyncio.gather(*[self._take(info) for info in batch if info.key in unnamed]))
        if named:
            _log.info("%d files were taken into the catalog", named)
        return named

    async def _discard_chunks(self, unnamed: Collection[str]) -> None:
        """Have packs and recipes deleted that no row names: of what is in them, upstreams have the rest of the facts.

        The job that makes them enters each while it holds the lock of the collector, which does not delete meanwhile.
        """
        lonely = [key for key in unnamed if key.startswith((PACKS, RECIPES))]
        if lonely:
            await self.ports.repairs.discard(lonely, garbage_from=time_by(self.clock))

    async def _take(self, info: BlobInfo) -> bool:
        """Enter one file, or log why not; returns whether it was entered."""
        try:
            if info.key.endswith(_MISMATCH):
                return await self._take_mismatch(info)
            if info.key.endswith(_REALISATION):
                return await self._take_realisation(info)
            if info.key.endswith(_NARINFO):
                return await self._drop_lonely_narinfo(info)
            if (document := _DOCUMENT.fullmatch(info.key)) is not None:
                return await self._take_document(info, document[1], document[2])
            return _NAR.fullmatch(info.key) is not None and await self._take_nar(info)
        except (KeyError, ValueError, FormatError) as error:
            _log.warning("%s: not taken into the catalog: %s", info.key, error)
            return False

    async def _take_nar(self, info: BlobInfo) -> bool:
        url = url_of(info.key)
        narinfo_key = BlobKey(f"{url.hash_part}{_NARINFO}")
        metadata = await self.blobs.metadata(info.key)
        if metadata is None:
            return False
        file = _nar_file(info, metadata, url.compression)
        used = Timestamp(int(min(info.last_used, self.clock())))
        told = await self._narinfo(narinfo_key, url.hash_part, file)
        if told is None:
            path_info = _path_info(metadata, file)
            publication = Publication(cache=STORE, path_info=path_info, file=file, pushed_by="store", replace=True)
            await self.ports.objects.publish(publication, now=used)
            return True
        info_of_path = told.narinfo.path_info
        publication = Publication(
            cache=MIRROR,
            path_info=info_of_path,
            file=file,
            verified_ca=metadata.get("ca"),
            elsewhere=frozenset(path.hash_part for path in info_of_path.references),
            pushed_by=told.upstream,
            replace=True,
        )
        await self.ports.mirrored.keep(publication, told, now=used)
        await self.blobs.delete(narinfo_key)
        return True

    async def _narinfo(self, key: BlobKey, hash_part: HashPart, file: NarFile) -> UpstreamNarInfo | None:
        """The upstream's narinfo of the path, if it is of this NAR."""
        metadata = await self.blobs.metadata(key)
        if metadata is None:
            return None
        try:
            narinfo = NarInfo.parse(metadata["narinfo"].encode(), self.store_dir)
            told = UpstreamNarInfo(
                narinfo=narinfo,
                upstream=metadata["upstream"],
                fetched=float(metadata["fetched"]),
                max_age=float(metadata["max_age"]),
            )
        except (KeyError, ValueError, FormatError) as error:
            _log.warning("%s: not taken into the catalog: %s", key, error)
            return None
        info = narinfo.path_info
        return told if info.nar_hash == file.nar_hash and info.store_path.hash_part == hash_part else None

    async def _drop_lonely_narinfo(self, info: BlobInfo) -> bool:
        """A narinfo whose NAR is not here any more is of no use; any other goes when its NAR is named."""
        metadata = await self.blobs.metadata(info.key)
        if metadata is None:
            return False
        try:
            narinfo = NarInfo.parse(metadata["narinfo"].encode(), self.store_dir)
        except (KeyError, FormatError):
            await self.blobs.delete(info.key)
            return False
        hash_part, nar_hash = narinfo.path_info.store_path.hash_part, narinfo.path_info.nar_hash
        for compression in {"zstd", narinfo.compression}:
            try:
                key = key_of(NarUrl(hash_part, nar_hash, compression))
            except KeyError:
                continue  # no compression that we have ever kept
            if await self.ports.nars.file(key) is not None:
                break  # it was named, and the process killed
            if await self.blobs.metadata(key) is not None:
                return False
        await self.blobs.delete(info.key)
        return False

    async def _take_document(self, info: BlobInfo, name: str, suffix: str) -> bool:
        kind = DocumentKind.LISTING if suffix == "ls" else DocumentKind.LOG
        document = Document(kind=kind, name=name, size=info.size, blob_key=info.key)
        keepers = [HashPart.parse(name)] if kind is DocumentKind.LISTING else []
        used = Timestamp(int(min(info.last_used, self.clock())))
        await self.ports.uploads.attach(MIRROR, None, document, keepers, now=used)
        return True

    async def _take_realisation(self, info: BlobInfo) -> bool:
        metadata = await self.blobs.metadata(info.key)
        if metadata is not None:
            realisation = UpstreamRealisation(
                output=info.key.removesuffix(_REALISATION),
                text=metadata["realisation"].encode(),
                upstream=metadata["upstream"],
            )
            await self.ports.realisations.keep_realisation(realisation, now=time_by(self.clock))
            await self.blobs.delete(info.key)
        return metadata is not None

    async def _take_mismatch(self, info: BlobInfo) -> bool:
        metadata = await self.blobs.metadata(info.key)
        if metadata is not None:
            mismatch = Mismatch(
                store_path=StorePath.parse(metadata["store_path"]),
                expected=Hash.parse(metadata["expected"], "sha256"),
                actual=Hash.parse(metadata["actual"], "sha256") if metadata["actual"] else None,
                found=Timestamp(int(float(metadata["found"]))),
            )
            await self.ports.mismatches.note(mismatch)
            await self.blobs.delete(info.key)
        return metadata is not None


def _nar_file(info: BlobInfo, metadata: Mapping[str, str], compression: str) -> NarFile:
    return NarFile(
        file_hash=Hash.parse(metadata["file_hash"], "sha256"),
        file_size=info.size,
        compression=compression,
        blob_key=info.key,
        nar_hash=Hash.parse(metadata["nar_hash"], "sha256"),
        nar_size=int(metadata["nar_size"]),
    )


def _path_info(metadata: Mapping[str, str], file: NarFile) -> PathInfo:
    assert file.nar_hash is not None
    assert file.nar_size is not None
    return PathInfo(store_path=StorePath.parse(metadata["store_path"]), nar_hash=file.nar_hash, nar_size=file.nar_size)
