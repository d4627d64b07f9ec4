"""A store's metadata as far as a policy allows: every path that is found through it may be served."""

from collections.abc import Sequence
from time import monotonic
from typing import Final

from harmonia_py.cache.policy import Policy, stand_in_for
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.store.metadata import StoreMetadata

# A path may be signed later than it came, and is then found by a search after so many seconds.
_DENIED_SECONDS: Final = 3600.0


class AllowedPaths:
    """A `StoreMetadata` with those paths of another one that a policy allows. The other one is not closed by it."""

    def __init__(self, metadata: StoreMetadata, policy: Policy) -> None:
        self._metadata = metadata
        self._policy = policy
        # Whether the policy allows each path that was looked at, and until when that is believed.
        self._decided: dict[StorePath, tuple[bool, float]] = {}

    async def path_info(self, hash_part: HashPart) -> PathInfo | None:
        """The facts about the valid path with this hash part; None when there is none, or the policy denies it."""
        info = await self._metadata.path_info(hash_part)
        return info if info is not None and await self._policy.allows(info) else None

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """The realisation of `output`; None when the store does not know it, or the policy denies its output path."""
        found = await self._metadata.realisation(output)
        # An absent path takes as many questions as a denied one.
        info = await self.path_info(stand_in_for(str(output)) if found is None else found.out_path.hash_part)
        return None if info is None else found

    async def all_paths(self) -> Sequence[StorePath]:
        """Every valid path that the policy allows. The first time, the store may be asked for the info of each path."""
        paths = await self._metadata.all_paths()
        names = await self._policy.allowed_names()
        if names is not None:
            return [path for path in paths if path in names]
        self._decided = {path: await self._decide(path) for path in paths}
        return [path for path, (allowed, _) in self._decided.items() if allowed]

    async def referrers(self, store_path: StorePath) -> Sequence[StorePath]:
        """The valid paths that refer to `store_path` and that the policy allows."""
        found = await self._metadata.referrers(store_path)
        return [path for path in found if await self.path_info(path.hash_part) is not None]

    async def aclose(self) -> None:
        """Nothing to give back."""

    async def _decide(self, path: StorePath) -> tuple[bool, float]:
        decided = self._decided.get(path)
        if decided is not None and (decided[0] or decided[1] > monotonic()):
            return decided
        return await self.path_info(path.hash_part) is not None, monotonic() + _DENIED_SECONDS
