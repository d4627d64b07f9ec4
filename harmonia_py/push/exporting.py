"""A cache written as files that any web server serves: a plain binary cache, without this program.

    nix-cache-info
    <hash part>.narinfo                  with our signatures; its NAR is nar/<FileHash>.nar.<suffix>
    <hash part>.ls  log/<derivation>  debuginfo/<build id>.debug
    realisations/<output>.doi  build-trace-v2/<derivation>/<output>.doi

A file appears whole, and a narinfo after its NAR, its listing and the narinfos of its references. So at any moment the
target is a cache that can be used, and an export that was cut off goes on where it was.
"""

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from msgspec import Struct, field
from msgspec.structs import replace

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.source import Download
from harmonia_py.cache.tree import BuildId
from harmonia_py.catalog.caches import CacheId
from harmonia_py.catalog.documents import DocumentIndex
from harmonia_py.catalog.objects import Document, DocumentKind, ObjectIndex, Objects, StoredObject
from harmonia_py.catalog.paging import rows_of
from harmonia_py.catalog.stored import narinfo_of
from harmonia_py.nix.narinfo import SUFFIXES, NarInfo
from harmonia_py.nix.realisation import DrvOutput
from harmonia_py.nix.store_path import HashPart, StorePath


class ExportTarget(Protocol):
    """The place that a cache is written to. Each method raises `StorageError` when it cannot."""

    async def make(self) -> None:
        """Make the place if it is not there, as Nix makes a binary cache."""

    async def has(self, name: str, size: int) -> bool:
        """Whether a file of this name and size is there."""

    async def put(self, name: str, data: bytes) -> bool:
        """Write a file; False when it has these bytes already."""

    async def copy(self, name: str, download: Download) -> None:
        """Write the bytes of a download, which is a file."""


class Exported(Struct):
    """The figures of an export.

    Attributes:
        paths: narinfos that the target has now.
        nars: files of NARs that were written; the others were there.
        size: bytes of the files that were written.
        documents: listings, logs, debug files and realisations that were written.
        skipped: paths that went meanwhile, or whose references are not in this cache.
    """

    paths: int = 0
    nars: int = 0
    size: int = 0
    documents: int = 0
    skipped: int = 0


class ExportPorts(Struct, frozen=True, kw_only=True):
    """The ports of the catalog that an export reads."""

    objects: Objects
    index: ObjectIndex
    documents: DocumentIndex


class Export(Struct, eq=False):
    """Writes one cache to a target.

    Attributes:
        cache: that is written.
        view: the cache as its readers see it, signed.
        ports: the catalog.
        open_blob: opens files.
        target: that it is written to.
        report: called with the number of bytes of each NAR that is there.
        done: the figures so far.
    """

    cache: CacheId
    view: BinaryCache
    ports: ExportPorts
    open_blob: Callable[[str], Awaitable[Download | None]]
    target: ExportTarget
    report: Callable[[int], object] = lambda _: None
    done: Exported = field(default_factory=Exported)
    # For each path that was looked at, whether the target has its narinfo.
    _seen: dict[HashPart, bool] = {}

    async def run(self) -> Exported:
        """Write everything.

        Raises:
            StorageError: something cannot be read or written; the target stays a cache that can be used.
        """
        await self.target.make()
        await self.target.put("nix-cache-info", self.view.cache_info.format())
        async for document in rows_of(partial(self.ports.documents.page, self.cache), lambda document: document):
            await self._write_document(document)
        async for stored in rows_of(partial(self.ports.index.page, self.cache), lambda stored: stored.hash_part):
            await self._write_closure(stored)
        return self.done

    async def _write_closure(self, stored: StoredObject) -> None:
        """Write a path after all that it references; without recursion, for a closure is deeper than calls may be."""
        waiting = [stored]
        while waiting:
            top = waiting[-1]
            hash_part = top.hash_part
            if hash_part in self._seen:
                waiting.pop()
                continue
            missing = [path for path in _references(top) if path.hash_part not in self._seen]
            if not missing:
                self._seen[hash_part] = await self._write(top)
                waiting.pop()
                continue
            for path in missing:
                found = await self.ports.objects.find(self.cache, path.hash_part)
                if found is None:
                    self._seen[path.hash_part] = False
                else:
                    waiting.append(found)

    async def _write(self, stored: StoredObject) -> bool:
        found = await self.view.narinfo(stored.hash_part)
        if found is None or not all(self._seen[path.hash_part] for path in _references(stored)):
            self.done.skipped += 1
            return False
        if not await self._write_nar(stored):
            self.done.skipped += 1
            return False
        signed = replace(narinfo_of(stored), path_info=found.narinfo.path_info)
        name = f"{stored.hash_part}.narinfo"
        await self.target.put(name, replace(signed, url=_nar_name(signed)).format(self.view.cache_info.store_dir))
        self.done.paths += 1
        return True

    async def _write_nar(self, stored: StoredObject) -> bool:
        name, file = _nar_name(narinfo_of(stored)), stored.file
        self.report(file.file_size)
        if await self.target.has(name, file.file_size):
            return True
        download = await self.open_blob(file.blob_key)
        if download is None:
            return False
        with download:
            await self.target.copy(name, download)
        self.done.nars += 1
        self.done.size += file.file_size
        return True

    async def _write_document(self, document: Document) -> None:
        if document.kind is DocumentKind.DEBUG_FILE:
            await self._write_debug_file(BuildId(document.name))
        elif document.kind in (DocumentKind.REALISATION, DocumentKind.BUILD_TRACE):
            await self._write_realisation(document)
        elif document.body is not None:
            self.done.documents += await self.target.put(_document_name(document), document.body)
        elif not await self.target.has(_document_name(document), document.size):
            assert document.blob_key is not None
            download = await self.open_blob(document.blob_key)
            if download is not None:
                with download:
                    await self.target.copy(_document_name(document), download)
                self.done.documents += 1

    async def _write_debug_file(self, build_id: BuildId) -> None:
        found = await self.view.debug_file(build_id)
        stored = None if found is None else await self.ports.objects.find(self.cache, found.store_path.hash_part)
        if stored is not None:
            value = {"archive": f"../{_nar_name(narinfo_of(stored))}", "member": build_id.member}
            data = json.dumps(value, separators=(",", ":")).encode()
            self.done.documents += await self.target.put(f"debuginfo/{build_id}.debug", data)

    async def _write_realisation(self, document: Document) -> None:
        is_old = document.kind is DocumentKind.REALISATION
        if is_old:
            output, name = DrvOutput.parse(document.name), f"realisations/{document.name}.doi"
        else:
            derivation, _, output_name = document.name.partition("^")
            output = DrvOutput.of(StorePath(derivation), output_name)
            name = f"build-trace-v2/{derivation}/{output_name}.doi"
        realisation = await self.view.realisation(output)
        if realisation is not None:
            data = realisation.format_old() if is_old else realisation.format_new()
            self.done.documents += await self.target.put(name, data)


def _references(stored: StoredObject) -> list[StorePath]:
    info = stored.path_info
    return [path for path in info.references if path != info.store_path]


def _nar_name(narinfo: NarInfo) -> str:
    assert narinfo.file_hash is not None
    return f"nar/{narinfo.file_hash.nix32}.nar{SUFFIXES[narinfo.compression]}"


def _document_name(document: Document) -> str:
    return f"{document.name}.ls" if document.kind is DocumentKind.LISTING else f"log/{document.name}"
