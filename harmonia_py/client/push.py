"""A push: the paths that a cache lacks are sent, published, and seen to be served.

It goes in rounds. A round asks what is missing, sends it and publishes it; what was there and is not any more, because
it was collected under the push or its session ended, is found by the next. At the end the cache is asked as a
substituter asks it: a path counts as pushed when it is served. Of roots that were there, two dozen are asked for
like this; of the others it is the server that has looked at the files.
"""

import asyncio
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from msgspec import Struct, field

from harmonia_py.client.answers import SessionInfo
from harmonia_py.client.api import PushApi
from harmonia_py.client.http import HttpServer
from harmonia_py.client.local_paths import Closure, LocalPaths
from harmonia_py.client.outcomes import Events, Ledger, State, Summary
from harmonia_py.client.round import Round
from harmonia_py.client.sending import Sender
from harmonia_py.contents.encoders import Zstd
from harmonia_py.errors import HarmoniaError, NotPermitted, SessionEnded, UpstreamProtocolError
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.runtime.side_by_side import side_by_side
from harmonia_py.runtime.threads import Pool, Threads

# A cache that collects what it has just been sent is asked again; one that does so for ever is broken.
_ROUNDS: Final = 4
_PROOFS: Final = 2
_ASKED_AT_ONCE: Final = 16
# Each takes a core and 3.5 MB.
_MOST_MADE: Final = 4
# A path that was not sent costs two questions; ten thousand of them would take longer than the whole push.
_MOST_ROOTS_PROVED: Final = 24
_LOST: Final = "the cache has lost what was pushed"


class PushSettings(Struct, frozen=True, kw_only=True):
    """The settings of a push.

    Attributes:
        jobs: paths that are sent at the same time.
        zstd: compresses their files.
        threads: compress and hash.
        pins: paths by the names of the pins that are to lead to them.
    """

    jobs: int = 8
    zstd: Zstd = field(default_factory=Zstd)
    threads: int = 2
    pins: Mapping[str, StorePath] = field(default_factory=dict)


