"""The local store of a configuration, opened: its metadata and files, temporary roots, and a writer."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from harmonia_py.cache.checks import Check
from harmonia_py.cache.policy import Policy
from harmonia_py.config.settings import Config
from harmonia_py.nix.store_path import HashPart
from harmonia_py.store.daemon.daemon_metrics import DaemonMetrics
from harmonia_py.store.daemon.importing import DaemonWriter
from harmonia_py.store.daemon.store import DaemonStore
from harmonia_py.store.daemon.temp_roots import TempRoots
from harmonia_py.store.damaged import DamagedPaths, StoreCounters
from harmonia_py.store.index.allowed import AllowedPaths
from harmonia_py.store.local import LocalStore
from harmonia_py.store.look_ahead import Ahead
from harmonia_py.store.metadata import StoreMetadata
from harmonia_py.wiring.opening import Opening
from harmonia_py.wiring.pools import owned, running
from harmonia_py.wiring.store_choice import Way, may_read_database

if TYPE_CHECKING:
    from harmonia_py.store.sqlite import SqliteStore

# A hash part that no path has, to ask whether a store answers.
_ANY_HASH_PART: Final = HashPart.parse("0" * 32)


async def open_metadata(opening: Opening) -> tuple[StoreMetadata, Check]:
    """The metadata of the store, from the nix-daemon or Nix's database, and the check that it answers."""
    if opening.choice.way is not Way.DAEMON:
        database = await _open_database(opening)
        return database, Check("database", lambda: database.path_info(_ANY_HASH_PART))
    daemon = await _open_daemon(opening)
    check = Check("nix-daemon", lambda: daemon.path_info(_ANY_HASH_PART))
    if not may_read_database(opening.config) or opening.config.policy.serve != "everything":
        # Under a policy the daemon alone is asked: the database answers sooner for hidden paths than for absent ones.
        return daemon, check
    from harmonia_py.store.daemon_and_database import DaemonAndDatabase  # noqa: PLC0415  # as in `_open_database`

    database = await _open_database(opening)
    both = owned(lambda: DaemonAndDatabase(daemon, database), DaemonAndDatabase.aclose)
    return await opening.selection.get("daemon and database", (daemon, database), both), check


async def open_damaged_paths(opening: Opening) -> DamagedPaths:
    """The memory in which all workers note paths with missing or changed files."""
    metrics = opening.metrics
    board = metrics.board

    def make() -> DamagedPaths:
        return DamagedPaths(board.shared.row("damaged paths"), board.texts, StoreCounters.on(metrics))

    return await opening.selection.get("damaged paths", (), owned(make, lambda _: None))


async def open_local_store(
    opening: Opening, metadata: StoreMetadata, policy: Policy | None, damaged: DamagedPaths
) -> LocalStore:
    """The store as a source of the paths that `metadata` has and `policy` allows."""
    config, is_daemon = opening.config, opening.choice.way is Way.DAEMON
    # Without look-ahead under a policy: a denied path must not be answered sooner than an absent one.
    ahead = metadata if policy is None and isinstance(metadata, Ahead) else None
    roots = await open_temp_roots(opening, "temporary roots") if is_daemon else None

    def make() -> LocalStore:
        return LocalStore(
            # Denied paths are unknown here, so that their answer takes as long as that of absent ones.
            metadata=metadata if policy is None else AllowedPaths(metadata, policy),
            roots=roots,
            real_store=config.real_store,
            log_directory=config.log_directory,
            damaged=damaged,
            follows_names=policy is None,
            ahead=ahead,
        )

    settings = (metadata, policy, roots, config.real_store, config.log_directory, damaged)
    selection = opening.selection
    local = await selection.get("local store", settings, owned(make, LocalStore.close), idle=LocalStore.idle)
    await selection.get("first look at the local store", (local,), running(local.look_first))
    return local


async def open_temp_roots(opening: Opening, name: str) -> TempRoots:
    """A connection to the nix-daemon, called `name`, that protects paths from its garbage collection."""
    config = opening.config

    def make() -> TempRoots:
        return TempRoots(Path(config.daemon_socket), config.store_dir, request_timeout=config.daemon_timeout)

    return await opening.selection.get(name, daemon_settings(config), owned(make, TempRoots.aclose))


def make_writer(config: Config) -> DaemonWriter:
    """A connection to the nix-daemon that adds paths to its store."""
    return DaemonWriter(Path(config.daemon_socket), config.store_dir, request_timeout=config.daemon_timeout)


def daemon_settings(config: Config) -> tuple[object, ...]:
    """The settings that a connection to the nix-daemon depends on."""
    return (config.daemon_socket, config.store_dir, config.daemon_timeout)


async def _open_database(opening: Opening) -> "SqliteStore":
    # Here, so that no other server loads it.
    from harmonia_py.store.sqlite import SqliteStore  # noqa: PLC0415

    database, store_dir = opening.config.nix_database, opening.config.store_dir
    return await opening.selection.get(
        "database", (database, store_dir), owned(lambda: SqliteStore(database, store_dir), SqliteStore.aclose)
    )


async def _open_daemon(opening: Opening) -> DaemonStore:
    config = opening.config

    def make() -> DaemonStore:
        return DaemonStore(
            Path(config.daemon_socket),
            config.store_dir,
            connections=config.daemon_connections,
            request_timeout=config.daemon_timeout,
            metrics=DaemonMetrics.on(opening.metrics),
        )

    settings = (*daemon_settings(config), config.daemon_connections)
    return await opening.selection.get("daemon", settings, owned(make, DaemonStore.aclose))
