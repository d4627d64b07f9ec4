"""Closures: paths and all that they refer to."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import StorePath


def references_first(infos: Mapping[StorePath, PathInfo]) -> Sequence[PathInfo]:
    """The paths in an order in which each comes after what it refers to; the same for the same paths.

    Nothing but a reference to itself makes a circle in a store. Where one does, in a store that is damaged, each of its
    paths comes once all the same.
    """
    ordered: dict[StorePath, PathInfo] = {}
    begun: set[StorePath] = set()
    for root in infos:
        # A closure is some hundred paths deep, too deep for Python's own stack.
        stack: list[tuple[StorePath, Iterator[StorePath]]] = []
        path: StorePath | None = root
        while path is not None or stack:
            if path is not None and path not in begun and path in infos:
                begun.add(path)
                stack.append((path, iter(infos[path].references)))
            if not stack:
                break
            top, references = stack[-1]
            path = next(references, None)
            if path is None:
                ordered[top] = infos[top]
                stack.pop()
    return list(ordered.values())


def roots_of(infos: Iterable[PathInfo]) -> set[StorePath]:
    """The paths that no other path among `infos` refers to: their closures have all the others."""
    referred: set[StorePath] = set()
    paths: set[StorePath] = set()
    for info in infos:
        paths.add(info.store_path)
        referred.update(path for path in info.references if path != info.store_path)
    return paths - referred
