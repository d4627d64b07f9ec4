"""Promotion: closures of one cache published in another one. No bytes move, for caches share their files.

A promoted path is published as if it were pushed: its claims are held against the facts of its bytes, a signature is
required where the cache wants one, and the cache's own key signs it for readers.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from harmonia_py.catalog.objects import ObjectState, StoredObject
from harmonia_py.errors import PushConflict, PushRefused
from harmonia_py.nix.closure import references_first
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.push.pushes import Pushes
from harmonia_py.push.receiving import PushSession

MAX_PATHS: Final = 20_000
"""Paths that one request promotes: a system has two to five thousand."""

# Proxies wait for 60 seconds. After so many seconds no further path is begun; one is published in any case.
_ANSWER_SECONDS: Final = 20.0


class Promoted(Struct, frozen=True):
    """The result of a promotion.

    Attributes:
        published: paths that the cache did not have before, references first.
        present: how many of the roots it had already.
        first: paths that it has with another NAR, which stays.
        is_whole: whether all is published; otherwise the time was up, and the next promotion goes on from there.
    """

    published: Sequence[StorePath]
    present: int
    first: Sequence[StorePath]
    is_whole: bool = True


async def promote(
    source: Pushes,
    target: Pushes,
    session: PushSession,
    roots: Sequence[HashPart],
    *,
    goes_on: Callable[[], None] = lambda: None,
) -> Promoted:
    """Publish the closures of `roots`, which `source` has, in `target`.

    Nothing is published unless each reference is in one of the two caches. References are published first, so that a
    promotion that is cut can be made again; the audit log names what was published before the cut as well.

    Args:
        source: the cache that has them.
        target: the cache that is to have them.
        session: of the principal, in `target`.
        roots: paths to promote.
        goes_on: called before every path.

    Raises:
        PushConflict: one of `roots` is not in `source`, or a reference is in neither cache, or a file is lost.
        PushTooLarge: a NAR is larger than `target` takes; nothing is published.
        PushRefused: the paths are too many, or one does not carry the signature that `target` wants.
        QuotaExceeded: `target` is full.
        StorageError: the catalog cannot tell.
    """
    end = time.monotonic() + _ANSWER_SECONDS
    closure, present = await _closure(source, target, session, roots, goes_on)
    for stored in closure.values():
        target.adopting.check_nar_size(stored.path_info)
    await source.adopting.check_files([stored.file for stored in closure.values()])
    published: list[StorePath] = []
    first: list[StorePath] = []
    try:
        for stored in _references_first(closure):
            if (published or first) and time.monotonic() >= end:
                return Promoted(published, present, first, is_whole=False)
            goes_on()
            (published if await _adopt(target, session, stored) else first).append(stored.path_info.store_path)
    finally:
        if published:
            await target.adopting.note_promotion(session, source.cache.name, published)
    return Promoted(published, present, first)


def _references_first(closure: Mapping[StorePath, StoredObject]) -> Sequence[StoredObject]:
    infos = references_first({path: stored.path_info for path, stored in closure.items()})
    return [closure[info.store_path] for info in infos]


async def _adopt(target: Pushes, session: PushSession, stored: StoredObject) -> bool:
    """Publish one path; False when another NAR of it is there, which stays."""
    became = await target.adopting.adopt(session, stored)
    if became.state is ObjectState.WAITING:
        missing = ", ".join(sorted(became.missing))
        raise PushConflict(f"{stored.path_info.store_path} waits for {missing}, which went meanwhile: try again")
    return became.first is None


async def _closure(
    source: Pushes, target: Pushes, session: PushSession, roots: Sequence[HashPart], goes_on: Callable[[], None]
) -> tuple[dict[StorePath, StoredObject], int]:
    """The objects to publish, and how many of `roots` are in `target` already."""
    found: dict[StorePath, StoredObject] = {}
    looked_at, to_look_at = set(roots), [(root, True) for root in dict.fromkeys(roots)]
    present = 0
    while to_look_at:
        goes_on()
        hash_part, is_root = to_look_at.pop()
        there = await target.narinfo(session, hash_part)
        # A root becomes an object of the target's own, even if the target has it from elsewhere, where it may go.
        if there is not None and (not is_root or await target.stored(hash_part) is not None):
            present += is_root
            continue
        stored = await source.stored(hash_part)
        if stored is None:
            where = "the cache that it is promoted from" if is_root else "either cache, and a path refers to it"
            raise PushConflict(f"{hash_part} is not in {where}")
        found[stored.path_info.store_path] = stored
        if len(found) > MAX_PATHS:
            raise PushRefused(f"these are more than {MAX_PATHS} paths: promote what they refer to first")
        references = [path.hash_part for path in stored.path_info.references if path.hash_part not in looked_at]
        looked_at.update(references)
        to_look_at += [(reference, False) for reference in references]
    return found, present
