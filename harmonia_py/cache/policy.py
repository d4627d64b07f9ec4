"""The choice of store paths that a cache gives out: the port `Policy`, and the policies that can be configured.

The policy of a cache is asked before anything of a store path is shown, so that every URL says the same of it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from time import monotonic
from typing import Final, Protocol

from msgspec import Struct

from harmonia_py.cache.validity import ALWAYS, Validity
from harmonia_py.errors import HarmoniaError
from harmonia_py.nix.hashes import short_digest
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath
from harmonia_py.runtime.bounded import Bounded
from harmonia_py.runtime.tasks import end_task

_log = logging.getLogger(__name__)

# Verifying a signature takes a tenth of a millisecond; the facts about a path are asked for with every request.
_MAX_VERIFIED: Final = 10_000
# A root that is set now opens its closure after so many seconds, and one that is removed closes it.
ROOTS_SECONDS: Final = 60.0
# Some hundred bytes each. What is beyond is not served.
MAX_CLOSURE_PATHS: Final = 1_000_000


def stand_in_for(name: str) -> HashPart:
    """A hash part that no path has, another one for each `name`.

    Where a path would have to be asked for that is not there, this is asked for: what is denied and what is absent take
    the same questions.
    """
    return HashPart(short_digest(f"no path: {name}"))


class Policy(Protocol):
    """Decides which paths are served; raises a `HarmoniaError` when that cannot be told."""

    @property
    def validity(self) -> Validity | None:
        """The validity of its answers about one path info; None when they change without a sign."""

    async def allows(self, info: PathInfo) -> bool:
        """Whether this path is served."""

    async def allowed_names(self) -> Collection[StorePath] | None:
        """The paths that are served, whether they are here or not; None when their names alone do not tell."""


class SignedBy:
    """Only what one of `keys` has signed, under the name of that key."""

    validity: Validity | None = ALWAYS

    def __init__(self, keys: Iterable[PublicKey], store_dir: StoreDir) -> None:
        self._keys = tuple(keys)
        self._store_dir = store_dir
        self._verified: Bounded[PathInfo, bool] = Bounded(_MAX_VERIFIED)

    async def allows(self, info: PathInfo) -> bool:
        """Whether one of the keys has signed the path."""
        known = self._verified.get(info)
        if known is not None:
            return known
        message = info.fingerprint(self._store_dir)
        verified = any(key.verify(message, signature) for key in self._keys for signature in info.signatures)
        self._verified[info] = verified
        return verified

    async def allowed_names(self) -> Collection[StorePath] | None:
        """None: a name does not tell."""
        return None


class BuiltHere:
    """Only what this store has built itself: Nix's `ultimate`."""

    validity: Validity | None = ALWAYS

    async def allows(self, info: PathInfo) -> bool:
        """Whether the path was built here."""
        return info.ultimate

    async def allowed_names(self) -> Collection[StorePath] | None:
        """None: a name does not tell."""
        return None


class ClosureOf(Struct, eq=False):
    """Only some roots and what they refer to, directly or not.

    Attributes:
        read_roots: the roots at this time.
        path_info: the facts about a path; None for one that is not here.
        clock: seconds that only grow.
    """

    read_roots: Callable[[], Awaitable[Collection[StorePath]]]
    path_info: Callable[[HashPart], Awaitable[PathInfo | None]]
    clock: Callable[[], float] = monotonic
    _read_again: float = 0.0
    _reading: asyncio.Task[None] | None = None
    # The closure: what each path in it refers to. A path's references never change.
    _references: dict[StorePath, tuple[StorePath, ...]] | None = None
    # Roots are set and removed, and upstreams say something else, without a sign.
    validity: Validity | None = None

    async def aclose(self) -> None:
        """End all work under way."""
        await end_task(self._reading)

    async def allows(self, info: PathInfo) -> bool:
        """Whether the roots need the path."""
        return info.store_path in await self.allowed_names()

    async def allowed_names(self) -> Collection[StorePath]:
        """The closure of the roots; while they are read again, the closure of what they were before."""
        if self._reading is None and self.clock() >= self._read_again:
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(self._has_read)
        if self._references is None:
            assert self._reading is not None
            await asyncio.shield(self._reading)
        assert self._references is not None
        return self._references

    async def _read(self) -> None:
        known = self._references or {}
        closure: dict[StorePath, tuple[StorePath, ...]] = {}
        waiting = list(await self.read_roots())
        while waiting:
            path = waiting.pop()
            if path in closure:
                continue
            if len(closure) >= MAX_CLOSURE_PATHS:
                _log.error("the roots need more than %d paths; the others are not served", MAX_CLOSURE_PATHS)
                break
            references = known.get(path) or await self._references_of(path)
            closure[path] = references
            waiting += references
        self._references = closure

    async def _references_of(self, path: StorePath) -> tuple[StorePath, ...]:
        info = await self.path_info(path.hash_part)
        return info.references if info is not None and info.store_path == path else ()

    def _has_read(self, reading: asyncio.Task[None]) -> None:
        self._reading = None
        error = None if reading.cancelled() else reading.exception()
        if self._references is not None:
            self._read_again = self.clock() + ROOTS_SECONDS
            if isinstance(error, HarmoniaError):
                _log.warning("the roots of what is served cannot be read again: %s", error)
