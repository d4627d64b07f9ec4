"""A cache exported as files: what stock Nix, and a web server, make of it."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from chunking import make_chunks, nar_of
from house import Clock, House, blob, team
from lab import Client, Lab
from nginx import Nginx
from pushed_paths import GLIBC, HELLO, PATH, REFERENCE, STORE, pushed
from pushing import PushServer, pushed_to
from trees import File, Folder, Tree, nar

from harmonia_py.errors import StorageError
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import StorePath
from harmonia_py.push.exporting import Exported
from harmonia_py.wiring.cache_keys import SigningKey
from harmonia_py.wiring.exporting import export_of

KEY = SecretKey.generate("team-1")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with pushed_to(tmp_path, STORE) as server:
        house = House(server, Clock())
        await house.published(GLIBC, HELLO)
        yield house


async def export(server: PushServer, directory: Path, *, link: bool = False) -> Exported:
    row = await team(House(server, Clock()))
    return await export_of(server.node, row, [SigningKey(KEY)], directory, link=link).run()


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


async def test_what_is_there_is_not_written_again(house: House, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert await export(house.server, out) == Exported(
        paths=2, nars=2, size=len(GLIBC.data) + len(HELLO.data), documents=2
    )
    expected = {f"{path.hash_part}.{suffix}" for path in (PATH, REFERENCE) for suffix in ("narinfo", "ls")}
    assert files(out) == expected | {"nix-cache-info", blob(GLIBC), blob(HELLO)}
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in out.rglob("*") if path.is_file())
    before = {path: path.stat().st_ino for path in out.rglob("*")}
    assert await export(house.server, out) == Exported(paths=2)
    assert {path: path.stat().st_ino for path in out.rglob("*")} == before
    narinfo = NarInfo.parse((out / f"{PATH.hash_part}.narinfo").read_bytes(), STORE)
    assert (out / narinfo.url).read_bytes() == HELLO.data
    assert any(KEY.public_key.verify(narinfo.path_info.fingerprint(STORE), one) for one in narinfo.path_info.signatures)


async def test_an_export_that_is_cut_off_is_a_cache_at_any_moment_and_goes_on(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each narinfo that is there, the NAR and the narinfos of the references are there."""
    out, left, finished = tmp_path / "out", 0, False
    rename = Path.rename

    def rename_or_fail(path: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left < 0 and out in path.parents:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    while not finished:
        left = 1
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename_or_fail)
            try:
                await export(house.server, out)
                finished = True
            except StorageError:
                pass
        for file in out.glob("*.narinfo"):
            narinfo = NarInfo.parse(file.read_bytes(), STORE)
            assert (out / narinfo.url).is_file()
            assert (out / f"{narinfo.path_info.store_path.hash_part}.ls").is_file()
            assert all((out / f"{path.hash_part}.narinfo").is_file() for path in narinfo.path_info.references)
        assert not list(out.rglob(".*"))
    assert len(list(out.glob("*.narinfo"))) == 2


async def test_a_path_whose_file_is_lost_is_left_out_with_what_references_it(house: House, tmp_path: Path) -> None:
    (house.server.directory / blob(GLIBC)).unlink()
    done = await export(house.server, tmp_path / "out")
    assert (done.paths, done.skipped) == (0, 2)
    assert not list((tmp_path / "out").glob("*.narinfo"))


