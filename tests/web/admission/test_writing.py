"""What a client that brings something is told, and when: before its body, in one line, by a status that it can bear."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import pytest
from aiohttp import web
from serving import Answer, FakeSource, Served, read_answer
from waiting import eventually

from harmonia_py import errors
from harmonia_py.cache.access import Action, Principal, grants_of
from harmonia_py.cache.tokens import TokenHash, Tokens
from harmonia_py.errors import HarmoniaError, QuotaExceeded
from harmonia_py.web import server
from harmonia_py.web.admission.clients import Clients
from harmonia_py.web.admission.limits import Limits
from harmonia_py.web.admission.rate_limit import RateLimiter, RateTable
from harmonia_py.web.http import upload
from harmonia_py.web.http.errors import STATUSES, status_of
from harmonia_py.web.routes import put, routes
from harmonia_py.web.state import PRINCIPAL, ServingSettings

OLD_NIX: Final = "curl/7.85.0 Nix/2.8.0"
NEW_NIX: Final = "curl/8.14.1 Nix/2.34.8"
MOST: Final = 1000
FULL: Final = "Content Too Large: the cache is full; ask its operator"


class Pusher:
    """An `Authenticator`: `push` may push to the cache at `/`, `read` may read it."""

    def takes(self, _token: str) -> bool:
        return True

    async def principal(self, token: str) -> Principal | None:
        return Principal(f"token {token}", grants_of([token], ["default"])) if token in ("push", "read") else None


class Inbox:
    """Handlers of a PUT: what came, and what they answer."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.checked: list[str] = []
        self.error: Exception | None = None
        self.left = MOST

    async def check(self, request: web.Request) -> None:
        self.checked.append(request[PRINCIPAL].name)
        if upload.announced_bytes(request, MOST) > self.left:
            raise QuotaExceeded(FULL)

    async def put(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await upload.read(request, MOST))
        if self.error is not None:
            raise self.error
        return web.Response(status=204)


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> Inbox:
    inbox = Inbox()
    monkeypatch.setattr(server, "routes", lambda: [*routes(), put("/inbox/{name}", inbox.put, "inbox", inbox.check)])
    return inbox


@pytest.fixture
async def served(inbox: Inbox) -> AsyncIterator[Served]:
    settings = ServingSettings(authenticators=[Pusher()])
    async with Served(FakeSource(), settings=settings, limits=Limits(stall_timeout=1.0, request_timeout=30)) as served:
        yield served


def request(*lines: str, token: str | None = "push", agent: str = OLD_NIX, length: int | None = 4) -> bytes:
    head = ["PUT /inbox/x HTTP/1.1", "Host: x", f"User-Agent: {agent}"]
    head += [f"Authorization: Bearer {token}"] if token is not None else []
    head += [f"Content-Length: {length}"] if length is not None else []
    return "\r\n".join([*head, *lines, "", ""]).encode()


async def answer_to(served: Served, data: bytes) -> Answer:
    reader, writer = await served.connect()
    try:
        writer.write(data)
        return await read_answer(reader)
    finally:
        writer.close()


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
async def test_a_body_that_is_wanted_is_asked_for_at_once(served: Served, inbox: Inbox, expect: str) -> None:
    reader, writer = await served.connect()
    writer.write(request(f"Expect: {expect}"))
    assert (await read_answer(reader)).status == 100
    writer.write(b"body")
    assert (await read_answer(reader)).status == 204
    writer.write(request() + b"more")
    assert (await read_answer(reader)).status == 204
    writer.close()
    assert inbox.bodies == [b"body", b"more"]
    assert inbox.checked == ["token push"] * 2, "each is asked about once"


@pytest.mark.parametrize(
    ("token", "length", "status", "text"),
    [
        (None, 4, 401, "Unauthorized: give a token"),
        ("wrong", 4, 401, "Unauthorized: give a token"),
        ("read", 4, 403, "Forbidden: the token read does not allow to push the cache default"),
        ("push", MOST + 1, 413, "Content Too Large: this is 1001 bytes"),
        ("push", None, 411, "Length Required"),
        ("push", 5, 413, FULL),
    ],
)
async def test_one_that_is_not_wanted_is_refused_before_it_is_sent(  # noqa: PLR0917  # a case
    served: Served, inbox: Inbox, token: str | None, length: int | None, status: int, text: str
) -> None:
    """The framework asks for the body before it asks anything of ours, so gigabytes were sent to be refused."""
    inbox.left = 4
    lines = ["Expect: 100-continue"] + (["Transfer-Encoding: chunked"] if length is None else [])
    answer = await answer_to(served, request(*lines, token=token, length=length))
    assert answer.status == status
    assert answer.body.decode().startswith(text)
    assert answer.body.count(b"\n") == 1
    assert answer.headers["Connection"] == "close"
    assert answer.headers["Cache-Control"] == "no-store"
    assert inbox.bodies == []


