"""Kept paths of a mirror added to the store of this machine, in the background.

A kept NAR is read once more, held against its hashes and parsed by ourselves before the store sees a byte of it: older
versions of Nix can be harmed by an archive (CVE-2024-45593, CVE-2026-44028). It goes with the signatures of its
upstream and with ours; the store decides which signatures it trusts. Of all processes one at a time imports a path.

A path that is not imported is served as before, from the kept file. The queue is in memory alone: a path that was
forgotten is wanted again when it is next asked for.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

from msgspec.structs import replace

from harmonia_py.cache.source import Download
from harmonia_py.cache.store_writer import SignatureRefused, StoreWriter, for_store
from harmonia_py.cache.trust import rests_on_contents
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.kept_files import key_of
from harmonia_py.contents.storage import NotKept, Storage
from harmonia_py.contents.verified_nar import verified_nar
from harmonia_py.errors import DaemonProtocolError, DaemonRefused, DaemonUnreachable, HarmoniaError
from harmonia_py.mirror.import_metrics import ImportCounters
from harmonia_py.mirror.import_queue import ImportQueue
from harmonia_py.mirror.indexed_narinfo import IndexedNarInfo
from harmonia_py.mirror.narinfo_index import NarinfoIndex
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import HashPart, StoreDir
from harmonia_py.runtime.bounded import TimedSet
from harmonia_py.runtime.tasks import end_task
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.runtime.warnings import RareWarning

_log = logging.getLogger(__name__)

# How long a valid path is not looked at again: it may be collected, and be wanted again.
_VALID_SECONDS: Final = 600.0
# A rotten file, a full store: it takes an administrator to mend that.
_FAILED_SECONDS: Final = 600.0
# A pause after a refusal: the daemon reads all of a NAR before it refuses, and may refuse every one.
_REFUSED_SECONDS: Final = 2.0
# How long a path is left to another process, which does not say how its import ends.
_ELSEWHERE_SECONDS: Final = 30.0
# Keys that the store does not trust: its administrator may have changed that meanwhile.
_UNTRUSTED_SECONDS: Final = 3600.0
# An upstream can write any names of keys into a narinfo.
_MAX_UNTRUSTED: Final = 64


class Importing:
    """Imports one path after the other, in the background.

    Args:
        storage: where files are kept.
        index: has the narinfos of upstreams.
        store: takes the paths.
        made: opens files that are made of chunks; None for any other.
        store_dir: of the store.
        secret_keys: sign the paths.
        counters: of imports; None: counted, not exported.
    """

    def __init__(
        self,
        storage: Storage,
        index: NarinfoIndex,
        store: StoreWriter,
        *,
        made: Callable[[BlobKey], Awaitable[Download | None]],
        store_dir: StoreDir,
        secret_keys: Sequence[SecretKey] = (),
        counters: ImportCounters | None = None,
    ) -> None:
        self._storage = storage
        self._made = made
        self._index = index
        self._store = store
        self._store_dir = store_dir
        self._secret_keys = tuple(secret_keys)
        self.counters = counters or ImportCounters()
        self._threads = Threads(Pool.IMPORT)
        self._queue = ImportQueue()
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._untrusted: TimedSet[frozenset[str]] = TimedSet(_MAX_UNTRUSTED)
        self._warning = RareWarning(_log)
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(_tell)

    def want(self, hash_part: HashPart) -> None:
        """Import a path if its NAR is kept, once all of its references are valid."""
        if self._queue.want(hash_part, time.monotonic()):
            self.counters.queued.set(len(self._queue))
            self._idle.clear()
            self._wanted.set()

    def reconsider(self) -> None:
        """Forget which paths were decided and which keys the nix-daemon does not trust: both may have changed."""
        self._queue.reconsider()
        self._untrusted.clear()

    async def idle(self) -> None:
        """Wait until no path is left that could be imported now."""
        await self._idle.wait()

    async def aclose(self) -> None:
        """Give up the import that goes on, and the queue."""
        await end_task(self._task)
        self.counters.queued.set(0)
        await self._threads.aclose()

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
        """Import the current path of the queue, or decide about it."""
        try:
            entry = await self._index.find(hash_part)
            if entry is not None:
                await self._index.look(entry)
                entry = replace(entry)  # a copy: a request may look again meanwhile, and change the entry
            if entry is None or entry.facts is None:
                self._queue.drop()
                return
            await self._import_kept(entry)
        except (NotKept, DaemonUnreachable, DaemonProtocolError) as error:
            # The daemon is being restarted, or the storage is left alone after a failure.
            if not isinstance(error, NotKept):
                self._warning.say("nothing is imported for now: %s", error)
            self._wait(())
        except HarmoniaError as error:
            self._warning.say("%s: not imported: %s", hash_part, error)
            self.counters.failed.add()
            self._decide(_FAILED_SECONDS)
            if isinstance(error, DaemonRefused):
                await asyncio.sleep(_REFUSED_SECONDS)

    async def _import_kept(self, entry: IndexedNarInfo) -> None:
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

    async def _add(self, entry: IndexedNarInfo, info: PathInfo) -> bool:
        """Add a path; False when another process adds it, or has."""
        # A file in the spool that is never finished is a lock over all processes, which ends with its holder.
        claim = await self._storage.begin(BlobKey(f"{info.store_path.hash_part}.import"), 0)
        if claim is None:
            self._decide(_ELSEWHERE_SECONDS)
            return False
        try:
            if not await self._store.missing([info.store_path]):  # another process had the lock until now
                self._decide(_VALID_SECONDS, valid=True)
                return False
            file = await self._storage.open(key_of(entry.url)) or await self._made(key_of(entry.url))
            if file is None:  # re-coded or evicted at this moment
                self._wait(())
                return False
            facts = entry.facts
            assert facts is not None
            claims = entry.narinfo.path_info, entry.compression, facts.file_hash, facts.file_size
            with file:
                async with aclosing(verified_nar(file, *claims, threads=self._threads)) as nar:
                    await self._store.add(info, nar)
            return True
        finally:
            await asyncio.shield(asyncio.to_thread(claim.close))

    def _signed(self, info: PathInfo) -> PathInfo:
        # As in narinfos: with our signature the store would believe a NarHash without checking the content address.
        keys = () if rests_on_contents(info, self._store_dir) else self._secret_keys
        return for_store(info, keys, self._store_dir)

    def _is_untrusted(self, info: PathInfo) -> bool:
        return info.ca is None and self._untrusted.holds(_key_names(info))

    def _distrust(self, info: PathInfo) -> None:
        names = _key_names(info)
        if names not in self._untrusted:
            self._warning.say(
                "%s: not imported, nor is anything else that only these keys have signed: %s. The nix-daemon "
                "trusts none of them: add the public half of one to trusted-public-keys in nix.conf, restart the "
                "nix-daemon, and reload",
                info.store_path,
                ", ".join(sorted(names)) or "(none)",
            )
        self._untrusted.add(names, _UNTRUSTED_SECONDS)
        self.counters.untrusted.add()
        self._decide(_UNTRUSTED_SECONDS)

    def _decide(self, seconds: float, *, valid: bool = False) -> None:
        self._queue.decide(time.monotonic(), seconds, valid=valid)

    def _wait(self, references: Sequence[HashPart]) -> None:
        if not self._queue.wait(references, time.monotonic()):
            self.counters.incomplete.add()
        for reference in references:
            self.want(reference)


def _tell(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        _log.error("nothing is imported any more", exc_info=error)


def _key_names(info: PathInfo) -> frozenset[str]:
    return frozenset(signature.key_name for signature in info.signatures)
