"""The caches of a configuration: their sources, policies and keys."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.explore import Explorer
from harmonia_py.cache.policy import BuiltHere, ClosureOf, Policy, SignedBy
from harmonia_py.cache.source import Source
from harmonia_py.cache.tree import DebugFiles
from harmonia_py.config.settings import Config
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.store.files.derivations import Derivations
from harmonia_py.store.files.store_files import StoreFiles
from harmonia_py.store.index.allowed import AllowedPaths
from harmonia_py.store.index.debuginfo import StoreDebugFiles
from harmonia_py.store.index.explore import StoreExplorer
from harmonia_py.store.metadata import StoreMetadata
from harmonia_py.store.roots_file import read_roots_file
from harmonia_py.wiring.pools import Selection, owned

if TYPE_CHECKING:
    from harmonia_py.mirror.mirror import Mirror
    from harmonia_py.wiring.node import Node

_PathInfoOf = Callable[[HashPart], Awaitable[PathInfo | None]]


async def open_default_cache(
    node: "Node", config: Config, selection: Selection, sources: Sequence[Source], secret_keys: Sequence[SecretKey]
) -> tuple[BinaryCache, Explorer | None, DebugFiles | None]:
    """The cache at `/` over its sources, the explorer of its paths, and the finder of their debug information.

    Args:
        node: has the local store, the mirror and the policy, as far as there are any.
        config: has its settings.
        selection: opens and holds the things that it needs.
        sources: in the order in which they are asked.
        secret_keys: sign.
    """
    metadata, local, policy = node.metadata, node.local, node.policy
    explorer = files = debug_files = None
    if metadata is not None:
        # Searches and links of pages find only paths that the policy allows.
        served = metadata if policy is None else AllowedPaths(metadata, policy)
        settings = (metadata, policy, config.store_dir, config.real_store)
        explorer = await selection.get(
            "explorer", settings, owned(lambda: StoreExplorer(served, config.real_store), StoreExplorer.aclose)
        )
        files = await selection.get(
            "files",
            settings,
            owned(
                lambda: StoreFiles(
                    metadata=served, store_dir=config.store_dir, real_store=config.real_store, damaged=node.damaged
                ),
                StoreFiles.close,
            ),
        )
        debug_files = await selection.get(
            "debug files", settings, owned(lambda: StoreDebugFiles(served, config.real_store), StoreDebugFiles.aclose)
        )
    cache = BinaryCache(
        cache_info=CacheInfo(config.store_dir, config.want_mass_query, config.priority),
        sources=sources,
        secret_keys=secret_keys,
        files=files if config.serve_files else None,
        debug_files=debug_files,
        policy=policy,
        damaged=None if local is None else local.is_damaged,
        outputs_of=_outputs_of(config, metadata, node.mirror),
        # Not with a mirror: it may have paths that the store lacks.
        surely_lacks=local.lacks if local is not None and node.mirror is None and policy is None else None,
    )
    return cache, explorer, debug_files


async def open_policy(
    config: Config, selection: Selection, metadata: StoreMetadata | None, mirror: "Mirror | None"
) -> Policy | None:
    """The policy of the cache at `/`; None: it gives out everything."""
    table = config.policy
    path_info = _path_info_of(metadata, mirror)

    def closure_of_roots() -> ClosureOf:
        return ClosureOf(
            lambda: asyncio.to_thread(read_roots_file, table.roots, config.store_dir, config.real_store), path_info
        )

    if table.serve == "everything":
        return None
    if table.serve == "roots":
        settings = (table, config.store_dir, config.real_store, metadata, mirror)
        return await selection.get("policy", settings, owned(closure_of_roots, ClosureOf.aclose))
    make = BuiltHere if table.serve == "ultimate" else lambda: SignedBy(table.keys, config.store_dir)
    return await selection.get("policy", (table, config.store_dir), owned(make, lambda _: None))


def _path_info_of(metadata: StoreMetadata | None, mirror: "Mirror | None") -> _PathInfoOf:
    """Finds the path info of a path in any source, whether the path is served or not."""

    async def path_info(hash_part: HashPart) -> PathInfo | None:
        info = None if metadata is None else await metadata.path_info(hash_part)
        if info is not None or mirror is None:
            return info
        found = await mirror.narinfo(hash_part)
        return None if found is None else found.narinfo.path_info

    return path_info


def _outputs_of(
    config: Config, metadata: StoreMetadata | None, mirror: "Mirror | None"
) -> Callable[[HashPart], Awaitable[Sequence[StorePath]]]:
    """Finds the outputs of the derivation with a hash part, whether the derivation is served or not."""
    path_info, derivations = _path_info_of(metadata, mirror), Derivations(config.store_dir, config.real_store)

    async def outputs_of(hash_part: HashPart) -> Sequence[StorePath]:
        info = await path_info(hash_part)
        # For an absent path, or one that is no derivation, a file that is not there is read: it takes as long.
        path = StorePath(f"{hash_part}-absent.drv") if info is None else info.store_path
        return await derivations.outputs(path if path.is_derivation else StorePath(f"{path}.drv"))

    return outputs_of
