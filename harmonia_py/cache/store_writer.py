"""The port `StoreWriter`: a store that takes paths."""

from collections.abc import AsyncIterator, Iterable
from typing import Protocol

from msgspec.structs import replace

from harmonia_py.errors import DaemonRefused
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.signing import SecretKey, with_signatures
from harmonia_py.nix.store_path import StoreDir, StorePath


class SignatureRefused(DaemonRefused):
    """The store trusts none of the keys that vouch for a path."""


class StoreWriter(Protocol):
    """A store of this machine. Its methods raise `DaemonError` when it cannot tell or does not want to."""

    async def missing(self, store_paths: Iterable[StorePath]) -> set[StorePath]:
        """The paths that are not valid at this moment."""

    async def add(self, path_info: PathInfo, nar: AsyncIterator[bytes]) -> None:
        """Add a path with its NAR, which is taken as fast as the store can; nothing happens when it is valid already.

        What `nar` raises gives the path up. It is protected from the garbage collector for a minute at most.

        Raises:
            SignatureRefused: no key that the store trusts has signed it, and it is not content-addressed.
        """


def for_store(info: PathInfo, keys: Iterable[SecretKey], store_dir: StoreDir) -> PathInfo:
    """A path info for a store: signed with these keys too, and without what only a store says of its own paths."""
    signatures = with_signatures(info.signatures, keys, info.fingerprint(store_dir))
    return replace(info, signatures=signatures, registration_time=0, ultimate=False)
