"""A client that pushes recipes to a server of `pushing.py`, request by request, honest unless a test changes something.

client = await RecipeClient.begun(server)                 # a session of the token `pusher`
cut = Cut.of(what)                                         # its recipe, and its chunks as frames
bases = await client.bases("hello-2.12.1")                 # hash parts
missing = await client.missing(cut.recipe, bases)          # chunks
answer = await client.send(what, cut.body(missing), bases) # Answer
answer = await client.publish(what, answer)                # the state of its path
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Self

from chunking import nar_of
from msgspec.structs import replace
from pushed_paths import STORE, Pushed
from pushing import PushServer
from serving import Answer

from harmonia_py.chunks.recipe import ChunkHash, Recipe
from harmonia_py.chunks.sizes import SIZES
from harmonia_py.client.cut_nar import SentRecipe, cut
from harmonia_py.nix.hashes import Hash


@dataclass(frozen=True)
class Body:
    """The chunks that are sent, and the recipe."""

    chunks: bytes
    recipe: bytes


@dataclass(frozen=True)
class Cut:
    """A NAR that was cut."""

    nar: bytes
    recipe: Recipe

    @classmethod
    def of(cls, what: Pushed) -> Self:
        nar = nar_of(what.data)
        return cls(nar, cut(iter([nar]), what.claim.path_info, SIZES))

    def body(self, missing: Collection[ChunkHash]) -> Body:
        sent = SentRecipe(self.recipe, missing, 3, most=2**30, most_recipe=2**30)
        data = b"".join(piece for _, piece in sent.pieces(iter([self.nar])))
        return Body(data[: -sent.size], data[-sent.size :])


@dataclass
class RecipeClient:
    """A client that pushes recipes in one session.

    Attributes:
        server: that it pushes to.
        token: that it shows.
        session: the id of its session.
        terms: how the cache cuts, as the server told it.
        cache: that it pushes to.
    """

    server: PushServer
    token: str
    session: str
    terms: Any
    cache: str = "team"

    @classmethod
    async def begun(cls, server: PushServer, token: str = "pusher", cache: str = "team") -> Self:
        answer = await server.request("POST", f"/{cache}/api/sessions", b"", token=token)
        assert answer.status == 200
        told = json.loads(answer.body)
        return cls(server, token, told["session"], told["chunks"], cache)

    async def ask(self, method: str, place: str, body: bytes | None = None) -> Answer:
        target = f"/{self.cache}/api/sessions/{self.session}/{place}"
        return await self.server.request(method, target, body, token=self.token)

    async def bases(self, name: str) -> list[str]:
        answer = await self.ask("POST", "chunks/bases", json.dumps({"names": [name]}).encode())
        assert answer.status == 200, answer.body
        return list(json.loads(answer.body)["bases"][name])

    async def missing(self, chunks: Collection[ChunkHash], bases: Sequence[str]) -> list[ChunkHash]:
        question = {"chunks": [chunk.hex() for chunk in chunks], "bases": bases}
        answer = await self.ask("POST", "chunks/missing", json.dumps(question).encode())
        assert answer.status == 200, answer.body
        return [ChunkHash(bytes.fromhex(chunk)) for chunk in json.loads(answer.body)["missing"]]

    async def send(self, nar_hash: Hash, body: Body, bases: Sequence[str]) -> Answer:
        query = "&".join([f"sent={len(body.chunks)}", *(f"base={base}" for base in bases)])
        return await self.ask("POST", f"recipes/{nar_hash.nix32}?{query}", body.chunks + body.recipe)

    async def publish(self, what: Pushed, made: Answer) -> str:
        """Publish a path with the file that was made; the state in which it is then."""
        told = json.loads(made.body)
        assert (made.status, told["state"]) == (200, "received"), made.body
        file = Hash.parse(f"sha256:{told['file'].partition('.')[0]}")
        claim = replace(what.claim, url=f"nar/{told['file']}", file_hash=file, file_size=told["size"])
        body = json.dumps({"narinfos": [claim.format(STORE).decode()]}).encode()
        return str(json.loads((await self.ask("POST", "publish", body)).body)["paths"][0]["state"])

    async def push(self, what: Pushed) -> int:
        """Push a path as the client does; how many bytes of chunks were sent."""
        cut, bases = Cut.of(what), await self.bases(what.path.name)
        body = cut.body(await self.missing(cut.recipe.chunks(), bases))
        answer = await self.send(what.claim.path_info.nar_hash, body, bases)
        assert await self.publish(what, answer) == "published"
        return len(body.chunks)
