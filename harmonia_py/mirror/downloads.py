"""Files of upstreams as downloads: kept files, files that still grow, or, where nothing can be kept, passed through."""

from harmonia_py.cache.source import UNNAMED, Asker, Download
from harmonia_py.contents.blobs import Blob, BlobKey
from harmonia_py.contents.incoming import Lane, Want
from harmonia_py.contents.ingest import Intake
from harmonia_py.contents.storage import NotKept
from harmonia_py.mirror.mirror_metrics import MirrorCounters
from harmonia_py.mirror.narinfo_index import NarinfoIndex
from harmonia_py.mirror.outcome import NoUpstreamAnswered
from harmonia_py.mirror.upstreams import Upstreams
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.runtime.turns import Turns


class Downloads:
    """Serves files of upstreams; owns the threads that take them in, and their turns.

    Args:
        upstreams: decides what a client is told when none of them can tell.
        intake: where files come in and are kept.
        index: remembers what is absent.
        counters: of downloads.
        downloads: from upstreams, at once.

    Attributes:
        lane: the threads and turns by which files of upstreams come in.
    """

    def __init__(
        self,
        upstreams: Upstreams,
        intake: Intake,
        index: NarinfoIndex,
        counters: MirrorCounters,
        *,
        downloads: int,
    ) -> None:
        self._upstreams = upstreams
        self._intake = intake
        self._index = index
        self._counters = counters
        self._threads = Threads(Pool.MIRROR)
        # A file that has crossed a network is worth keeping, unless another client waits for its turn.
        self.lane = Lane(self._threads, Turns(downloads), gives_up=False, first=intake.threads)

    async def aclose(self) -> None:
        """Give up what is being fetched."""
        await self._intake.abandon(self.lane)
        await self._threads.aclose()

    async def serve(self, key: BlobKey, want: Want, asker: Asker = UNNAMED) -> Download | None:
        """The file that is kept under `key`, or that `want` finds; None when no upstream has it.

        Raises:
            UpstreamError: no upstream gives it.
            StorageError: there is no room for another download.
        """
        if self._index.is_absent(key):
            return None
        try:
            found = await self._serve(key, want, asker)
        except NoUpstreamAnswered:
            if not self._upstreams.unknown_is_not_found:
                raise
            return None
        if found is None:
            self._index.note_absent(key)
        return found

    def open_at_once(self, key: BlobKey) -> Blob:
        """The file that is kept under `key`; raises `NotAtOnce` where it cannot be opened without waiting."""
        return self._intake.storage.open_at_once(key)

    async def _serve(self, key: BlobKey, want: Want, asker: Asker) -> Download | None:
        try:
            return await self._intake.open(key, want, self._counters, asker)
        except NotKept:
            found = await self._intake.pass_through(want, asker)
        if found is not None and asker.begins:
            self._counters.passed.add()
        return found
