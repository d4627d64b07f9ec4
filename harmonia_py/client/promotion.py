"""`POST /api/promote`, as its client sees it: asked again while it goes on."""

from collections.abc import Sequence
from typing import Final

import msgspec

from harmonia_py.client.answers import Promoted, fields, understanding
from harmonia_py.client.http import HttpServer
from harmonia_py.errors import UpstreamProtocolError

# Before the first path is published, all of a closure of thousands is read.
_PROMOTION_SECONDS: Final = 600.0


async def promote(server: HttpServer, root: str, source: str, paths: Sequence[str]) -> Promoted:
    """Publish paths of the cache `source` of a server, and all that they refer to, in another one of it.

    Args:
        server: that has both.
        root: the place of the other one there, as in `PushApi`.
        source: the name of the cache that has them.
        paths: store paths, in full or by their base names.

    Raises:
        HarmoniaError: as `HttpServer.ask`; the message says what is missing.
    """
    body = msgspec.json.encode({"from": source, "paths": paths})
    published: list[str] = []
    kept_first: list[str] = []
    present: int | None = None
    while True:
        answer = await server.ask("POST", f"{root}api/promote", body, stall=_PROMOTION_SECONDS)
        told = fields(answer.json())
        with understanding():
            new, first = list(map(str, told["published"])), list(map(str, told["kept_first"]))
            if present is None:  # what an earlier answer has published is present in the later ones
                present = int(told["present"])
        published += new
        kept_first += first
        if told.get("state") != "going on":
            return Promoted(published=tuple(published), present=present, kept_first=tuple(kept_first))
        if not new and not first:
            raise UpstreamProtocolError("the server goes on with the promotion, and publishes nothing")
