"""What a client asks of chunks, of which it then sends those alone that the cache lacks."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec

from harmonia_py.chunks.recipe import ChunkHash
from harmonia_py.client.answers import FileHere, SessionInfo, fields, understanding
from harmonia_py.client.bodies import Body
from harmonia_py.client.http import HttpServer
from harmonia_py.client.upload_api import session_place
from harmonia_py.errors import UpstreamProtocolError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart


class ChunkApi:
    """The chunks of one cache.

    Args:
        server: where the cache is.
        root: its place on the server.
    """

    def __init__(self, server: HttpServer, root: str) -> None:
        self._server = server
        self._root = root

    async def bases(self, session: SessionInfo, name: str) -> Sequence[HashPart]:
        """Paths of the cache, by hash parts, with which a path of this name is likely to share chunks.

        Raises:
            HarmoniaError: as `HttpServer.ask`.
        """
        told = fields(await self._post(session, "chunks/bases", {"names": [name]}))
        with understanding():
            return [HashPart.parse(text) for text in told["bases"][name]]

    async def missing(
        self, session: SessionInfo, bases: Sequence[HashPart], chunks: Sequence[ChunkHash], at_once: int
    ) -> Collection[ChunkHash]:
        """Those of the chunks that none of the bases has.

        Raises:
            HarmoniaError: as `HttpServer.ask`.
        """
        missing: set[ChunkHash] = set()
        for start in range(0, len(chunks), at_once):
            some = [chunk.hex() for chunk in chunks[start : start + at_once]]
            told = fields(await self._post(session, "chunks/missing", {"chunks": some, "bases": bases}))
            with understanding():
                missing |= {ChunkHash(bytes.fromhex(text)) for text in told["missing"]}
        if not missing <= set(chunks):
            raise UpstreamProtocolError("the server misses chunks that it was not asked for")
        return missing

    async def send(
        self, session: SessionInfo, nar_hash: Hash, sent: int, bases: Sequence[HashPart], data: Body
    ) -> FileHere | None:
        """Send a recipe, with `sent` bytes of chunks before it; the file that it makes, None while that goes on.

        Raises:
            HarmoniaError: as `HttpServer.ask`.
        """
        query = urlencode([("sent", sent), *(("base", base) for base in bases)])
        place = session_place(self._root, session, f"recipes/{nar_hash.nix32}?{query}")
        return _made((await self._server.ask("POST", place, data)).json())

    async def made(self, session: SessionInfo, nar_hash: Hash) -> FileHere | None:
        """The file that a recipe has made, None while that goes on.

        Raises:
            HarmoniaError: as `HttpServer.ask`.
        """
        return _made(
            (await self._server.ask("GET", session_place(self._root, session, f"recipes/{nar_hash.nix32}"))).json()
        )

    async def _post(self, session: SessionInfo, verb: str, body: Mapping[str, Any]) -> Any:
        return (
            await self._server.ask(
                "POST", session_place(self._root, session, verb), msgspec.json.encode(body, enc_hook=str)
            )
        ).json()


def _made(told: Any) -> FileHere | None:
    state = fields(told)
    if state.get("state") != "received":
        return None
    with understanding():
        return FileHere(str(state["file"]), int(state["size"]))