async def test_a_body_may_take_longer_than_an_answer_as_long_as_it_comes(inbox: Inbox) -> None:
    """Handlers were ended after `request_timeout`, so an upload that took two minutes could never succeed."""
    settings = ServingSettings(authenticators=[Pusher()])
    limits = Limits(stall_timeout=30, request_timeout=0.5)
    async with Served(FakeSource(), settings=settings, limits=limits) as served:
        reader, writer = await served.connect()
        writer.write(request(length=8))
        for _ in range(8):
            await asyncio.sleep(0.1)
            writer.write(b"x")
        assert (await read_answer(reader)).status == 204
        writer.close()
    assert inbox.bodies == [b"x" * 8]


@pytest.mark.parametrize(("agent", "status"), [(OLD_NIX, 409), (NEW_NIX, 408)])
async def test_a_body_that_stops_coming_is_given_up(served: Served, inbox: Inbox, agent: str, status: int) -> None:
    answer = await answer_to(served, request(agent=agent) + b"bo")
    assert answer.status == status
    assert answer.body.startswith(b"This cache cannot take it now")
    assert inbox.bodies == []


async def test_a_client_that_leaves_in_the_middle_leaves_nothing(served: Served, inbox: Inbox) -> None:
    tasks = len(asyncio.all_tasks())
    _, writer = await served.connect()
    writer.write(request() + b"bo")
    await writer.drain()
    writer.transport.abort()
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
    assert inbox.bodies == []


@pytest.mark.parametrize(
    ("agent", "later"),
    [
        (OLD_NIX, 409),
        ("curl/8.7.1 Nix/2.33.1", 409),
        ("curl/8.7.1 Nix/2.33.2", 503),
        (NEW_NIX, 503),
        ("curl/8.7.1 Nix/3.0", 503),
        ("curl/8.7.1 Lix/2.93.3", 409),
        ("attic-client", 503),
    ],
)
async def test_a_nix_that_cannot_send_its_body_again_is_never_told_to_come_later(
    served: Served, inbox: Inbox, agent: str, later: int
) -> None:
    """Nix 2.8 announces the body once more, sends none, and hangs until the server loses patience; then fails."""
    for error in (errors.DaemonUnreachable("/secret"), errors.StorageError("/secret"), errors.Overloaded("/secret")):
        inbox.error = error
        answer = await answer_to(served, request(agent=agent) + b"body")
        assert answer.status == later
        assert answer.body == b"This cache cannot take it now: run the same command again later\n"
    inbox.error = errors.StorageFull("/secret")
    assert (await answer_to(served, request(agent=agent) + b"body")).status == (409 if later == 409 else 507)


@pytest.mark.parametrize("kind", [kind for kind in STATUSES if issubclass(kind, HarmoniaError)])
async def test_no_error_is_told_to_old_nix_as_something_that_breaks_it(
    served: Served, inbox: Inbox, kind: type[HarmoniaError]
) -> None:
    inbox.error = kind("one line\nanother \x1b[2J")
    answer = await answer_to(served, request() + b"body")
    assert answer.status in (400, 401, 403, 409, 410, 411, 413, 422)
    assert answer.body.count(b"\n") == 1
    assert b"\x1b" not in answer.body
    told = issubclass(kind, errors.FormatError | errors.AccessError | errors.PushRefused | errors.QuotaExceeded)
    assert (b"one line" in answer.body) == told


def test_who_writes_is_told_another_thing_than_who_reads() -> None:
    assert (status_of(errors.FormatError("")), status_of(errors.FormatError(""), writing=True)) == (404, 400)
    assert (status_of(errors.StorageFull("")), status_of(errors.StorageFull(""), writing=True)) == (503, 507)
    for kind in STATUSES:
        assert status_of(kind(""), writing=True) not in (202, 303, 404, 429)


def test_whatever_may_change_something_says_what_it_takes() -> None:
    for route in routes():
        assert (route.method == "GET") == (route.terms is None or route.terms.action in (None, Action.READ))


async def test_an_old_nix_that_asks_too_often_waits(inbox: Inbox) -> None:
    """429 is as bad as 503 for it."""
    limiter = RateLimiter(RateTable(), rate=20, burst=1)
    settings = ServingSettings(authenticators=[Pusher()])
    async with Served(FakeSource(), settings=settings, clients=Clients(limiter=limiter)) as served:
        assert [(await answer_to(served, request() + b"body")).status for _ in range(4)] == [204] * 4
        assert (await answer_to(served, request(agent=NEW_NIX) + b"body")).status == 429
    assert len(inbox.bodies) == 4


async def test_tokens_of_the_file_push_nothing(inbox: Inbox) -> None:
    token, line = TokenHash.generate("laptop")
    async with Served(FakeSource(), tokens=Tokens([line])) as served:
        answer = await answer_to(served, request(token=token) + b"body")
    assert answer.status == 403
    assert answer.body == b"Forbidden: the token laptop does not allow to push the cache default\n"
    assert inbox.bodies == []
