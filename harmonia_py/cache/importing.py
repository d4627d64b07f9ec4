"""What a mirror keeps, added to the store of this machine as well, behind the backs of its clients.

A kept NAR is read once more, held against its hashes and parsed by ourselves before the store sees a byte of it: older
versions of Nix can be harmed by an archive (CVE-2024-45593, CVE-2026-44028). It goes with the signatures of its
upstream and with ours; whether they are worth anything is for the store to decide. Of all processes one at a time
imports a path.

Whatever is not imported is served as before, from what is kept. What is wanted is remembered in memory alone; a path
that was forgotten is wanted again when it is next asked for.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from harmonia_py.cache.blobs import Blob, BlobKey
from harmonia_py.cache.compressing import SliceReader
from harmonia_py.cache.import_figures import ImportCounters
from harmonia_py.cache.import_queue import ImportQueue
from harmonia_py.cache.kept import KeptFiles, NotKept, key_of
from harmonia_py.cache.remembered import NarinfoMemory, Remembered
from harmonia_py.cache.source import FileSlice
from harmonia_py.cache.store_writer import SignatureRefused, StoreWriter
from harmonia_py.cache.threads import in_thread
from harmonia_py.cache.trust import rests_on_contents
from harmonia_py.cache.unpack import NarCheck
from harmonia_py.errors import DaemonProtocolError, DaemonRefused, DaemonUnreachable, HarmoniaError
from harmonia_py.nix.nar_parser import Parser
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import HashPart, StoreDir

_log = logging.getLogger(__name__)

_BUFFER_BYTES: Final = 256 * 1024
# Parsing is done in Python: of many small files a megabyte takes long, and others wait for the interpreter meanwhile.
_PARSED_BYTES: Final = 32 * 1024
# A path that is valid may be collected, and be wanted again.
_VALID_SECONDS: Final = 600.0
# A file that has rotted, a store that is full: somebody mends it, or nobody does.
_FAILED_SECONDS: Final = 600.0
# The daemon reads all of a NAR before it says no: what it says of one may be what it would say of all.
_REFUSED_SECONDS: Final = 2.0
# Another process is at it, and tells nobody how it went.
_ELSEWHERE_SECONDS: Final = 30.0
# Keys that the store does not trust: its administrator may have changed that meanwhile.
_UNTRUSTED_SECONDS: Final = 3600.0
# Anybody can write names of keys into a narinfo.
_MAX_UNTRUSTED: Final = 64
# The log need not repeat more often what is wrong.
_SAY_SECONDS: Final = 60.0


def _nothing() -> None:
    return


class Importing:
    """One path after the other, in the background.

    Args:
        kept: where files are kept.
        memory: of what upstreams said of them.
        store: takes the paths.
        read: reads slices of files.
        store_dir: of the store.
        secret_keys: each adds its signature.
        counters: what is counted; nobody else sees it unless it is given.
        prepare_thread: called first in the thread that reads.
    """

    def __init__(
        self,
        kept: KeptFiles,
        memory: NarinfoMemory,
        store: StoreWriter,
        read: SliceReader,
        *,
        store_dir: StoreDir,
        secret_keys: Sequence[SecretKey] = (),
        counters: ImportCounters | None = None,
        prepare_thread: Callable[[], None] = _nothing,
    ) -> None:
        self._kept = kept
        self._memory = memory
        self._store = store
        self._read = read
        self._store_dir = store_dir
        self._secret_keys = tuple(secret_keys)
        self.counters = counters or ImportCounters()
        self._threads = ThreadPoolExecutor(1, "import", initializer=prepare_thread)
        self._queue = ImportQueue()
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._untrusted: dict[frozenset[str], float] = {}
        self._silent_until = 0.0
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(_tell)

    def want(self, hash_part: HashPart) -> None:
        """Import the path when it is kept, once everything that it refers to is valid."""
        if self._queue.want(hash_part, time.monotonic()):
            self.counters.queued.set(len(self._queue))
            self._idle.clear()
            self._wanted.set()

    async def idle(self) -> None:
        """Wait until nothing is left that could be imported now."""
        await self._idle.wait()

    async def aclose(self) -> None:
        """Give up what is being imported."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self.counters.queued.set(0)
        await asyncio.to_thread(self._threads.shutdown)

    async def _run(self) -> None:
        while True:
            self._wanted.clear()
            hash_part = self._queue.next(time.monotonic())
            if hash_part is not None:
                await self._import(hash_part)
                self.counters.queued.set(len(self._queue))
                continue
            self._idle.set()
            await self._sleep(self._queue.seconds_to_next(time.monotonic()))

    async def _sleep(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wanted.wait()
        except TimeoutError:
            self._idle.clear()

    async def _import(self, hash_part: HashPart) -> None:
        """Import the current path of the queue, or say what becomes of it."""
        try:
            entry = await self._memory.find(hash_part)
            if entry is not None:
                await self._memory.look(entry)
                entry = replace(entry)  # as it is now, whoever looks again meanwhile
            if entry is None or entry.facts is None:
                self._queue.drop()
                return
            await self._import_kept(entry)
        except (NotKept, DaemonUnreachable, DaemonProtocolError) as error:
            # The daemon is being restarted, or the disk rests.
            if not isinstance(error, NotKept):
                self._say(f"nothing is imported for now: {error}")
            self._wait(())
        except HarmoniaError as error:
            self._say(f"{hash_part}: not imported: {error}")
            self.counters.failed.add()
            self._decide(_FAILED_SECONDS)
            if isinstance(error, DaemonRefused):
                await asyncio.sleep(_REFUSED_SECONDS)

    async def _import_kept(self, entry: Remembered) -> None:
        info = self._signed(entry.narinfo.path_info)
        if self._is_untrusted(info):
            self.counters.untrusted.add()
            self._decide(_UNTRUSTED_SECONDS)
            return
        missing = await self._store.missing({info.store_path, *info.references})
        if info.store_path not in missing:
            self._decide(_VALID_SECONDS, valid=True)
            return
        references = [path.hash_part for path in info.references if path in missing and path != info.store_path]
        if references:
            self._wait(references)
            return
        try:
            added = await self._add(entry, info)
        except SignatureRefused:
            self._distrust(info)
            return
        if added:
            self._untrusted.pop(_key_names(info), None)
            self.counters.imported.add()
            self._decide(_VALID_SECONDS, valid=True)

    async def _add(self, entry: Remembered, info: PathInfo) -> bool:
        """Whether it was added; False when it is not for us to do."""
        # A file that is begun and never finished is a lock over all processes, which ends with its holder.
        claim = await self._kept.put(BlobKey(f"{info.store_path.hash_part}.import"), 0)
        if claim is None:
            self._decide(_ELSEWHERE_SECONDS)
            return False
        try:
            if not await self._store.missing([info.store_path]):  # another process had the lock until now
                self._decide(_VALID_SECONDS, valid=True)
                return False
            blob = await self._kept.open(key_of(entry.url))
            if blob is None or blob.size is None:  # re-coded or evicted at this moment
                if blob is not None:
                    blob.release()
                self._wait(())
                return False
            with blob:
                async with aclosing(self._nar(blob, entry)) as nar:
                    await self._store.add(info, nar)
            return True
        finally:
            await asyncio.shield(asyncio.to_thread(claim.abort))

    async def _nar(self, blob: Blob, entry: Remembered) -> AsyncGenerator[bytes, None]:
        portions = verified_nar(blob, entry, self._read)
        while portion := await in_thread(self._threads, next, portions, b""):
            yield portion

    def _signed(self, info: PathInfo) -> PathInfo:
        """The path info as it is sent: what the store says of itself is not the upstream's to say."""
        message = info.fingerprint(self._store_dir)
        # As in what is served: with ours, a NarHash would be believed without the address that it is held against.
        keys = () if rests_on_contents(info, self._store_dir) else self._secret_keys
        ours = {key.sign(message) for key in keys}
        signatures = tuple(sorted({*info.signatures, *ours}))
        return replace(info, signatures=signatures, registration_time=0, ultimate=False)

    def _is_untrusted(self, info: PathInfo) -> bool:
        return info.ca is None and self._untrusted.get(_key_names(info), 0.0) > time.monotonic()

    def _distrust(self, info: PathInfo) -> None:
        names = _key_names(info)
        now = time.monotonic()
        if names not in self._untrusted:
            self._say(
                f"{info.store_path}: not imported, nor is anything else that only these keys have signed: "
                f"{', '.join(sorted(names)) or '(none)'}. The nix-daemon trusts none of them: add the public half of "
                "one to trusted-public-keys in nix.conf, restart the nix-daemon, and reload"
            )
        while len(self._untrusted) >= _MAX_UNTRUSTED:
            del self._untrusted[next(iter(self._untrusted))]
        self._untrusted[names] = now + _UNTRUSTED_SECONDS
        self.counters.untrusted.add()
        self._decide(_UNTRUSTED_SECONDS)

    def _decide(self, seconds: float, *, valid: bool = False) -> None:
        self._queue.decide(time.monotonic(), seconds, valid=valid)

    def _wait(self, references: Sequence[HashPart]) -> None:
        if not self._queue.wait(references, time.monotonic()):
            self.counters.incomplete.add()
        for reference in references:
            self.want(reference)

    def _say(self, message: str) -> None:
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + _SAY_SECONDS
            _log.warning("%s", message)


def verified_nar(blob: Blob, entry: Remembered, read: SliceReader) -> Iterator[bytes]:
    """The NAR in a kept file. The last bytes come when all of it has proved right: before, it is no whole NAR.

    Blocks; a thread draws it.

    Raises:
        FormatError: it is not what was kept, or a NAR that is not to be had.
        StorageError: the file cannot be read.
    """
    assert entry.facts is not None
    info, facts, parser = entry.narinfo.path_info, entry.facts, Parser()
    check = NarCheck(info, entry.compression, facts.file_hash, facts.file_size, "none")
    held, buffer = b"", bytearray(_BUFFER_BYTES)
    for piece in blob.pieces(0, None):
        assert isinstance(piece, FileSlice)
        for data in read(piece, buffer):
            for portion in check.portions(bytes(data)):
                for start in range(0, len(portion), _PARSED_BYTES):
                    parser.feed(portion[start : start + _PARSED_BYTES])
                    time.sleep(0)
                if held:
                    yield held
                held = portion
    held += check.finish()
    parser.close()
    yield held


def _tell(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        _log.error("nothing is imported any more", exc_info=error)


def _key_names(info: PathInfo) -> frozenset[str]:
    return frozenset(signature.key_name for signature in info.signatures)
