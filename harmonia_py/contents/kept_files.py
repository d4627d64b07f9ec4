"""The port `KeptFiles`: the facts of NARs that were compressed here."""

import re
from collections.abc import Sequence
from typing import Final, Protocol

from msgspec import Struct

from harmonia_py.cache.source import Download
from harmonia_py.cache.validity import Validity
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart, StorePath

# `<hash part>…`, or `<NarHash>.nar?hash=<hash part>`.
_HASH_PART: Final = re.compile(r"\A([0-9a-z]{32})(?![0-9a-z])|\?hash=([0-9a-z]{32})\Z", re.ASCII)


class FileFacts(Struct, frozen=True):
    """The facts of a kept file.

    Attributes:
        file_hash: of all of it.
        file_size: number of bytes.
        ca: the content address that its NAR was held against, as text, where that is another hash than the NarHash.
    """

    file_hash: Hash
    file_size: int
    ca: str | None = None


class KeptFacts(Struct, frozen=True):
    """The facts of a file (None: it is not kept), and their validity (None: unknown).

    Attributes:
        key: where the file is; of two paths with equal files only one may be kept.
        recipe: by which the file is made, where it is nowhere: then `key` is None.
    """

    facts: FileFacts | None
    validity: Validity | None
    key: BlobKey | None = None
    recipe: BlobKey | None = None


UNKNOWN: Final = KeptFacts(None, None)
"""The answer for a file of which nothing can be told."""


class Mismatch(Struct, frozen=True):
    """A NAR that was not what the store says, found while it was compressed.

    Attributes:
        store_path: whose files are wrong.
        expected: the NarHash in the store's database.
        actual: of the files; None when there were more bytes than NarSize says.
        found: in seconds since the epoch.
    """

    store_path: StorePath
    expected: Hash
    actual: Hash | None
    found: int


def key_of(url: NarUrl) -> BlobKey:
    """The key of the file of `url`: its own name."""
    return BlobKey(str(url).removeprefix("nar/"))


def url_of(key: BlobKey) -> NarUrl:
    """The URL whose file is kept under `key`.

    Raises:
        FormatError: it is no key of a NAR.
    """
    name, _, hash_part = key.partition("?hash=")
    return NarUrl.parse(name, hash_part or None)


def unit_of(key: BlobKey) -> str:
    """The unit in which files go: all files of one store path, by the hash part in the name."""
    found = _HASH_PART.search(key)
    return key if found is None else found[1] or found[2]


class KeptFiles(Protocol):
    """Facts of files that were made of the local store. No method fails: facts that cannot be told are unknown."""

    async def find(self, key: BlobKey) -> KeptFacts:
        """The facts of the file of a NAR."""

    async def made(self, known: KeptFacts) -> Download | None:
        """The file of which `find` has said this, if it is made of chunks; None also when it cannot be for now."""

    async def keep(self, key: BlobKey, path_info: PathInfo, facts: FileFacts) -> None:
        """Enter a file that has become whole: its NAR was right this time, whatever was marked before."""

    async def mark(self, path_info: PathInfo, nar_hash: Hash | None) -> None:
        """Remember that the NAR of a path is wrong, for every process, also after a restart; it is in the log too.

        Args:
            path_info: what the store says of the NAR.
            nar_hash: what it has instead, when that is known.
        """

    def used(self, hash_part: HashPart) -> None:
        """Note that a path was asked for."""

    async def mismatches(self) -> Sequence[Mismatch]:
        """All mismatches that are marked."""
