"""Push sessions of clients that begin them, ask about many paths at once, and end them.

`nix copy` does none of this: its sessions follow from its URLs (`Pushes.session`). Either way a session is a lease on
the paths and files that it was told are here, and its files are checked and published in the same way.
"""

import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from msgspec import Struct

from harmonia_py.cache.access import Principal
from harmonia_py.catalog.caches import CacheRow
from harmonia_py.catalog.nars import NarFile
from harmonia_py.catalog.sessions import Progress
from harmonia_py.catalog.uploads import Session
from harmonia_py.errors import SessionEnded
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart
from harmonia_py.push.claims import PushedFile
from harmonia_py.push.ports import PushPorts
from harmonia_py.push.publishing import FindElsewhere
from harmonia_py.push.receiving import PushSession
from harmonia_py.runtime.side_by_side import side_by_side

MAX_ASKED: Final = 50_000
"""Paths in one question: 2 MB of text, and a fifth of a second of the database."""
_RANDOM_BYTES: Final = 16
# A sign of life an hour keeps a session of a day alive; looking it up more often would only cost reads.
_KNOWN_SECONDS: Final = 600
_MAX_KNOWN: Final = 4096
# Paths that are asked for elsewhere at the same time.
_ELSEWHERE_AT_ONCE: Final = 16


class Missing(Struct, frozen=True, kw_only=True):
    """The answer to a client that asks which of its paths a cache lacks.

    Attributes:
        missing: hash parts of paths that have to be pushed, in the order of the question.
        elsewhere: hash parts of paths that the cache has from its local store, an upstream or another cache.
        nars: files, by the NarHashes that were asked for, that are here: their paths need only a narinfo.
    """

    missing: Sequence[HashPart]
    elsewhere: frozenset[HashPart]
    nars: Mapping[Hash, PushedFile]


class PushSessions(Struct, eq=False):
    """The sessions of one cache.

    Attributes:
        cache: as the catalog has it.
        ports: the catalog, and what looks whether the bytes of files are there.
        find_elsewhere: finds paths that were not pushed to the cache; None when it looks nowhere else.
    """

    cache: CacheRow
    ports: PushPorts
    find_elsewhere: FindElsewhere | None
    _known: dict[tuple[str, str], int] = {}

    async def begin(self, principal: Principal) -> PushSession:
        """A new session of this principal.

        Raises:
            StorageError: it cannot be noted.
        """
        session = self._session(secrets.token_hex(_RANDOM_BYTES), principal)
        await self._note(session)
        return session

    async def resume(self, principal: Principal, session_id: str) -> PushSession:
        """The session of this id, with a sign of life noted.

        Raises:
            SessionEnded: it belongs to another principal, has ended, or showed no sign of life for too long.
            StorageError: it cannot be told.
        """
        session = self._session(session_id, principal)
        if self.ports.now() < self._known.get((session_id, principal.name), 0):
            return session
        found = await self.ports.sessions.find(session_id)
        theirs = found is not None and (found.cache, found.principal) == (session.cache, session.principal)
        if found is None or not theirs or found.ended is not None:
            raise SessionEnded("this session has ended: begin another one, and ask again what is missing")
        await self._note(session)
        return session

    def _session(self, session_id: str, principal: Principal) -> PushSession:
        return PushSession(session_id, self.cache.id, principal.name, self.cache.settings.max_nar_size)

    async def _note(self, session: PushSession, *, end: bool = False) -> None:
        now = self.ports.now()
        row = Session(id=session.id, cache=session.cache, principal=session.principal, begun=now, seen=now)
        await self.ports.uploads.session(row, end=end)
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known[session.id, session.principal] = 0 if end else now + _KNOWN_SECONDS

    async def missing(
        self, session: PushSession, hash_parts: Sequence[HashPart], nar_hashes: Collection[Hash]
    ) -> Missing:
        """The paths and NARs that have to be sent. Those that are said to be here stay until the session ends.

        It looks for the files of the paths that are here: a lost one has to be sent again.

        Raises:
            StorageError: it cannot be told.
        """
        now = self.ports.now()
        present: frozenset[HashPart] = frozenset()
        if hash_parts:
            present = await self.ports.objects.present(session.cache, session.id, hash_parts, now=now)
            present -= await self._lost(session, present)
        absent = [hash_part for hash_part in hash_parts if hash_part not in present]
        elsewhere = await self._elsewhere(absent)
        files: Mapping[Hash, NarFile] = {}
        if nar_hashes:
            files = await self.ports.sessions.nars(session.cache, session.id, nar_hashes, now=now)
        return Missing(
            missing=[hash_part for hash_part in absent if hash_part not in elsewhere],
            elsewhere=frozenset(elsewhere),
            nars={nar_hash: PushedFile(file.file_hash, file.compression) for nar_hash, file in files.items()},
        )

    async def _lost(self, session: PushSession, present: Collection[HashPart]) -> set[HashPart]:
        """The paths in `present` whose file is lost."""
        keys = await self.ports.sessions.blob_keys(session.cache, present)
        absent = await self.ports.quarantine.absent(set(keys.values()))
        if not absent:
            return set()
        files = await self.ports.sessions.files(session.cache, [part for part, key in keys.items() if key in absent])
        return {hash_part for hash_part, file in files.items() if not await self.ports.quarantine.finds(file)}

    async def unpublished(self, session: PushSession, hash_parts: Collection[HashPart]) -> Collection[HashPart]:
        """The paths that readers of the cache do not see, sorted. It looks at no file, and leases nothing.

        Raises:
            StorageError: it cannot be told.
        """
        absent = set(hash_parts) - (await self.ports.sessions.blob_keys(session.cache, hash_parts)).keys()
        return sorted(absent - await self._elsewhere(sorted(absent)))

    async def announce(self, session: PushSession, hash_parts: Collection[HashPart]) -> None:
        """Note that a client is going to push these paths.

        Raises:
            StorageError: it cannot be noted.
        """
        if hash_parts:
            await self.ports.sessions.announce(session.cache, session.id, hash_parts, now=self.ports.now())

    async def announced(self, session: PushSession, hash_parts: Collection[HashPart]) -> frozenset[HashPart]:
        """The paths that the client has said it is going to push.

        Raises:
            StorageError: it cannot be told.
        """
        return await self.ports.sessions.announced(session.cache, session.id, hash_parts)

    async def _elsewhere(self, hash_parts: Sequence[HashPart]) -> set[HashPart]:
        find = self.find_elsewhere
        found: set[HashPart] = set()
        if find is None:
            return found

        async def look(hash_part: HashPart) -> None:
            if await find(hash_part) is not None:
                found.add(hash_part)

        await side_by_side(look, hash_parts, at_once=_ELSEWHERE_AT_ONCE)
        return found

    async def progress(self, session: PushSession) -> Progress:
        """The figures of the session so far.

        Raises:
            StorageError: it cannot be told.
        """
        return await self.ports.sessions.progress(session.id)

    async def end(self, session: PushSession) -> None:
        """End the session and its leases; files that it brought and did not publish go.

        Raises:
            StorageError: it cannot be ended.
        """
        await self._note(session, end=True)
