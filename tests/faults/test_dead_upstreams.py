"""An upstream that does not answer, asked by a mirror of four processes: what it costs, and how it comes back."""

import asyncio
import contextlib
import http.client
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from fault_upstream import KEY, Connection, FaultUpstream, hang, package, status
from server import Server
from worker_clients import connect, worker_of

from harmonia_py.mirror.breaker import FAILURES

BUDGET: Final = 1.0
WORKERS: Final = 4
# What a breaker that is open costs is its name in a log of errors; this is far more, and less than the budget.
NOTHING: Final = 0.8

# `harmonia-py` with breakers that are open for a second.
_QUICK: Final = """
import sys
from harmonia_py.mirror import breaker
from harmonia_py.cli import main
breaker.OPEN_SECONDS = 1.0
sys.exit(main())
"""


@asynccontextmanager
async def running(
    tmp_path: Path, upstream: FaultUpstream, *, budget: float, quick: bool = False
) -> AsyncIterator[Server]:
    values = {
        "workers": WORKERS,
        "daemon_socket": "/nowhere/socket",
        "real_nix_store": "/nowhere/store",
        "upstream": [{"url": upstream.url, "name": "up", "public_keys": [str(KEY.public_key)]}],
        "mirror": {"budget": budget},
    }
    server = Server(tmp_path, os.environ, values, interpreter=(sys.executable, "-c", _QUICK) if quick else ())
    await asyncio.to_thread(server.__enter__)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.stop)


def narinfo(number: int) -> str:
    return f"/{package(number).hash_part}.narinfo"


def breaker_open(server: Server) -> bool:
    text = server.get("/metrics").body.decode()
    found = re.search(r'^harmonia_upstream_breaker_open\{upstream="up"\} (\d)', text, re.MULTILINE)
    assert found is not None
    return found[1] == "1"


async def until_breaker(server: Server, *, is_open: bool) -> None:
    async with asyncio.timeout(60):
        while await asyncio.to_thread(breaker_open, server) is not is_open:  # noqa: ASYNC110  # another process makes it true
            await asyncio.sleep(0.05)


async def until_it_is_cut(ask: Callable[[int], Awaitable[int]]) -> None:
    """Ask until a question is the probe, and its worker has ended."""
    with contextlib.suppress(ConnectionError, http.client.HTTPException):
        while await ask(10) == 404:  # noqa: ASYNC110  # the time of the breaker has to pass
            await asyncio.sleep(0.05)


async def test_one_after_the_other_three_of_a_hundred_pay_over_all_workers(
    upstream: FaultUpstream, tmp_path: Path
) -> None:
    upstream.default = hang
    async with running(tmp_path, upstream, budget=BUDGET) as server, AsyncExitStack() as stack:
        clients = await connect(server, stack)
        paid = []
        for number in range(100):
            begun = time.monotonic()
            code = await clients[number % len(clients)].get(narinfo(number))
            paid.append(time.monotonic() - begun > NOTHING)
            # Once nobody is left to ask, work goes on without.
            assert code == (502 if number < FAILURES - 1 else 404)
        assert paid[:FAILURES] == [True] * FAILURES
        # A busy machine may take its time for one or another.
        assert sum(paid) <= FAILURES + 5
        assert len(upstream.requests) == FAILURES
        assert await asyncio.to_thread(breaker_open, server)


async def test_who_asks_while_others_wait_pays_once_and_whoever_comes_then_nothing(
    upstream: FaultUpstream, tmp_path: Path
) -> None:
    upstream.default = hang
    async with running(tmp_path, upstream, budget=BUDGET) as server, AsyncExitStack() as stack:
        clients = await connect(server, stack)
        await asyncio.gather(*[client.get(narinfo(number)) for number, client in enumerate(clients)])
        asked = len(upstream.requests)
        assert FAILURES <= asked <= len(clients)
        codes = [await client.get(narinfo(100 + number)) for number, client in enumerate(clients)]
        assert codes == [404] * len(clients)
        assert len(upstream.requests) == asked


async def test_a_probe_whose_worker_is_killed_is_followed_by_one_other(upstream: FaultUpstream, tmp_path: Path) -> None:
    upstream.default = status(500)
    probed: asyncio.Queue[int] = asyncio.Queue()

    async def hang_and_tell(connection: Connection) -> None:
        probed.put_nowait(connection.writer.get_extra_info("peername")[1])
        await hang(connection)

    async with running(tmp_path, upstream, budget=4.0, quick=True) as server:

        async def ask(number: int) -> int:
            return (await asyncio.to_thread(server.get, narinfo(number))).status

        assert [await ask(number) for number in range(FAILURES)] == [502] * (FAILURES - 1) + [404]
        await until_breaker(server, is_open=True)
        upstream.default = hang_and_tell
        probing = asyncio.create_task(until_it_is_cut(ask))
        async with asyncio.timeout(60):
            port = await probed.get()
        os.kill(await asyncio.to_thread(worker_of, server, upstream.port, port), signal.SIGKILL)
        await probing
        # Of the others nobody tries, until that one should have heard.
        upstream.serve(package(0))
        assert [await ask(number) for number in range(20, 30)] == [404] * 10
        assert len(upstream.requests) == FAILURES + 1
        assert await asyncio.to_thread(breaker_open, server)
        async with asyncio.timeout(60):
            while await ask(0) != 200:  # noqa: ASYNC110  # the time of the probe has to pass
                await asyncio.sleep(0.05)
        assert len(upstream.requests) == FAILURES + 2
        # Every worker knows that it is back.
        await until_breaker(server, is_open=False)
        upstream.default = status(404)
        assert [await ask(number) for number in range(40, 60)] == [404] * 20
        assert len(upstream.requests) == FAILURES + 22
