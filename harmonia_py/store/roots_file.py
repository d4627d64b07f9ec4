"""Roots that an administrator names: store paths, links to them such as profiles, and directories of such links."""

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from harmonia_py.errors import FormatError
from harmonia_py.nix.store_path import StoreDir, StorePath

_log = logging.getLogger(__name__)

# As many links as Linux follows.
_MAX_LINKS: Final = 40
# Of one directory and all below it.
_MAX_ENTRIES: Final = 100_000


def read_roots_file(places: Iterable[str], store_dir: StoreDir, real_store: Path) -> frozenset[StorePath]:
    """The store paths that `places` lead to. A place that leads nowhere is warned of: the others count."""
    found: set[StorePath] = set()
    for place in places:
        roots = set(_roots_of(place, store_dir, real_store))
        if not roots:
            _log.warning("policy.roots: %s: leads to no store path", place)
        found |= roots
    return frozenset(found)


def _roots_of(place: str, store_dir: StoreDir, real_store: Path) -> Iterator[StorePath]:
    root = _follow(place, store_dir, real_store)
    if root is not None:
        yield root
    elif Path(place).is_dir() and not Path(place).is_symlink():
        count = 0
        for directory, names, files in os.walk(place):
            for name in [*names, *files]:
                count += 1
                if count > _MAX_ENTRIES:
                    _log.warning("policy.roots: %s: has more than %d entries", place, _MAX_ENTRIES)
                    return
                entry = Path(directory, name)
                if entry.is_symlink() and (root := _follow(str(entry), store_dir, real_store)) is not None:
                    yield root


def _follow(place: str, store_dir: StoreDir, real_store: Path) -> StorePath | None:
    """The store path that `place` is or leads to, by the names that the store is known under."""
    for _ in range(_MAX_LINKS):
        for store in (str(store_dir), str(real_store)):
            if place.startswith(f"{store}/"):
                return _parse(place.removeprefix(f"{store}/").partition("/")[0])
        try:
            target = str(Path(place).readlink())
        except OSError:  # no link, or nothing at all
            break
        place = os.path.normpath(Path(place).parent / target)
    # A directory on the way may have been a link.
    try:
        resolved, real = Path(place).resolve(), real_store.resolve()
    except (OSError, RuntimeError):  # a link that leads to itself
        return None
    return _parse(resolved.relative_to(real).parts[0]) if real in resolved.parents else None


def _parse(name: str) -> StorePath | None:
    try:
        return StorePath.parse(name)
    except FormatError:
        return None
