"""Paths as a client pushes them, made of trees: honest, unless a test changes what they claim."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from functools import partial
from typing import Final

import brotli
from msgspec import Struct
from msgspec.structs import replace
from pushing import PushServer
from serving import Answer
from trees import File, Folder, Tree, nar
from zstd_library import zstd

from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.push.claims import PushedFile

STORE: Final = StoreDir("/nix/store")
PATH: Final = StorePath("26xbg1ndr7hbcncrlf9nhx5is2b25d13-hello-2.12.1")
REFERENCE: Final = StorePath("1b9p07z77phvv2hf6gm9f28syp39f1ag-glibc-2.35")
_PACK: Final[dict[str, Callable[[bytes], bytes]]] = {
    "none": bytes,
    "xz": partial(lzma.compress, preset=0),
    "zstd": zstd.compress,
    "bzip2": bz2.compress,
    "br": brotli.compress,
    "gzip": gzip.compress,
}


class Pushed(Struct, frozen=True):
    """A file and the narinfo that claims something of it."""

    data: bytes
    claim: NarInfo

    @property
    def path(self) -> StorePath:
        return self.claim.path_info.store_path

    @property
    def place(self) -> str:
        return f"/{self.claim.url}"

    @property
    def narinfo(self) -> bytes:
        return self.claim.format(STORE)

    def claiming(self, **fields: object) -> "Pushed":
        """This file with other fields of its path info."""
        return replace(self, claim=replace(self.claim, path_info=replace(self.claim.path_info, **fields)))


def pushed(path: StorePath, tree: Tree, *references: StorePath, compression: str = "none") -> Pushed:
    archive = nar(tree)
    data = _PACK[compression](archive)
    info = PathInfo(
        store_path=path, nar_hash=Hash.of(archive), nar_size=len(archive), references=tuple(sorted(references))
    )
    file = PushedFile(Hash.of(data), compression)
    claim = NarInfo(
        path_info=info, url=f"nar/{file}", compression=compression, file_hash=file.file_hash, file_size=len(data)
    )
    return Pushed(data, claim)


GLIBC: Final = pushed(REFERENCE, Folder({b"lib": File(b"libc")}))
HELLO: Final = pushed(
    PATH,
    Folder({b"bin": Folder({b"hello": File(f"/nix/store/{REFERENCE}/lib".encode(), executable=True)})}),
    REFERENCE,
)


async def push(server: PushServer, what: Pushed, *, run: str = "") -> Answer:
    """Push a file, then its narinfo; the answer to the last request that was made."""
    answer = await server.put(what.place, what.data, run=run)
    if answer.status == 200:
        answer = await server.put(f"/{what.path.hash_part}.narinfo", what.narinfo, run=run)
    return answer
