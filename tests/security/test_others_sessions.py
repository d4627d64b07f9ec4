"""Sessions of pushes that a client did not begin: by another token, from another cache.

A session is a lease: a client that used one of another holder could learn what it brings, end what it relies on, or
keep what would otherwise go.
"""

import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from house import Clock
from pushed_paths import GLIBC, REFERENCE, STORE
from pushing import TEAM, PushServer, pushed_to
from serving import Answer

from harmonia_py.catalog.uploads import Session
from harmonia_py.nix import base32

# A session is looked up anew after ten minutes.
_LONG: Final = 3600
_FILE: Final = GLIBC.place.removeprefix("/nar/")
NEVER: Final = "0" * 32
"""The id of a session that there never was."""

REQUESTS: Final[dict[str, tuple[str, str, bytes | None]]] = {
    "ask what it has brought": ("GET", "", None),
    "end it": ("DELETE", "", None),
    "ask what is missing": ("POST", "/missing", json.dumps({"paths": [REFERENCE.hash_part]}).encode()),
    "publish": ("POST", "/publish", json.dumps({"narinfos": [GLIBC.narinfo.decode()]}).encode()),
    "finish": ("POST", "/finish", json.dumps({"roots": []}).encode()),
    "send a file": ("PUT", f"/nars/{_FILE}", GLIBC.data),
    "ask how much of a file is there": ("GET", f"/parts/{_FILE}", None),
    "send a part": ("PATCH", f"/parts/{_FILE}?offset=0", GLIBC.data[:10]),
    "say that a file is whole": (
        "POST",
        f"/parts/{_FILE}",
        json.dumps({"file": _FILE, "size": len(GLIBC.data)}).encode(),
    ),
    "ask where a file goes": ("GET", f"/uploads/{_FILE}?size={len(GLIBC.data)}", None),
    "say that a file is there": ("POST", f"/uploads/{_FILE}", b""),
    "ask which paths are like one": ("POST", "/chunks/bases", b'{"names": ["glibc-2.35"]}'),
    "ask which chunks are missing": ("POST", "/chunks/missing", b'{"chunks": [], "bases": []}'),
    "send a recipe": ("POST", f"/recipes/{GLIBC.claim.path_info.nar_hash.nix32}?sent=0", b"recipe"),
    "ask whether a file is made": ("GET", f"/recipes/{GLIBC.claim.path_info.nar_hash.nix32}", None),
}
OTHERS: Final = {
    "another token for the same cache": ("promoter", "team"),
    "a token of another cache, there": ("stranger", "other"),
    "a token of both, from the other cache": ("promoter", "other"),
}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def server(tmp_path: Path, clock: Clock) -> AsyncIterator[PushServer]:
    async with pushed_to(tmp_path, STORE, clock=clock) as server:
        yield server


async def begun(server: PushServer, token: str = "pusher", cache: str = "team") -> str:
    answer = await server.request("POST", f"/{cache}/api/sessions", b"", token=token)
    assert answer.status == 200
    session: str = json.loads(answer.body)["session"]
    return session


async def ask(server: PushServer, session: str, what: str, token: str = "pusher", cache: str = "team") -> Answer:
    method, place, body = REQUESTS[what]
    return await server.request(method, f"/{cache}/api/sessions/{session}{place}", body, token=token)


async def state_of(server: PushServer, session: str) -> tuple[Session | None, Any]:
    return await server.catalog.sessions.find(session), await server.catalog.sessions.progress(session)


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("what", REQUESTS)
async def test_a_session_of_another_holder(server: PushServer, clock: Clock, what: str, other: str) -> None:
    """It is answered as one that there never was, and neither used, prolonged, ended nor seen."""
    token, cache = OTHERS[other]
    session = await begun(server)
    assert (await server.request("PUT", f"/team/api/sessions/{session}/nars/{_FILE}", GLIBC.data)).status == 200
    before = await state_of(server, session)
    for ahead in (0, _LONG):
        clock.ahead = ahead
        there, nowhere = [await ask(server, one, what, token, cache) for one in (session, NEVER)]
        assert there.status == nowhere.status == 410
        assert there.body == nowhere.body
        assert await state_of(server, session) == before, "no sign of life, no end, nothing brought"
        assert await server.catalog.sessions.find(NEVER) is None
    assert (await ask(server, session, "publish")).status == 200, "its holder goes on"
    assert (await server.get(f"/{REFERENCE.hash_part}.narinfo")).status == 200


async def test_a_lease_of_another_holder(server: PushServer) -> None:
    """What a session was told is here stays for it, whatever others do with sessions of their own."""
    assert (await server.put(GLIBC.place, GLIBC.data)).status == 200
    assert (await server.put(f"/{REFERENCE.hash_part}.narinfo", GLIBC.narinfo)).status == 200
    session, other = await begun(server), await begun(server, "promoter")
    for one, token in ((session, "pusher"), (other, "promoter")):
        assert json.loads((await ask(server, one, "ask what is missing", token)).body)["missing"] == []
    assert (await ask(server, other, "end it", "promoter")).status == 200
    assert (await server.catalog.sessions.progress(session)).present == 1
    assert (await server.catalog.sessions.progress(other)).present == 0


async def test_the_session_of_stock_nix_whose_id_anybody_can_compute(server: PushServer) -> None:
    """That of `/push/RUN` is made of the cache, the name of the token and the run: no secret."""
    assert (await server.put(GLIBC.place, GLIBC.data, run="r1")).status == 200
    team = await server.catalog.caches.find(TEAM)
    assert team is not None
    session = base32.encode(hashlib.sha256(f"{team.id}\0token pusher\0r1".encode()).digest()[:20])
    before = await state_of(server, session)
    assert before[0] is not None
    for what in REQUESTS:
        assert (await ask(server, session, what, "promoter")).status == 410, what
    assert await state_of(server, session) == before
