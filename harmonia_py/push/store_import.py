"""Paths that are pushed to `/`, added to the local store: `[caches.default] into = "store"`.

The nix-daemon decides what it trusts, by its own `trusted-public-keys`. A path goes to it once all its references are
valid, with the signatures that it came with and with ours. Paths that a push was told are in the store, or that it
relies on, are protected from the garbage collector for an hour.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from msgspec import Struct, field

from harmonia_py.cache.store_writer import SignatureRefused, StoreWriter, for_store
from harmonia_py.catalog.nars import NarFile
from harmonia_py.contents.blobs import Blob
from harmonia_py.contents.verified_nar import verified_nar
from harmonia_py.errors import PushConflict, PushRefused, StorageError
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath
from harmonia_py.runtime.tasks import retrieve
from harmonia_py.runtime.threads import Pool, Threads

# From the push of the first path of a closure to that of the last one.
_HOLD_SECONDS: Final = 3600.0

_Result = TypeVar("_Result")

Protect = Callable[[StorePath], Awaitable[Callable[[], None] | None]]
"""Keeps a path from the garbage collector; returns a function that ends this, or None when the path is not valid."""


class HeldPaths(Struct, frozen=True, eq=False):
    """Paths of the local store that pushes rely on, each protected for an hour after it was last asked for.

    Attributes:
        protect: keeps a path from the garbage collector.
    """

    protect: Protect
    _held: dict[StorePath, tuple[Callable[[], None], asyncio.TimerHandle]] = {}

    async def hold(self, store_path: StorePath) -> bool:
        """Whether the path is valid; if so it is protected from now on.

        Raises:
            DaemonError: the nix-daemon cannot tell.
        """
        release = await self.protect(store_path)
        if release is None:
            return False
        self._let_go(store_path)
        timer = asyncio.get_running_loop().call_later(_HOLD_SECONDS, self._let_go, store_path)
        self._held[store_path] = release, timer
        return True

    def close(self) -> None:
        """End all protection."""
        for store_path in list(self._held):
            self._let_go(store_path)

    def _let_go(self, store_path: StorePath) -> None:
        held = self._held.pop(store_path, None)
        if held is not None:
            release, timer = held
            timer.cancel()
            release()


class StoreImport(Struct, frozen=True, eq=False):
    """Adds paths to the local store.

    Attributes:
        store: takes them.
        held: protects paths that pushes rely on.
        store_dir: of the store.
        secret_keys: sign the paths.
    """

    store: StoreWriter
    held: HeldPaths
    store_dir: StoreDir
    secret_keys: Sequence[SecretKey]
    _threads: Threads = field(default_factory=lambda: Threads(Pool.STORE_IMPORT))
    # One lock a path: of two clients that push it at once, the second finds it there.
    _turns: WeakValueDictionary[StorePath, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    _going_on: set[asyncio.Task[Any]] = set()

    async def has(self, store_path: StorePath) -> bool:
        """Whether the local store has the path; if so it stays for an hour.

        Raises:
            DaemonError: the nix-daemon cannot tell.
        """
        return await self.held.hold(store_path)

    async def missing(self, info: PathInfo) -> frozenset[HashPart]:
        """The references that the local store lacks; the others stay for an hour.

        Raises:
            DaemonError: the nix-daemon cannot tell.
        """
        others = [path for path in info.references if path != info.store_path]
        return frozenset([path.hash_part for path in others if not await self.held.hold(path)])

    async def to_its_end(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """The result of `work`, which goes on if the client leaves or gets no answer in time.

        Raises:
            StorageError: this was closed before the end.
        """
        task = asyncio.create_task(work)
        self._going_on.add(task)
        task.add_done_callback(self._going_on.discard)
        task.add_done_callback(retrieve)  # when the client has left
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if task.cancelled() and (caller is None or not caller.cancelling()):
                # The caller would take it for its own end, and be over without a word.
                raise StorageError("it was given up when the settings changed or the server ended") from None
            raise

    async def add(self, info: PathInfo, file: NarFile, blob: Blob) -> bool:
        """Add a path whose references are all there; False when the store has it already, with whatever NAR.

        Args:
            info: of the path; what it claims has been checked.
            file: of its NAR.
            blob: the opened file; this call releases it.

        Raises:
            PushConflict: the path was collected at once.
            PushRefused: the nix-daemon trusts no key that has signed it.
            DaemonError: the nix-daemon cannot be reached, or refuses the path for another reason.
        """
        with blob:
            async with self._turns.setdefault(info.store_path, asyncio.Lock()):
                return await self._add(info, file, blob)

    async def idle(self) -> None:
        """Wait until nothing is being added."""
        while self._going_on:
            await asyncio.wait(self._going_on)

    async def aclose(self) -> None:
        """Give up what is being added."""
        going_on = list(self._going_on)
        for task in going_on:
            task.cancel()
        await asyncio.gather(*going_on, return_exceptions=True)
        self.held.close()
        await self._threads.aclose()

    async def _add(self, info: PathInfo, file: NarFile, blob: Blob) -> bool:
        if await self.held.hold(info.store_path):
            return False
        signed = for_store(info, self.secret_keys, self.store_dir)
        claims = info, file.compression, file.file_hash, file.file_size
        try:
            async with aclosing(verified_nar(blob, *claims, threads=self._threads)) as nar:
                await self.store.add(signed, nar)
        except SignatureRefused:
            names = ", ".join(sorted({signature.key_name for signature in signed.signatures})) or "(none)"
            raise PushRefused(
                f"Sig: the nix-daemon of this machine trusts none of the keys that have signed {info.store_path}: "
                f"{names}. Sign it with a key that it trusts, or let trusted-public-keys in its nix.conf name one"
            ) from None
        if not await self.held.hold(info.store_path):
            raise PushConflict(f"{info.store_path} was collected at this moment: run the same command again")
        return True
