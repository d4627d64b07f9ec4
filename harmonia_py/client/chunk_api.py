"""What a client asks of chunks, of which it then sends those alone that the cache lacks."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from harmonia_py.chunks.recipe import ChunkHash
from harmonia_py.client.answers import FileHere, SessionInfo, fields, understanding
from harmonia_py.client.bodies import Body
from harmonia_py.client.cache_requests import CacheRequests
from harmonia_py.errors import UpstreamProtocolError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart


class ChunkApi(CacheRequests):
    """The chunks of one cache."""

    async def bases(self, session: SessionInfo, names: Sequence[str]) -> Mapping[str, Sequence[HashPart]]:
        """Paths of the cache, by hash parts, with which paths of these names are likely to share chunks.

        Raises:
            HarmoniaError: as `HttpServer.ask`.
        """
        told = await self._post(session, "chunks/bases", {"names": names})
        with understanding():
            return {name: [HashPart.parse(text) for text in told["bases"][name]] for name in names}

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
            told = await self._post(session, "chunks/missing", {"chunks": some, "bases": bases})
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
        place = self._place(session, f"recipes/{nar_hash.nix32}?{query}")
        return _made((await self._server.ask("POST", place, data)).json())

    async def made(self, session: SessionInfo, nar_hash: Hash) -> FileHere | None:
        """The file that a recipe has made, None while that goes on.

        Raises:
            HarmoniaError: as `HttpServer.ask`.
        """
        return _made((await self._server.ask("GET", self._place(session, f"recipes/{nar_hash.nix32}"))).json())


def _made(told: Any) -> FileHere | None:
    state = fields(told)
    if state.get("state") != "received":
        return None
    with understanding():
        return FileHere(str(state["file"]), int(state["size"]))
