"""One path sent as a recipe, with those of its chunks that the cache lacks, where it has paths that are like it.

The cache is asked for such paths first: without any, nothing is cut. A path of which the cache lacks most is sent whole
as well, for chunks are compressed alone, and so is one whose recipe the cache refuses, whatever the reason: it may have
collected a chunk at this moment.
"""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from functools import partial
from threading import Event
from typing import Final

from harmonia_py.chunks.installed import is_installed
from harmonia_py.chunks.recipe import MAX_REFERENCES
from harmonia_py.client.answers import ChunkTerms, FileHere, SessionInfo
from harmonia_py.client.bodies import Body
from harmonia_py.client.cache_requests import ask_again
from harmonia_py.client.chunk_api import ChunkApi
from harmonia_py.client.local_paths import LocalPaths
from harmonia_py.client.made_file import MadeFile, NoPlace, StoredFile
from harmonia_py.client.outcomes import Events
from harmonia_py.errors import (
    HarmoniaError,
    NotAuthenticated,
    NotPermitted,
    PushRefused,
    SessionEnded,
    StorageFull,
    UpstreamProtocolError,
    UpstreamUnreachable,
)
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart
from harmonia_py.runtime.threads import in_thread

# What is shorter takes less time to send than to ask about: some 80 KB when it is compressed.
_LEAST_BYTES: Final = 256 * 1024
# Of the bytes of a NAR. Where more are missing, the frame of zstd that is the whole file is hardly larger than theirs.
_MOST_MISSING: Final = 0.7
# A server that refuses recipes over and over is sent no more of them.
_MOST_REFUSED: Final = 3
# Two minutes, where the answers come at once: from another process than the one that makes the file.
_MOST_ASKED: Final = 60


class _SendWhole(Exception):  # no error
    """The path is better sent whole."""


class RecipeSender:
    """Sends recipes.

    Args:
        api: what the cache is asked of chunks.
        store: has the paths.
        threads: read and compute.
        level: of zstd.
        events: is told how far it is.
        making: held while a NAR is cut or compressed.
    """

    def __init__(
        self,
        api: ChunkApi,
        store: LocalPaths,
        threads: Executor,
        level: int,
        events: Events,
        *,
        making: asyncio.Semaphore,
    ) -> None:
        self._api = api
        self._store = store
        self._threads = threads
        self._level = level
        self._events = events
        self._making = making
        self._refused = 0
        self._bases: _Bases | None = None

    def expect(self, session: SessionInfo, wanted: Sequence[PathInfo]) -> None:
        """Ask together, once the first of them is sent, which paths are like those that are going to be sent."""
        if session.chunks is not None:
            names = dict.fromkeys(info.store_path.name for info in wanted if _is_worth_it(info))
            self._bases = _Bases(self._api, session, list(names), session.chunks.max_names)

    async def send(self, session: SessionInfo, info: PathInfo) -> tuple[FileHere, int] | None:
        """Have the server make the file of a path, and how many bytes were sent for that; None: send it whole.

        Raises:
            StorePathChanged: its files are not what the store says.
            SessionEnded, NotAuthenticated, StorageFull: as `HttpServer.ask`.
        """
        terms, bases = session.chunks, self._bases
        if terms is None or bases is None or not _is_worth_it(info) or self._refused >= _MOST_REFUSED:
            return None
        try:
            return await self._send(session, terms, info, await bases.of(info.store_path.name))
        except (SessionEnded, NotAuthenticated, StorageFull):
            raise
        except (PushRefused, NotPermitted, UpstreamProtocolError, UpstreamUnreachable):
            self._refused += 1
        except (_SendWhole, NoPlace):
            pass
        return None

    async def _send(
        self, session: SessionInfo, terms: ChunkTerms, info: PathInfo, bases: Sequence[HashPart]
    ) -> tuple[FileHere, int]:
        if not bases:
            raise _SendWhole
        # The library that cuts takes some time to load.
        from harmonia_py.client.cut_nar import SentRecipe, TooMuchMissing, cut  # noqa: PLC0415

        stop = Event()
        async with self._making:
            nar = _until(stop, self._store.nar(info))
            recipe = await in_thread(self._threads, cut, nar, info, terms.sizes, give_up=stop.set)
        sizes = recipe.chunk_sizes()
        missing = await self._api.missing(session, bases, list(sizes), terms.max_chunks)
        if sum(sizes[chunk] for chunk in missing) > _MOST_MISSING * info.nar_size:
            raise _SendWhole
        sent = SentRecipe(recipe, missing, self._level, most=terms.max_sent_size, most_recipe=terms.max_recipe_size)
        file = MadeFile(sent.pieces(self._store.nar(info)), self._threads, self._events)
        try:
            with ExitStack() as stack:
                async with self._making:
                    body = await self._body(file, stack)
                made = await self._made(session, info, bases, file.size - sent.size, body)
        except BaseException as error:
            self._events.advanced(-file.read)
            if isinstance(error, TooMuchMissing):
                raise _SendWhole from error
            raise
        self._events.advanced(info.nar_size - file.read)
        return made, file.size

    async def _body(self, file: MadeFile, stack: ExitStack) -> Body:
        part = await file.part()
        if file.is_whole:
            return part
        stored = stack.enter_context(StoredFile(self._threads))
        await stored.fill(file, part)
        return stored.body

    async def _made(
        self, session: SessionInfo, info: PathInfo, bases: Sequence[HashPart], sent: int, body: Body
    ) -> FileHere:
        file = await self._api.send(session, info.nar_hash, sent, bases, body)
        file = file or await ask_again(partial(self._api.made, session, info.nar_hash), _MOST_ASKED)
        if file is None:
            raise _SendWhole
        return file


class _Bases:
    """The bases of paths that are going to be sent in a session, by the names of these paths.

    Args:
        api: is asked for them.
        session: in which they are sent.
        names: in the order in which the paths are sent.
        at_once: names in one question.
    """

    def __init__(self, api: ChunkApi, session: SessionInfo, names: Sequence[str], at_once: int) -> None:
        self._api = api
        self._session = session
        self._names = names
        self._places = {name: place for place, name in enumerate(names)}
        self._at_once = at_once
        self._found: dict[str, Sequence[HashPart]] = {}
        self._failure: HarmoniaError | None = None
        self._asking = asyncio.Lock()

    async def of(self, name: str) -> Sequence[HashPart]:
        """The bases of the path of this name; with it are asked for those of the paths that come after it.

        A question that failed is not asked again: each of the paths that wait for it would wait as long.

        Raises:
            HarmoniaError: as `HttpServer.ask`.
        """
        async with self._asking:
            if self._failure is not None:
                raise self._failure
            if name not in self._found:
                first = self._places[name]
                names = self._names[first : first + self._at_once]
                try:
                    self._found |= await self._api.bases(self._session, names)
                except HarmoniaError as error:
                    self._failure = error
                    raise
        return self._found[name]


def _until(stop: Event, nar: Iterator[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """A NAR, of which no more is read once `stop` is set."""
    for portion in nar:
        if stop.is_set():
            raise _SendWhole
        yield portion


def _is_worth_it(info: PathInfo) -> bool:
    return info.nar_size >= _LEAST_BYTES and len(info.references) < MAX_REFERENCES and is_installed()
