"""Pushed files that are deleted, cut or changed under the running server: found, hidden, said, and healed by a push."""

import asyncio
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import backing
import pytest
from house import House, blob, download, static, status
from lab import Lab
from pushed_paths import GLIBC, HELLO, PATH, REFERENCE, push, pushed
from pushing import OTHER, pushed_to
from trees import File, Folder

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.uploads import SESSION_SECONDS, WAITING_SECONDS
from harmonia_py.errors import StorageFull
from harmonia_py.metrics import families
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.store_path import StorePath
from harmonia_py.push.static_side import StaticSide

SHELL = StorePath("6qv4vv5c4s9nlw2m5p0brzz0pmi1p3jw-shell-1")


def delete(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def replace_by_another(path: Path) -> None:
    if backing.IN_BUCKET:
        pytest.skip("an object does not say which program has written it: the scrub finds one of the right size")
    new = path.with_name("new")
    new.write_bytes(b"x" * path.stat().st_size)
    new.rename(path)


FAULTS: tuple[Callable[[Path], None], ...] = (delete, cut, flip, replace_by_another)
faults = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)


async def heads(house: House, path: StorePath) -> int:
    """What a client is told that is about to push."""
    return (await house.server.get(f"/push/r2/{path.hash_part}.narinfo", token="pusher", method="HEAD")).status


