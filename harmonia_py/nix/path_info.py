"""`PathInfo`: the facts that a store has of a valid path.

Source: `src/libstore/path-info.cc` of Nix.
"""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from harmonia_py.nix.content_address import ContentAddress, UnknownContentAddress
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.signing import Signature
from harmonia_py.nix.store_path import StoreDir, StorePath

MAX_NAR_SIZE: Final = 2**63 - 1


class PathInfo(Struct, frozen=True, kw_only=True):
    """The facts a store keeps for a valid path; the first four are what a signature covers.

    Attributes:
        nar_hash: SHA-256 of the uncompressed NAR.
        nar_size: length of the uncompressed NAR in bytes.
        references: store paths it refers to, sorted, itself included when it does.
        deriver: the derivation that built it, if known.
        signatures: that parse; a store may hold arbitrary strings, which its adapter drops.
        ca: the content address, for a path that has one.
        registration_time: when the path became valid, in seconds since the epoch; 0 when unknown.
        ultimate: whether this store built the path itself.
    """

    store_path: StorePath
    nar_hash: Hash
    nar_size: int
    references: tuple[StorePath, ...] = ()
    deriver: StorePath | None = None
    signatures: tuple[Signature, ...] = ()
    ca: ContentAddress | UnknownContentAddress | None = None
    registration_time: int = 0
    ultimate: bool = False

    def fingerprint(self, store_dir: StoreDir) -> bytes:
        """The bytes a signature of this path signs.

        `1;<full path>;<nar hash>;<nar size>;<full paths of the references, sorted, joined by commas>`
        """
        references = ",".join([store_dir.join(reference) for reference in self.references])
        return f"1;{store_dir.join(self.store_path)};{self.nar_hash};{self.nar_size};{references}".encode()


def sorted_references(references: Iterable[StorePath]) -> tuple[StorePath, ...]:
    """`references` as `PathInfo` has them: sorted, each once."""
    return tuple(sorted(set(references)))
