import asyncio
from pathlib import Path

import pytest
from plain_store import PlainStore

from harmonia_py.cache import checks
from harmonia_py.cache.checks import Check
from harmonia_py.errors import DaemonUnreachable, StorageFull


async def works() -> None:
    pass


async def is_unreachable() -> None:
    raise DaemonUnreachable("nobody answers on /run/secret/socket")


async def is_full() -> None:
    raise StorageFull("/var/cache/secret is full")


async def hangs() -> None:
    await asyncio.Event().wait()


@pytest.fixture
def store(tmp_path: Path) -> PlainStore:
    return PlainStore(tmp_path)


async def test_it_is_ready_when_every_check_succeeds(store: PlainStore) -> None:
    store.checks = [Check("nix-daemon", works), Check("cache-directory", works)]
    async with store.site() as site:
        answer = await site.get("/ready")
        assert (answer.status, answer.body) == (200, b"OK\n")
        assert answer.headers["Cache-Control"] == "no-store"
        assert (await site.request("HEAD", "/ready")).headers["Content-Length"] == "3"


async def test_it_names_the_checks_that_fail_and_nothing_else(
    store: PlainStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.checks = [Check("nix-daemon", is_unreachable), Check("works", works), Check("cache-directory", is_full)]
    async with store.site() as site:
        answer = await site.get("/ready")
        head = await site.request("HEAD", "/ready")
    assert (answer.status, answer.body) == (503, b"nix-daemon\ncache-directory\n")
    assert answer.headers["Cache-Control"] == "no-store"
    assert int(answer.headers["Retry-After"]) > 0
    assert head.status == 503
    assert "/run/secret/socket" in caplog.text


async def test_a_check_that_hangs_fails(store: PlainStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECK_SECONDS", 0.05)
    store.checks = [Check("nix-daemon", hangs)]
    async with store.site() as site:
        answer = await site.get("/ready")
    assert (answer.status, answer.body) == (503, b"nix-daemon\n")


async def test_the_process_is_healthy_nevertheless(store: PlainStore) -> None:
    store.checks = [Check("nix-daemon", is_unreachable)]
    async with store.site() as site:
        assert (await site.get("/health")).status == 200