@faults
async def test_a_lost_file_is_never_served_wrong_is_hidden_with_what_references_it_and_healed_by_the_next_push(
    house: House, fault: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The narinfo of a path was served while the file of something that it references was not there any more."""
    await house.published(GLIBC, HELLO)
    for what in (GLIBC, HELLO, GLIBC):
        assert (await download(house, what)).body == what.data, "open, and ready to be sent again"
    fault(house.server.directory / blob(GLIBC))
    assert (await download(house, GLIBC)).status == 404
    assert [await status(house, path) for path in (PATH, REFERENCE)] == [404, 404]
    assert [await heads(house, path) for path in (PATH, REFERENCE)] == [404, 404]
    assert "; paths hidden until the file is pushed again: 2" in caplog.text
    assert (await push(house.server, GLIBC, run="r2")).status == 200
    assert [await status(house, path) for path in (PATH, REFERENCE)] == [200, 200], "the other file is there still"
    assert (await download(house, GLIBC)).body == GLIBC.data
    assert (await download(house, HELLO)).body == HELLO.data


@faults
async def test_a_push_finds_what_is_lost_before_any_reader(house: House, fault: Callable[[Path], None]) -> None:
    await house.published(GLIBC, HELLO)
    fault(house.server.directory / blob(GLIBC))
    assert [await heads(house, path) for path in (PATH, REFERENCE)] == [200, 404]
    assert (await push(house.server, GLIBC, run="r2")).status == 200
    assert await status(house, PATH) == 200


async def test_a_file_that_was_touched_and_is_right_is_served(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """A backup that was played back, without times: each file is read once, and no file is lost."""
    await house.published(GLIBC)
    path = house.server.directory / blob(GLIBC)
    path.touch()
    assert (await download(house, GLIBC)).body == GLIBC.data
    assert path.stat().st_mtime < 2
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_other_programs_do_not_see_what_is_hidden_and_see_it_again_when_it_is_healed(house: House) -> None:
    await house.published(GLIBC, HELLO)
    await house.look(0)
    delete(house.server.directory / blob(GLIBC))
    await download(house, GLIBC)
    await house.look(0)
    assert not {static(PATH), static(REFERENCE)} & house.files()
    await house.published(GLIBC)
    await house.look(0)
    assert {static(PATH), static(REFERENCE), blob(GLIBC), blob(HELLO)} <= house.files()


async def test_what_is_hidden_outlives_the_time_in_which_a_path_waits_for_its_references(house: House) -> None:
    """It was published: it does not wait for an hour, but until the file comes again, or it is too old to be kept."""
    await house.published(GLIBC, HELLO)
    delete(house.server.directory / blob(GLIBC))
    await download(house, GLIBC)
    await house.look(2 * WAITING_SECONDS)
    await house.look(SESSION_SECONDS + 60)
    assert (await push(house.server, GLIBC, run="r2")).status == 200
    assert await status(house, PATH) == 200


async def test_of_two_lost_files_both_have_to_come_again(house: House) -> None:
    shell = pushed(SHELL, Folder({b"sh": File(f"{PATH}".encode())}), PATH)
    await house.published(GLIBC, HELLO, shell)
    for what in (GLIBC, HELLO):
        delete(house.server.directory / blob(what))
        await download(house, what)
    assert (await push(house.server, HELLO, run="r2")).status == 200
    assert [await status(house, path) for path in (SHELL, PATH, REFERENCE)] == [404, 404, 404]
    assert (await push(house.server, GLIBC, run="r2")).status == 200
    assert [await status(house, path) for path in (SHELL, PATH, REFERENCE)] == [200, 200, 200]


async def test_what_is_pushed_anew_while_a_reference_is_lost_waits_for_it(house: House) -> None:
    await house.published(GLIBC, HELLO)
    delete(house.server.directory / blob(GLIBC))
    await download(house, GLIBC)
    shell = pushed(SHELL, Folder({b"sh": File(f"{PATH}".encode())}), PATH)
    assert (await push(house.server, shell, run="r2")).status == 200
    assert await status(house, SHELL) == 404
    assert (await push(house.server, GLIBC, run="r2")).status == 200
    assert [await status(house, path) for path in (SHELL, PATH, REFERENCE)] == [200, 200, 200]


async def test_a_file_that_several_caches_have_is_hidden_and_healed_in_all_of_them(house: House) -> None:
    await house.published(GLIBC, HELLO)
    for what in (GLIBC, HELLO):
        for place, data in ((what.place, what.data), (f"/{what.path.hash_part}.narinfo", what.narinfo)):
            answer = await house.server.request("PUT", f"/{OTHER}/push{place}", data, token="stranger")
            assert answer.status == 200

    async def status_in_other(path: StorePath) -> int:
        return (await house.server.request("GET", f"/{OTHER}/{path.hash_part}.narinfo", token="stranger")).status

    delete(house.server.directory / blob(GLIBC))
    await download(house, GLIBC)
    assert [await status_in_other(path) for path in (PATH, REFERENCE)] == [404, 404]
    await house.published(GLIBC)
    assert [await status_in_other(path) for path in (PATH, REFERENCE)] == [200, 200]
    await house.look(0)
    assert f"{CacheName('other')}/{PATH.hash_part}.narinfo" in house.files()


async def test_what_is_lost_is_counted(house: House) -> None:
    await house.published(GLIBC, HELLO)
    delete(house.server.directory / blob(GLIBC))
    for _ in range(2):
        await download(house, GLIBC)
    metrics = house.server.metrics
    assert metrics.counter(families.kept.QUARANTINED_FILES, "pushed").value == 1
    assert metrics.counter(families.kept.HIDDEN_PATHS, "pushed").value == 2
    entries = [one for one in await house.server.catalog.audit.page(None, 100) if one.action == "quarantine"]
    assert [(one.principal, one.subject) for one in entries] == [("server", blob(GLIBC))]
    assert json.loads(entries[0].detail)["hidden"] == 2


async def test_a_narinfo_for_other_programs_that_a_full_disk_refused_is_written_later(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was said in the log, and the directory lacked the path for ever."""

    async def refuse(*_: object) -> None:
        raise StorageFull("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(StaticSide, "write", refuse)
        await house.published(GLIBC)
    assert static(REFERENCE) not in house.files()
    await house.look(0)
    assert static(REFERENCE) in house.files()


async def test_stock_nix_sends_again_what_was_lost_and_nothing_else(lab: Lab, tmp_path: Path) -> None:
    async with pushed_to(tmp_path, lab.store_dir) as server:
        top, below = lab.closure.top, lab.closure.input0
        await server.copy(lab, top)
        narinfo = NarInfo.parse((await server.get(f"/{below.hash_part}.narinfo")).body, lab.store_dir)
        assert narinfo.file_hash is not None
        (file,) = (server.directory / "nar").glob(f"{narinfo.file_hash.nix32}.*")
        before = Hash.of(file.read_bytes())
        await asyncio.to_thread(flip, file)
        assert (await server.get(f"/{narinfo.url}")).status == 404
        server.access_log.flush()
        server.log.clear()
        await server.copy(lab, top, run="r2")
        assert [line for line in server.seen if line.startswith("PUT /r2/nar/")] == [
            f"PUT /r2/nar/{file.name} 200",
        ]
        assert Hash.of(file.read_bytes()) == before
        client = await server.substitute(lab, "client", top)
        assert client.run("nix-store", "--dump", lab.full(top)).stdout == lab.dump(top)
