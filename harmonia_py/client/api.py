"""The push API of one cache, as its client sees it: docs/reference/openapi.yaml.

Fields that are not known are ignored, and those that another release does not have are done without.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from harmonia_py.client.answers import (
    CacheInfo,
    Capabilities,
    ChunkTerms,
    Exchanged,
    Lacking,
    Published,
    SessionInfo,
    fields,
    understanding,
)
from harmonia_py.client.bodies import Body, FormBody
from harmonia_py.client.cache_requests import CacheRequests
from harmonia_py.client.chunk_api import ChunkApi
from harmonia_py.client.http import HttpServer
from harmonia_py.client.upload_api import UploadApi
from harmonia_py.errors import FormatError, UpstreamProtocolError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath

VERSION: Final = 1
"""The version of the push API that this client speaks."""
_OK: Final = 200
_EXCHANGE: Final = {
    "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
    "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
}


class PushApi(CacheRequests):
    """One cache, all that a push asks of it.

    Attributes:
        uploads: files that go past the server.
        chunks: what it asks of chunks.
    """

    def __init__(self, server: HttpServer, root: str) -> None:
        super().__init__(server, root)
        self.uploads = UploadApi(server, root)
        self.chunks = ChunkApi(server, root)

    async def capabilities(self) -> Capabilities:
        """The protocols of the server, and the holder of the token.

        Raises:
            HarmoniaError: as `HttpServer.ask`; also for a server that is none of ours.
        """
        missing = f"there is no harmonia-py that takes pushes at {self._server.url}"
        told = await self._told("GET", "api/capabilities", missing)
        principal = fields(told.get("principal", {}))
        audiences = fields(told.get("oidc", {})).get("audiences", ())
        return Capabilities(
            principal=str(principal.get("name", "")),
            audiences=tuple(map(str, audiences)) if isinstance(audiences, list) else (),
        )

    async def exchange(self, id_token: str) -> Exchanged:
        """A token of the server for the token of a CI: RFC 8693.

        Raises:
            HarmoniaError: as `HttpServer.ask`; the message says why it gives none.
        """
        form = FormBody(urlencode(_EXCHANGE | {"subject_token": id_token}))
        told = await self._told("POST", "api/token", f"{self._server.url} takes no tokens of CIs", form)
        with understanding():
            return Exchanged(
                token=str(told["access_token"]),
                seconds=int(told["expires_in"]),
                principal=str(told.get("principal", "")),
            )

    async def cache(self) -> CacheInfo:
        """The facts of the cache that a substituter needs.

        Raises:
            HarmoniaError: as `HttpServer.ask`; also where there is no such cache.
        """
        missing = f"there is no cache of a harmonia-py at {self._server.url}{self._root}"
        told = await self._told("GET", f"{self._root}api/cache", missing)
        with understanding():
            keys = tuple(str(PublicKey.parse(str(key))) for key in told.get("public_keys", ()))
            return CacheInfo(name=str(told["name"]), public=bool(told.get("public", False)), public_keys=keys)

    async def begin(self) -> SessionInfo:
        """Begin a session.

        Raises:
            HarmoniaError: as `HttpServer.ask`; also for a server that is none of ours, or too new.
        """
        missing = f"there is no harmonia-py that takes pushes at {self._server.url}{self._root}"
        told = await self._told("POST", f"{self._root}api/sessions", missing)
        if told.get("version", VERSION) != VERSION:
            raise UpstreamProtocolError("the server wants a newer harmonia-py: upgrade this one")
        with understanding():
            return SessionInfo(
                id=str(told["session"]),
                store_dir=StoreDir.parse(str(fields(told["cache"])["store_dir"])),
                max_paths=max(1, int(told.get("max_paths", 10_000))),
                max_narinfos=max(1, int(told.get("max_narinfos", 100))),
                actions=frozenset(map(str, told["actions"])) if "actions" in told else None,
                looks_through=tuple(map(str, told.get("looks_through", ()))),
                past_server=_sizes(told.get("uploads")),
                in_parts=_sizes(fields(told.get("uploads") or {}).get("parts")),
                chunks=ChunkTerms.of(told.get("chunks")),
            )

    async def missing(
        self, session: SessionInfo, hash_parts: Sequence[HashPart], nar_hashes: Collection[Hash] = ()
    ) -> Lacking:
        """The paths and NARs that the cache lacks; those that it has stay until the session ends.

        Raises:
            HarmoniaError: as `HttpServer.ask`.
        """
        lacking: set[HashPart] = set()
        elsewhere: set[HashPart] = set()
        nars: dict[Hash, str] = {}
        wanted = list(nar_hashes)
        for start in range(0, max(len(hash_parts), len(wanted)), session.max_paths):
            some = slice(start, start + session.max_paths)
            question = {"paths": hash_parts[some], "nars": [str(nar_hash) for nar_hash in wanted[some]]}
            told = await self._post(session, "missing", question)
            with understanding():
                lacking |= set(map(HashPart.parse, told["missing"]))
                elsewhere |= set(map(HashPart.parse, told.get("elsewhere", ())))
                nars |= {Hash.parse(text): str(file) for text, file in told.get("nars", {}).items()}
        return Lacking(frozenset(lacking), frozenset(elsewhere), nars)

    async def send(self, session: SessionInfo, file: str, data: Body) -> None:
        """Send a file, whole.

        Raises:
            HarmoniaError: as `HttpServer.ask`.
        """
        await self._server.ask("PUT", self._place(session, f"nars/{file}"), data)

    async def offset(self, session: SessionInfo, nar: str) -> int:
        """The number of bytes that the server has of a file that comes in parts.

        Raises:
            HarmoniaError: as `HttpServer.ask`.
        """
        return _offset((await self._server.ask("GET", self._place(session, f"parts/{nar}"))).json())

    async def send_part(self, session: SessionInfo, nar: str, offset: int, data: memoryview) -> int:
        """Send a part of a file that begins at `offset`; how much of it the server has then.

        Raises:
            PushConflict: the server has less of it than that.
            HarmoniaError: as `HttpServer.ask`.
        """
        place = self._place(session, f"parts/{nar}")
        begun = False

        async def attempt() -> int:
            # By PATCH: a PUT the library would send again by itself, all of it, over another connection.
            nonlocal begun
            start = offset
            if begun:  # what came of it before the connection was lost is there
                start = max(offset, _offset((await self._server.once("GET", place)).json()))
            begun = True
            if start >= offset + len(data):
                return start
            rest = data[start - offset :]
            return _offset((await self._server.once("PATCH", f"{place}?offset={start}", rest)).json())

        return await self._server.again_and_again(attempt)

    async def finish_file(self, session: SessionInfo, nar: str, file: str, size: int) -> bool:
        """Say that a file has been sent whole; False while the server is still checking it.

        Raises:
            PushConflict: the server has lost some of it.
            HarmoniaError: as `HttpServer.ask`.
        """
        told = await self._post(session, f"parts/{nar}", {"file": file, "size": size})
        return told.get("state") != "checking"

    async def publish(self, session: SessionInfo, narinfos: Sequence[NarInfo]) -> Sequence[Published]:
        """Publish paths whose files are there; what became of each, in their order.

        Raises:
            HarmoniaError: as `HttpServer.ask`.
        """
        texts = [narinfo.format(session.store_dir).decode() for narinfo in narinfos]
        told = await self._post(session, "publish", {"narinfos": texts})
        with understanding():
            results = [_published(fields(one)) for one in told["paths"]]
        if len(results) != len(narinfos):
            raise UpstreamProtocolError("the server does not say what became of every path")
        return results

    async def finish(
        self, session: SessionInfo, roots: Collection[HashPart], pins: Mapping[str, StorePath] | None = None
    ) -> Collection[HashPart]:
        """End the session and set pins, unless one of `roots` is missing; those that are.

        Raises:
            UpstreamProtocolError: the server does not know of pins.
            HarmoniaError: as `HttpServer.ask`.
        """
        wanted = [{"name": name, "path": path} for name, path in (pins or {}).items()]
        told = await self._post(session, "finish", {"roots": sorted(roots), "pins": wanted})
        missing = told.get("missing", ())
        if pins and not missing and "pins" not in told:
            raise UpstreamProtocolError("the server is of a release that sets no pins at the end of a push: upgrade it")
        with understanding():
            return {HashPart.parse(str(one)) for one in missing}

    async def served(self, hash_part: HashPart, store_dir: StoreDir) -> NarInfo | None:
        """The narinfo that a substituter gets of a path whose NAR is there as well; None: the cache does not serve it.

        Raises:
            HarmoniaError: as `HttpServer.ask`.
        """
        answer = await self._server.ask("GET", f"{self._root}{hash_part}.narinfo", absent=True)
        if answer.status != _OK:
            return None
        try:
            narinfo = NarInfo.parse(answer.data, store_dir)
        except FormatError as error:
            raise UpstreamProtocolError(f"{hash_part}.narinfo: {error}") from None
        nar = await self._server.ask("HEAD", f"{self._root}{narinfo.url}", absent=True)
        return narinfo if nar.status == _OK else None

    async def _told(self, method: str, place: str, missing: str, body: Body | None = None) -> Mapping[str, Any]:
        """The object that answers a request; `missing` says what it means that there is no such place."""
        answer = await self._server.ask(method, place, body, absent=True)
        if answer.status != _OK:
            raise UpstreamProtocolError(missing)
        return fields(answer.json())


def _offset(value: Any) -> int:
    offset = fields(value).get("offset")
    if not isinstance(offset, int):
        raise UpstreamProtocolError("the server does not say how much it has")
    return offset


def _sizes(told: Any) -> range | None:
    return None if told is None else range(int(told["min_size"]), int(told["max_size"]) + 1)


def _published(told: Mapping[str, Any]) -> Published:
    state = str(told["state"])
    reason = str(told.get("reason", ""))
    if not reason and told.get("missing"):
        reason = f"it waits for {', '.join(map(str, told['missing']))}"
    return Published(state, reason)
