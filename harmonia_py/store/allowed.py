"""A store's metadata as far as a policy allows: whatever is found through it is served."""

from collections.abc import Sequence
from time import monotonic
from typing import Final

from harmonia_py.cache.policy import Policy
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.store.metadata import StoreMetadata

# A path may be signed later than it came, and is then found by a search after so many seconds.
_DENIED_SECONDS: Final = 3600.0


class AllowedPaths:
    """A `StoreMetadata` with a part of the paths of another one, to which it does not belong."""

    def __init__(self, metadata: StoreMetadata, policy: Policy) -> None:
        self._metadata = metadata
        self._policy = policy
        # What was decided of every path, and until when.
        self._decided: dict[StorePath, tuple[bool, float]] = {}

    async def path_info(self, hash_part: HashPart) -> PathInfo | None:
        """See `StoreMetadata`."""
        info = await self._metadata.path_info(hash_part)
        return info if info is not None and await self._policy.allows(info) else None

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """See `StoreMetadata`."""
        found = await self._metadata.realisation(output)
        return found if found is not None and await self.path_info(found.out_path.hash_part) is not None else None

    async def all_paths(self) -> Sequence[StorePath]:
        """See `StoreMetadata`. The first time, each path may have to be asked for."""
        paths = await self._metadata.all_paths()
        names = await self._policy.allowed_names()
        if names is not None:
            return [path for path in paths if path in names]
        self._decided = {path: await self._decide(path) for path in paths}
        return [path for path, (allowed, _) in self._decided.items() if allowed]

    async def referrers(self, store_path: StorePath) -> Sequence[StorePath]:
        """See `StoreMetadata`."""
        found = await self._metadata.referrers(store_path)
        return [path for path in found if await self.path_info(path.hash_part) is not None]

    async def aclose(self) -> None:
        """Nothing to give back."""

    async def _decide(self, path: StorePath) -> tuple[bool, float]:
        decided = self._decided.get(path)
        if decided is not None and (decided[0] or decided[1] > monotonic()):
            return decided
        return await self.path_info(path.hash_part) is not None, monotonic() + _DENIED_SECONDS
