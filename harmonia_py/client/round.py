"""One round of a push: paths are sent in parallel and published in batches, a path after its references."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from harmonia_py.client.answers import SessionInfo
from harmonia_py.client.api import PushApi
from harmonia_py.client.outcomes import Ledger, State
from harmonia_py.client.sending import Sender, SentFile
from harmonia_py.errors import HarmoniaError, PushRefused, SessionEnded, StorageError, StorageFull, StorePathChanged
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart
from harmonia_py.runtime.side_by_side import first_of

# After an error of one path the others are pushed all the same; an error of all ends the push. `StorageFull`, which
# says that the server has no room, is a `StorageError` as well: it is caught first.
_OF_ONE_PATH: Final = (PushRefused, StorePathChanged, StorageError)
_OF_ALL: Final = (SessionEnded, StorageFull)


class Publishing:
    """Paths that are being sent, until each is settled or has failed.

    Args:
        wanted: the paths, references first; their other references are in the cache.
    """

    def __init__(self, wanted: Iterable[PathInfo]) -> None:
        self._waits = {info.store_path.hash_part: info for info in wanted}
        self._sent: dict[HashPart, NarInfo] = {}
        self._failed: set[HashPart] = set()

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return not self._waits

    def sent(self, narinfo: NarInfo) -> None:
        """Note that the cache has the file of a path."""
        self._sent[narinfo.path_info.store_path.hash_part] = narinfo

    def batch(self, most: int) -> Sequence[NarInfo]:
        """Up to `most` paths that can be published together, in this order."""
        found: dict[HashPart, NarInfo] = {}
        # `_waits` has references first, so one pass also finds paths whose references are in this batch.
        for hash_part, info in self._waits.items():
            if len(found) == most:
                break
            narinfo = self._sent.get(hash_part)
            if narinfo is not None and not self._references(info) - found.keys():
                found[hash_part] = narinfo
        return list(found.values())

    def settled(self, hash_part: HashPart) -> None:
        """Note that the path is published, or left to the next round."""
        self._waits.pop(hash_part, None)
        self._sent.pop(hash_part, None)

    def failed(self, hash_part: HashPart) -> None:
        """Note that the path, and with it every path that refers to it, cannot be published."""
        self.settled(hash_part)
        self._failed.add(hash_part)

    def has_failed_reference(self, info: PathInfo) -> bool:
        """Whether a reference of this path has failed, and with it the path."""
        return any(path.hash_part in self._failed for path in info.references)

    def broken(self) -> Sequence[PathInfo]:
        """Paths that are not settled, one of whose references has failed."""
        return [info for info in self._waits.values() if self.has_failed_reference(info)]

    def _references(self, info: PathInfo) -> set[HashPart]:
        """The references that are not settled yet, without the path itself."""
        own = info.store_path.hash_part
        return {path.hash_part for path in info.references if path.hash_part in self._waits and path.hash_part != own}


class Round:
    """One round of a push.

    Args:
        session: that it is part of.
        wanted: what the cache lacks, references first.
        nars: names of files that the cache has already, by NarHash.
        api: of the cache.
        sender: sends files.
        ledger: records the outcome of each path.
        jobs: paths that are sent at the same time.
    """

    def __init__(
        self,
        session: SessionInfo,
        wanted: Sequence[PathInfo],
        nars: Mapping[Hash, str],
        *,
        api: PushApi,
        sender: Sender,
        ledger: Ledger,
        jobs: int,
    ) -> None:
        self._session = session
        self._wanted = wanted
        self._nars = nars
        self._api = api
        self._sender = sender
        self._ledger = ledger
        self._jobs = jobs
        self._publishing = Publishing(wanted)
        self._sent: dict[str, SentFile] = {}
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Send every path whose references have not failed, and publish paths as their files arrive.

        Raises:
            HarmoniaError: the push as a whole cannot go on.
        """
        waiting = iter(self._wanted)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._publish())
                for _ in range(min(self._jobs, len(self._wanted))):
                    tasks.create_task(self._send(waiting))
        except* HarmoniaError as group:
            raise first_of(group) from None

    async def _send(self, waiting: Iterator[PathInfo]) -> None:
        for info in waiting:
            if self._publishing.has_failed_reference(info):
                continue
            try:
                here = self._nars.get(info.nar_hash)
                file = await self._sender.send(self._session, info) if here is None else SentFile(here, 0)
            except _OF_ALL:
                raise
            except _OF_ONE_PATH as error:
                self._fail(info, str(error))
            else:
                self._sent[info.store_path] = file
                self._publishing.sent(file.claim(info))
            self._news.set()

    async def _publish(self) -> None:
        while not self._publishing.is_done:
            batch = self._publishing.batch(self._session.max_narinfos)
            broken = self._publishing.broken()
            for info in broken:
                self._fail(info, "a path that it refers to could not be pushed")
            if batch:
                await self._publish_batch(batch)
            elif not broken:
                await self._news.wait()
                self._news.clear()

    async def _publish_batch(self, batch: Sequence[NarInfo]) -> None:
        results = await self._api.publish(self._session, batch)
        for narinfo, result in zip(batch, results, strict=True):
            info = narinfo.path_info
            hash_part = info.store_path.hash_part
            if result.state == "refused":
                self._fail(info, result.reason)
                continue
            # "waiting" or "absent": the server has collected a reference or the file. The next round asks again.
            self._publishing.settled(hash_part)
            if result.state == "published":
                self._enter(info, State.PUSHED)

    def _fail(self, info: PathInfo, reason: str) -> None:
        self._publishing.failed(info.store_path.hash_part)
        self._enter(info, State.FAILED, reason)

    def _enter(self, info: PathInfo, state: State, reason: str = "") -> None:
        file = self._sent.get(info.store_path)
        sent, saved = (0, 0) if file is None else (file.size, file.saved)
        self._ledger.enter(info.store_path.hash_part, state, reason, sent, saved)
