"""The port `EvidenceOf`: the facts that a pushed narinfo is held against, asked for in one question."""

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from msgspec import Struct

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.nars import NarFile
from harmonia_py.catalog.objects import Publication, Published
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart, StorePath


class Evidence(Struct, frozen=True, kw_only=True):
    """The facts that a claim is held against.

    Attributes:
        file: the file that the claim names, or the one that the path is published with.
        findings: of its NAR, as `Nars.checked` was given them.
        paths: the paths in question that the cache has, also those that wait or are condemned.
    """

    file: NarFile
    findings: str
    paths: Mapping[HashPart, StorePath]


InQuestion = Callable[[str], Collection[HashPart]]
"""Gives the paths to look for, once the findings are known. It must not wait for anything."""
Judge = Callable[[Evidence], Publication | None]
"""Makes the publication that the evidence allows; None: more has to be known. It must not wait for anything."""


class EvidenceOf(Protocol):
    """Asks the catalog for the evidence of a claim."""

    async def find(self, cache: CacheId, file_hash: Hash, info: PathInfo, in_question: InQuestion) -> Evidence | None:
        """The evidence of a claim; None when its file is not here, or was not checked.

        A path that is published with the claimed NAR stands for a file that is gone. Of two clients that push a path at
        once, the second may bring another file, and a third may be told that this file is here. When the second finds
        the path published, its file goes, but what the third claims is true all the same.

        Args:
            cache: that is pushed to. Files that only other caches have do not count.
            file_hash: of the file that is claimed.
            info: what is claimed of the path.
            in_question: gives the paths to look for.

        Raises:
            StorageError: the catalog cannot tell.
        """

    async def publish(
        self, cache: CacheId, file_hash: Hash, info: PathInfo, in_question: InQuestion, judge: Judge, *, now: Timestamp
    ) -> Published | None:
        """`find`, and `Objects.publish` of what `judge` makes of it, in one transaction.

        None when there is no evidence, when it is long, so that other writers would wait for it, or when `judge` makes
        nothing of it. Raises what `judge` raises, and what the two do; then nothing is published.
        """
