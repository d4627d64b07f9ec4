"""The modules that only some configurations take, imported before the workers are forked.

A worker that imports the modules of the catalog and of kept files itself has 5 MB of its own for them. Imported before
the fork, they are shared by all workers, and their time is spent once.
"""

import hashlib
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Final

from harmonia_py.catalog.caches import CHUNKS
from harmonia_py.chunks.installed import check_installed
from harmonia_py.config.settings import Config
from harmonia_py.wiring.catalog import has_catalog, wants_catalog
from harmonia_py.wiring.store_choice import may_read_database

_SQLITE: Final = ("database.catalog", "database.sqlite")
_POSTGRESQL: Final = ("database.catalog", "database.postgresql.database")
_KEEPING: Final = (
    *(*_SQLITE, "database.chunk_work", "database.chunks", "database.collection", "database.documents"),
    *("database.file_checks", "database.garbage", "database.mirrored", "database.nars", "database.objects"),
    *("database.packs", "database.repairs", "database.uploads", "storage.disk", "wiring.kept_directory"),
)
_BUCKET: Final = ("storage.s3.blobs", "storage.s3.digests", "storage.s3.ranges")
_HOT: Final = "storage.s3.hot"
_COMPRESSING: Final = ("wiring.compressed",)
_MIRRORING: Final = ("mirror.of_upstreams", "wiring.importing", "wiring.mirror", "wiring.upstreams")
_OIDC: Final = ("wiring.oidc", "catalog.exchange")
_PUSHING: Final = (
    *("web.nix.push", "wiring.collecting", "wiring.deduplicating", "wiring.pushed_housekeeping", "wiring.pushing"),
    "wiring.scrubbing",
)


def check_libraries(config: Config) -> None:
    """Look for the library that only a server with chunks needs.

    Raises:
        ConfigError: it is not installed.
    """
    has_chunks = any(table.deduplicate == CHUNKS for table in config.caches.values())
    if has_chunks or (config.upstream and config.mirror.deduplicate == CHUNKS):
        check_installed()


def import_parts(config: Config) -> None:
    """Import the modules that a server with `config` needs beside the local store, and no others."""
    for name in _parts_of(config):
        import_module(f"harmonia_py.{name}")
    # What OpenSSL makes for the first digest serves all later ones, and takes each worker 0.1 MB otherwise.
    hashlib.sha256()


def _parts_of(config: Config) -> Iterator[str]:
    if may_read_database(config) and config.policy.serve == "everything":
        yield "store.daemon_and_database"
    if config.compression != "none" or config.upstream:
        yield from _KEEPING
        if config.storage.keep_in_bucket == "everything":
            yield from (*_bucket(config), "storage.s3.own_prefix")
    if config.compression != "none":
        yield from _COMPRESSING
    if config.upstream:
        yield from _MIRRORING
    if config.oidc:
        yield from _OIDC
    if wants_catalog(config) or has_catalog(config):
        yield from _SQLITE if config.database.url is None else _POSTGRESQL
        yield from _ports()
        yield from _PUSHING
        if config.storage.url is not None:
            yield from (*_bucket(config), "storage.s3.uploads")
        if config.default_cache is not None and config.default_cache.into == "store":
            yield "wiring.importing"


def _ports() -> Iterator[str]:
    """All ports of a catalog, each of which is otherwise imported when it is first asked for."""
    from harmonia_py.database.catalog import port_modules  # noqa: PLC0415  # a server that keeps nothing has no database

    return (f"database.{name}" for name in port_modules())


def _bucket(config: Config) -> Sequence[str]:
    return _BUCKET if config.storage.hot_max_size is None else (*_BUCKET, _HOT)
