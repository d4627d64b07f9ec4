"""A NAR held against the content address of its path while it streams, as Nix does when it adds a path to a store.

What is hashed depends on the method: the whole NAR, the NAR modulo the path's own hash part, or the one file in it.
Source: `LocalStore::addToStore` in `src/libstore/local-store.cc` of Nix. Unlike it, this wants a file that stands for
its contents alone not to be executable: nothing vouches for that bit, and no Nix adds or builds such a file.
"""

import hashlib
from typing import Final, Protocol

from harmonia_py.errors import FormatError
from harmonia_py.nix.content_address import ContentAddress, Method
from harmonia_py.nix.hash_modulo import HashModulo
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.nar import Contents, Regular
from harmonia_py.nix.nar_parser import Parser
from harmonia_py.nix.path_info import PathInfo

_MISMATCH: Final = "its contents are not those of its content address"


class ContentCheck(Protocol):
    """Takes a NAR in chunks of any size, and says in the end whether it is the right one."""

    def update(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            FormatError: the contents are surely wrong.
        """

    def finish(self) -> None:
        """Say that the contents have ended.

        Raises:
            FormatError: these are not the contents that the address is of.
        """


def content_check(info: PathInfo) -> ContentCheck | None:
    """The check of a NAR's content address beside its NarHash; None when there is none, or none that is known here.

    A NarHash that is the content address itself needs no second look. Those of Git are of trees that Git hashes.
    """
    ca = info.ca
    if not isinstance(ca, ContentAddress) or ca.method is Method.GIT:
        return None
    if ca.method is not Method.NAR:
        return _FileCheck(ca.hash)
    if ca.hash.algorithm == "sha256" and info.store_path in info.references:
        return _SelfReferenceCheck(ca.hash, HashModulo(info.store_path.hash_part))
    return None if ca.hash == info.nar_hash else _NarCheck(ca.hash)


class _NarCheck:
    """The hash of all of it."""

    def __init__(self, expected: Hash) -> None:
        self._expected = expected
        self._digest = hashlib.new(expected.algorithm, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        """Add the next bytes of the NAR."""
        self._digest.update(data)

    def finish(self) -> None:
        """Raise `FormatError` when the hash is another one."""
        if self._digest.digest() != self._expected.digest:
            raise FormatError(_MISMATCH)


class _SelfReferenceCheck:
    """The hash modulo its own name, in one of the two forms that there are."""

    def __init__(self, expected: Hash, modulo: HashModulo) -> None:
        self._expected = expected
        self._modulo = modulo

    def update(self, data: bytes) -> None:
        """Add the next bytes of the NAR."""
        self._modulo.update(data)

    def finish(self) -> None:
        """Raise `FormatError` when neither form of the hash is the expected one."""
        if self._expected not in self._modulo.hashes():
            raise FormatError(_MISMATCH)


class _FileCheck:
    """The hash of the only file, for the methods `text` and `flat`."""

    def __init__(self, expected: Hash) -> None:
        self._expected = expected
        self._parser = Parser()
        self._digest = hashlib.new(expected.algorithm, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        """Add the next bytes of the NAR; raise `FormatError` when it is not that of one file."""
        for event in self._parser.feed(data):
            if isinstance(event, Contents):
                self._digest.update(event.data)
            elif not isinstance(event, Regular) or event.executable:
                raise FormatError("its content address is that of a file, and it is not one")

    def finish(self) -> None:
        """Raise `FormatError` when the NAR is incomplete, or the file has another hash."""
        self._parser.close()
        if self._digest.digest() != self._expected.digest:
            raise FormatError(_MISMATCH)
