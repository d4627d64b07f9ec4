"""Closures: paths and all that they refer to."""

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import StorePath

Key = TypeVar("Key", bound=Hashable)


def references_first(infos: Mapping[StorePath, PathInfo]) -> Sequence[PathInfo]:
    """The paths in an order in which each comes after what it refers to; the same for the same paths."""
    return [infos[path] for path in in_order(infos, lambda path: infos[path].references)]


def in_order(keys: Collection[Key], references: Callable[[Key], Iterable[Key]]) -> Iterator[Key]:
    """The keys of paths in an order in which each comes after those that `references` gives for it.

    Nothing but a reference to itself makes a circle in a store. Where one does, in a store that is damaged, each of its
    paths comes once all the same.
    """
    begun: set[Key] = set()
    for root in keys:
        if root in begun:
            continue
        begun.add(root)
        # A closure is some hundred paths deep, too deep for Python's own stack.
        stack = [(root, iter(references(root)))]
        while stack:
            top, following = stack[-1]
            for key in following:
                if key not in begun and key in keys:
                    begun.add(key)
                    stack.append((key, iter(references(key))))
                    break
            else:
                yield top
                stack.pop()


def roots_of(infos: Iterable[PathInfo]) -> set[StorePath]:
    """The paths that no other path among `infos` refers to: their closures have all the others."""
    referred: set[StorePath] = set()
    paths: set[StorePath] = set()
    for info in infos:
        paths.add(info.store_path)
        referred.update(path for path in info.references if path != info.store_path)
    return paths - referred