class Push:
    """One push to one cache.

    Args:
        api: of the cache.
        store: has the paths.
        events: is told what happens.
        settings: how to push.
        elsewhere: sends files past the server, with no token; None where it does not.
    """

    def __init__(
        self,
        api: PushApi,
        store: LocalPaths,
        events: Events,
        settings: PushSettings | None = None,
        elsewhere: HttpServer | None = None,
    ) -> None:
        self._api = api
        self._elsewhere = elsewhere
        self._store = store
        self._events = events
        self._settings = settings or PushSettings()
        self._planned: set[HashPart] = set()

    async def run(self, roots: Collection[StorePath]) -> Summary:
        """Push the closures of `roots`; how every path of them ended, also when the push could not go on.

        Raises:
            StorePathChanged: one of them is not valid.
            DaemonError: the local store cannot tell.
        """
        closure = await self._store.closure(roots)
        ledger = Ledger(closure.sizes)
        named, aborted = _some_of(roots), ""
        session: SessionInfo | None = None
        for _ in range(_PROOFS):
            try:
                session = await self._rounds(closure, ledger)
            except HarmoniaError as error:
                session, aborted = None, str(error)
            try:
                lost = await self._prove(closure, ledger, named)
            except HarmoniaError as error:
                aborted = aborted or f"what was pushed cannot be asked for: {error}"
                break
            # The cache has found files of paths that are not served to be lost: these paths are sent again.
            ledger.reopen(lost)
            if aborted or not lost:
                break
        summary = Summary(
            outcomes=ledger.close(aborted or "the cache says that it has it, and does not serve it"), aborted=aborted
        )
        if session is None or not summary.is_good:
            return summary
        missing, unpinned = await self._finish(session, [path.hash_part for path in roots])
        ledger.reopen(missing)
        return dataclasses.replace(summary, outcomes=ledger.close(_LOST), unpinned=unpinned)

    async def _finish(self, session: SessionInfo, roots: Sequence[HashPart]) -> tuple[Collection[HashPart], str]:
        """End the session and set the pins; which roots are lost, and why the pins are not set, or nothing."""
        pins = self._settings.pins
        try:
            try:
                missing = await self._api.finish(session, roots, pins)
            except SessionEnded:
                missing = await self._api.finish(await self._begin(), roots, pins)
        except HarmoniaError as error:
            return (), str(error) if pins else ""
        return missing, _LOST if pins and missing else ""

    async def _rounds(self, closure: Closure, ledger: Ledger) -> SessionInfo | None:
        session: SessionInfo | None = None
        with Threads(Pool.SEND, self._settings.threads) as threads:
            making = min(self._settings.threads, _MOST_MADE)
            zstd = self._settings.zstd
            sender = Sender(
                self._api, self._store, threads, zstd, self._events, making=making, elsewhere=self._elsewhere
            )
            for _ in range(_ROUNDS):
                try:
                    session = session or await self._begin()
                    if await self._round(session, closure, ledger, sender):
                        break
                except SessionEnded:
                    session = None
        return session

    async def _begin(self) -> SessionInfo:
        session = await self._api.begin()
        if session.store_dir != self._store.store_dir:
            raise UpstreamProtocolError(
                f"the cache is for {session.store_dir}, and the store of this machine is {self._store.store_dir}"
            )
        if self._settings.pins and session.actions is not None and "pin" not in session.actions:
            raise NotPermitted("the token may push, and not set pins: that is `--allow read,push,pin`")
        return session

    async def _round(self, session: SessionInfo, closure: Closure, ledger: Ledger, sender: Sender) -> bool:
        """Send and publish missing paths; returns whether none of them is worth another try."""
        paths = {path.hash_part: path for path in closure.sizes}
        open_ = [hash_part for hash_part in paths if ledger.state(hash_part) is not State.FAILED]
        lacking = await self._api.missing(session, open_)
        ledger.reopen(lacking.missing)
        for hash_part in open_:
            if hash_part not in lacking.missing and ledger.state(hash_part) is None:
                if hash_part in lacking.elsewhere:
                    ledger.enter(hash_part, State.UPSTREAM, _through(session))
                else:
                    ledger.enter(hash_part, State.PRESENT)
        missing = [paths[hash_part] for hash_part in open_ if hash_part in lacking.missing]
        if not missing:
            return True
        wanted = await asyncio.to_thread(closure.infos, missing)
        self._plan(wanted)
        nars = (await self._api.missing(session, (), {info.nar_hash for info in wanted})).nars
        jobs = self._settings.jobs
        sender.expect(session, [info for info in wanted if info.nar_hash not in nars])
        async with self._store.keeping(wanted):
            await Round(session, wanted, nars, api=self._api, sender=sender, ledger=ledger, jobs=jobs).run()
        return False

    def _plan(self, wanted: Sequence[PathInfo]) -> None:
        new = [info for info in wanted if info.store_path.hash_part not in self._planned]
        self._planned |= {info.store_path.hash_part for info in new}
        self._events.planned(len(new), sum(info.nar_size for info in new))

    async def _prove(self, closure: Closure, ledger: Ledger, roots: Collection[HashPart]) -> Collection[HashPart]:
        """Ask as a substituter does for pushed paths and for the roots; returns those that are not served.

        Raises:
            HarmoniaError: it cannot be asked.
        """
        lost: set[HashPart] = set()

        async def ask(info: PathInfo) -> None:
            if not await self._is_served(info, ledger):
                lost.add(info.store_path.hash_part)

        doubtful = [path for path in closure.sizes if _needs_proof(path.hash_part, ledger, roots)]
        wanted = await asyncio.to_thread(closure.infos, doubtful)
        await side_by_side(ask, wanted, at_once=_ASKED_AT_ONCE)
        return lost

    async def _is_served(self, info: PathInfo, ledger: Ledger) -> bool:
        hash_part = info.store_path.hash_part
        served = await self._api.served(hash_part, self._store.store_dir)
        state = ledger.state(hash_part)
        assert state is not None
        if served is not None and served.path_info.nar_hash != info.nar_hash:
            ledger.enter(hash_part, state, f"the cache has another build of it, {served.path_info.nar_hash}")
        return served is not None


def _needs_proof(hash_part: HashPart, ledger: Ledger, roots: Collection[HashPart]) -> bool:
    state = ledger.state(hash_part)
    return state is State.PUSHED or (hash_part in roots and state not in (None, State.FAILED))


def _some_of(roots: Collection[StorePath]) -> set[HashPart]:
    """Hash parts of the roots that are proved to be served, evenly chosen where there are many."""
    every = max(1, -(-len(roots) // _MOST_ROOTS_PROVED))
    return {path.hash_part for path in list(roots)[::every]}


def _through(session: SessionInfo) -> str:
    places = ", ".join(session.looks_through)
    return f"the cache has it through {places}" if places else "the cache has it from elsewhere"