async def test_each_document_is_a_file_with_what_readers_of_the_cache_are_told(house: House, tmp_path: Path) -> None:
    """Logs, indexes of debug files, and realisations in both forms, below the names that Nix asks a web server for."""
    derivation, build_id = StorePath(f"{'2' * 32}-hello.drv"), "ab" * 20
    tree: Tree = File(b"symbols")
    for entry in (b"ab" * 19 + b".debug", b"ab", b".build-id", b"debug", b"lib"):
        tree = Folder({entry: tree})
    await house.published(pushed(derivation, File(b"Derive()")), pushed(StorePath(f"{'3' * 32}-hello-debug"), tree))
    outputs = (DrvOutput.parse(f"sha256:{'ab' * 32}!out"), DrvOutput.of(derivation, "out"))
    old, new = (Realisation(id=output, out_path=PATH) for output in outputs)
    log, old_name = f"log/{derivation}", f"realisations/{outputs[0]}.doi"
    new_name = f"build-trace-v2/{derivation}/out.doi"
    for name, body in ((log, b"built\n"), (old_name, old.format_old()), (new_name, new.format_new())):
        assert (await house.server.put(f"/{name}", body)).status == 200
    out = tmp_path / "out"
    assert (await export(house.server, out)).documents == 4 + 4, "each path has a listing"
    assert (out / log).read_bytes() == b"built\n"
    for exported in (
        Realisation.parse_old((out / old_name).read_bytes()),
        Realisation.parse_new((out / new_name).read_bytes(), new.id),
    ):
        assert exported.out_path == PATH
        assert any(KEY.public_key.verify(exported.fingerprint(), one) for one in exported.signatures)
    debug_file = json.loads((out / f"debuginfo/{build_id}.debug").read_bytes())
    assert (await house.server.get(f"/debuginfo/{build_id}.debug")).body.count(debug_file["member"].encode()) == 1
    assert (out / "debuginfo" / debug_file["archive"]).read_bytes() == nar(tree)
    assert (await export(house.server, out)).documents == 0


async def test_what_is_kept_as_chunks_is_exported_as_the_files_that_clients_see(house: House, tmp_path: Path) -> None:
    """`harmonia-py export` ended with "what is kept is not a file here" at the first NAR that had become chunks."""
    assert (await make_chunks(house)).files == 2
    out = tmp_path / "out"
    for link in (False, True):
        await export(house.server, out / str(link), link=link)
        for push in (GLIBC, HELLO):
            hash_part = push.claim.path_info.store_path.hash_part
            info = NarInfo.parse((out / str(link) / f"{hash_part}.narinfo").read_bytes(), STORE)
            file = (out / str(link) / info.url).read_bytes()
            nar = nar_of(file) if info.compression == "zstd" else file
            assert (len(file), hashlib.sha256(nar).digest()) == (info.file_size, info.path_info.nar_hash.digest)


async def test_linked_files_take_no_room_and_outlive_the_cache(house: House, tmp_path: Path) -> None:
    out = tmp_path / "out"
    await export(house.server, out, link=True)
    file = house.server.directory / blob(HELLO)
    assert file.stat().st_ino == (out / blob(HELLO)).stat().st_ino
    assert (await house.server.get(f"/{PATH.hash_part}.narinfo")).status == 200
    file.unlink()
    assert (out / blob(HELLO)).read_bytes() == HELLO.data


def assert_same(client: Client, lab: Lab, *paths: StorePath) -> None:
    for path in paths:
        assert client.run("nix-store", "--dump", lab.full(path)).stdout == lab.dump(path)


@pytest.mark.parametrize("how", ["file", "nginx"])
async def test_stock_nix_substitutes_from_the_files_alone(lab: Lab, tmp_path: Path, how: str) -> None:
    out, top = tmp_path / "out", lab.closure.top
    async with pushed_to(tmp_path, lab.store_dir) as server:
        await server.copy(lab, top, compression="xz")
        done = await export(server, out)
        assert done.skipped == 0
    async with AsyncExitStack() as stack:
        url = f"file://{out}" if how == "file" else stack.enter_context(Nginx(tmp_path, out)).url
        client = lab.client("client")
        options = ["--option", "substituters", url, "--option", "trusted-public-keys", str(KEY.public_key)]
        await asyncio.to_thread(client.nix_store, "--realise", lab.full(top), *options)
    assert_same(client, lab, top, lab.closure.input0, lab.closure.input2)


async def test_a_user_who_may_not_write_there_reads_the_files(lab: Lab, tmp_path: Path) -> None:
    """What root had exported nobody else could read: `creating directory '…/realisations': Permission denied`."""
    out, top = tmp_path / "out", lab.closure.top
    async with pushed_to(tmp_path, lab.store_dir) as server:
        await server.copy(lab, top, compression="xz")
        await export(server, out)
    directories = [out, *(path for path in out.rglob("*") if path.is_dir())]
    before = {path.relative_to(out) for path in directories}
    await asyncio.to_thread(lab.run, "nix-store", "--store", f"file://{out}", "--query", "--references", lab.full(top))
    assert {path.relative_to(out) for path in (out, *out.rglob("*")) if path.is_dir()} == before
