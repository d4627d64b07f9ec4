"""The paths that a push sends, from a store whose database this user may read, or may not."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from lab import Lab

from harmonia_py.errors import DaemonError, StorePathChanged
from harmonia_py.nix.store_path import StorePath
from harmonia_py.store.closure import StoreClosures
from harmonia_py.store.daemon.store import DaemonStore
from harmonia_py.store.sqlite import SqliteStore

ABSENT = StorePath(f"{'0' * 32}-absent")


@pytest.fixture(params=["database", "daemon", "both", "daemon, for the database cannot be read"])
async def store(request: pytest.FixtureRequest, daemon: Lab, tmp_path: Path) -> AsyncIterator[StoreClosures]:
    store = StoreClosures(store_dir=daemon.store_dir, real_store=daemon.real_store)
    async with AsyncExitStack() as stack:
        if request.param != "daemon":
            file = tmp_path / "none.sqlite" if "cannot" in request.param else daemon.database
            store.database = SqliteStore(file, daemon.store_dir)
            stack.push_async_callback(store.database.aclose)
        if request.param != "database":
            store.daemon = DaemonStore(daemon.socket, daemon.store_dir)
            stack.push_async_callback(store.daemon.aclose)
        yield store


async def test_a_closure_is_what_nix_says_it_is_with_references_first(store: StoreClosures, daemon: Lab) -> None:
    top, other = daemon.closure.top, daemon.closure.input1
    found = await store.closure([top, other])
    expected = set(daemon.nix_store("--query", "--requisites", daemon.full(top), daemon.full(other)).split())
    assert {daemon.full(path) for path in found.sizes} == expected
    infos = found.infos(found.sizes)
    assert {info.store_path: info.nar_size for info in infos} == dict(found.sizes)
    seen: set[StorePath] = set()
    for info in infos:
        assert set(info.references) <= seen | {info.store_path}
        seen.add(info.store_path)
    assert [info.store_path for info in found.infos([top])] == [top]
    with pytest.raises(StorePathChanged, match=f"{ABSENT} is not valid"):
        await store.closure([top, ABSENT])


async def test_a_path_whose_files_were_changed_is_not_read(store: StoreClosures, daemon: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"as it was added")
    path = daemon.add(tmp_path / "file")
    (info,) = (await store.closure([path])).infos([path])
    assert b"".join(map(bytes, store.nar(info))) == daemon.dump(path)
    daemon.real(path).chmod(0o644)
    daemon.real(path).write_bytes(b"as somebody changed it")
    with pytest.raises(StorePathChanged, match="its files make a NAR of"):
        b"".join(map(bytes, store.nar(info)))


async def test_a_database_that_cannot_be_read_is_an_error_where_no_daemon_is(daemon: Lab, tmp_path: Path) -> None:
    store = StoreClosures(store_dir=daemon.store_dir, real_store=daemon.real_store)
    store.database = SqliteStore(tmp_path / "none.sqlite", daemon.store_dir)
    with pytest.raises(DaemonError):
        await store.closure([daemon.closure.top])
    await store.database.aclose()
