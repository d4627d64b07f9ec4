"""Content addresses, and the store path that follows from one.

Source: `src/libstore/content-address.cc` and `src/libstore/store-dir-config.cc` of Nix; "Content-Addressing Store
Objects" and "Complete Store Path Calculation" in the Nix manual.
"""

import re
from collections.abc import Iterable
from enum import Enum
from typing import Final, Self

from msgspec import Struct

from harmonia_py.errors import FormatError
from harmonia_py.nix import base32
from harmonia_py.nix.hashes import DIGEST_SIZES, Hash
from harmonia_py.nix.store_path import StoreDir, StorePath

# It becomes a line of a narinfo. SHA-512 in hexadecimal takes 128 characters; what comes later may take more.
_UNKNOWN: Final = re.compile(r"((?:[0-9a-z\-]{1,32}:){2,3})[0-9A-Za-z+/=_.\-]{1,512}", re.ASCII)


class Method(Enum):
    """The method by which contents were hashed; the value is the prefix in the text form."""

    TEXT = "text:"
    FLAT = "fixed:"
    NAR = "fixed:r:"
    GIT = "fixed:git:"


class ContentAddress(Struct, frozen=True):
    """`text:sha256:…`, `fixed:<algorithm>:…`, `fixed:r:<algorithm>:…` or `fixed:git:<algorithm>:…`."""

    method: Method
    hash: Hash

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the form that narinfos, the daemon and the database share.

        Raises:
            FormatError: unknown method, or a hash that does not parse.
        """
        for method in (Method.TEXT, Method.NAR, Method.GIT, Method.FLAT):
            if text.startswith(method.value):
                digest = text.removeprefix(method.value)
                if ":" not in digest:
                    raise FormatError("a content address says <algorithm>:<digest>")
                hash_ = Hash.parse(digest)
                if method is Method.TEXT and hash_.algorithm != "sha256":
                    raise FormatError("a text content address has a sha256 hash")
                return cls(method, hash_)
        raise FormatError("unknown kind of content address")

    def __str__(self) -> str:
        return f"{self.method.value}{self.hash}"

    def store_path(
        self, name: str, references: Iterable[StorePath], store_dir: StoreDir, *, to_itself: bool = False
    ) -> StorePath:
        """The only store path that contents with this address can have.

        Args:
            name: the part after the dash.
            references: other store paths that the contents refer to.
            store_dir: the logical store directory; it is part of what is hashed.
            to_itself: whether the contents refer to the path as well.

        Raises:
            FormatError: references where the method allows none, or a malformed name.
        """
        full = [store_dir.join(other) for other in sorted(set(references))]
        if self.method is Method.TEXT:
            if to_itself:
                raise FormatError("a text file does not refer to itself")
            return _make(":".join(["text", *full]), self.hash, name, store_dir)
        if self.method is Method.NAR and self.hash.algorithm == "sha256":
            kind = ":".join(["source", *full, *(["self"] if to_itself else [])])
            return _make(kind, self.hash, name, store_dir)
        if full or to_itself:
            raise FormatError("this kind of content address has no references")
        inner = f"fixed:out:{self.method.value.removeprefix('fixed:')}{self.hash.algorithm}:{self.hash.base16}:"
        return _make("output:out", Hash.of(inner.encode()), name, store_dir)

    def proves(self, store_path: StorePath, references: Iterable[StorePath], store_dir: StoreDir) -> bool:
        """Whether this address leads to exactly `store_path` with `references`, so that it needs no signature."""
        others = set(references)
        to_itself = store_path in others
        try:
            expected = self.store_path(store_path.name, others - {store_path}, store_dir, to_itself=to_itself)
        except FormatError:
            return False
        return expected == store_path


class UnknownContentAddress(Struct, frozen=True):
    """A content address of a later Nix: told as it came, for clients that understand it. It proves nothing here."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a method or an algorithm that `ContentAddress` does not know, and anything behind it.

        Raises:
            FormatError: both are known, or this has another form than all content addresses.
        """
        match = _UNKNOWN.fullmatch(text)
        if match is None:
            raise FormatError("not a content address")
        method, _, algorithm = match[1][:-1].rpartition(":")
        known = {one.value for one in Method}
        if match[1] in known or (f"{method}:" in known and algorithm in DIGEST_SIZES):
            raise FormatError("a content address of a known kind does not parse")
        return cls(text)

    def __str__(self) -> str:
        return self.text


def parse_content_address(text: str) -> ContentAddress | UnknownContentAddress:
    """Read the content address of a path, of whatever kind.

    Raises:
        FormatError: it is of no kind.
    """
    try:
        return ContentAddress.parse(text)
    except FormatError:
        return UnknownContentAddress.parse(text)


def _make(kind: str, inner: Hash, name: str, store_dir: StoreDir) -> StorePath:
    digest = Hash.of(f"{kind}:sha256:{inner.base16}:{store_dir}:{name}".encode()).digest
    # Compression to 160 bits: byte i is folded onto byte i mod 20.
    folded = bytearray(20)
    for index, byte in enumerate(digest):
        folded[index % 20] ^= byte
    return StorePath.parse(f"{base32.encode(bytes(folded))}-{name}")
