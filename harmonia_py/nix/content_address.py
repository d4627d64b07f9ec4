"""Content addresses, and the store path that follows from one.

Source: `src/libstore/content-address.cc` and `src/libstore/store-dir-config.cc` of Nix; "Content-Addressing Store
Objects" and "Complete Store Path Calculation" in the Nix manual.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Self

from harmonia_py.errors import FormatError
from harmonia_py.nix import base32
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import StoreDir, StorePath


class Method(Enum):
    """How the contents were hashed; the value is the prefix in the text form."""

    TEXT = "text:"
    FLAT = "fixed:"
    NAR = "fixed:r:"
    GIT = "fixed:git:"


@dataclass(frozen=True, slots=True)
class ContentAddress:
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

    def store_path(self, name: str, references: Iterable[StorePath], store_dir: StoreDir) -> StorePath:
        """The only store path that contents with this address can have, when they do not refer to themselves.

        Args:
            name: the part after the dash.
            references: other store paths that the contents refer to. For a path that refers to itself see `proves`.
            store_dir: the logical store directory; it is part of what is hashed.

        Raises:
            FormatError: references where the method allows none, or a malformed name.
        """
        return self._store_path(name, sorted(set(references)), store_dir, has_self=False)

    def proves(self, store_path: StorePath, references: Iterable[StorePath], store_dir: StoreDir) -> bool:
        """Whether this address leads to exactly `store_path` with `references`, so that it needs no signature."""
        others = sorted(set(references))
        has_self = store_path in others
        if has_self:
            others.remove(store_path)
        try:
            return self._store_path(store_path.name, others, store_dir, has_self=has_self) == store_path
        except FormatError:
            return False

    def _store_path(self, name: str, others: list[StorePath], store_dir: StoreDir, *, has_self: bool) -> StorePath:
        full = [store_dir.join(other) for other in others]
        if self.method is Method.TEXT:
            if has_self:
                raise FormatError("a text file does not refer to itself")
            return _make(":".join(["text", *full]), self.hash, name, store_dir)
        if self.method is Method.NAR and self.hash.algorithm == "sha256":
            kind = ":".join(["source", *full, *(["self"] if has_self else [])])
            return _make(kind, self.hash, name, store_dir)
        if others or has_self:
            raise FormatError("this kind of content address has no references")
        inner = f"fixed:out:{self.method.value.removeprefix('fixed:')}{self.hash.algorithm}:{self.hash.base16}:"
        return _make("output:out", Hash.of(inner.encode()), name, store_dir)


def _make(kind: str, inner: Hash, name: str, store_dir: StoreDir) -> StorePath:
    digest = Hash.of(f"{kind}:sha256:{inner.base16}:{store_dir}:{name}".encode()).digest
    # Compression to 160 bits: byte i is folded onto byte i mod 20.
    folded = bytearray(20)
    for index, byte in enumerate(digest):
        folded[index % 20] ^= byte
    return StorePath.parse(f"{base32.encode(bytes(folded))}-{name}")
