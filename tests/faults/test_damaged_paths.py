"""Valid paths whose files are missing or changed: clients go on without them, and the server says what is wrong."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from lab import Lab
from server import Server, settings_of
from waiting import wait_until
from watched import random_file

from harmonia_py.commands.doctor.directories import look_at_store, store_paths_in
from harmonia_py.config.settings import Config
from harmonia_py.nix.store_path import StorePath
from harmonia_py.store.daemon.store import DaemonStore

SEEN_SECONDS: Final = 20.0
# One that is verified before its first byte is sent, and one that is not.
SIZES: Final = [100_000, 8 * 1024 * 1024]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One for all tests here: each has store paths of its own."""
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        lab.start_daemon()
        yield lab


@pytest.fixture
def settings(daemon: Lab) -> dict[str, Any]:
    return settings_of(daemon) | {"workers": 2}


@pytest.fixture
def server(daemon: Lab, settings: dict[str, Any], tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path, daemon.env, settings) as server:
        yield server


def add(daemon: Lab, directory: Path, size: int) -> StorePath:
    directory.mkdir()
    random_file(directory / "file", size)
    (directory / "link").symlink_to("nowhere!")
    return daemon.add(directory)


def lose(real: Path) -> None:
    real.chmod(0o755)  # a user moves only what they may write to
    real.rename(real.parent.parent / f"lost-{real.name}")


def lose_file(real: Path) -> None:
    largest(real).unlink()


def change_size(real: Path) -> None:
    with largest(real).open("ab") as file:
        file.write(b"more")


def change_contents(real: Path) -> None:
    file = largest(real)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def largest(real: Path) -> Path:
    """A file of a path, made so that it can be changed."""
    file = max((file for file in real.iterdir() if not file.is_symlink()), key=lambda file: file.stat().st_size)
    real.chmod(0o755)
    file.chmod(0o644)
    return file


DAMAGES: Final = [lose, lose_file, change_size, change_contents]


def narinfo_url(server: Server, path: StorePath) -> str:
    text = server.get(f"/{path.hash_part}.narinfo").body.decode()
    return dict(line.split(": ", 1) for line in text.splitlines())["URL"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_client_builds_what_it_cannot_get(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """The NAR was answered with 500: Nix tried five times and failed the build ("try --fallback"). Nix's own tests want
    that it goes on, as it does after 404. The server has a copy of the store that the client builds in."""
    with Lab(tmp_path) as lab:
        closure = lab.build()
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / "nix", copy, symlinks=True)
        lab.delete(closure.top)
        damage(copy / "store" / closure.top)
        served = {"nix_db_path": str(copy / "var/nix/db/db.sqlite"), "real_nix_store": str(copy / "store")}
        with Server(tmp_path, lab.env, settings_of(lab) | served) as server:
            options = ("--option", "substituters", server.url, "--option", "require-sigs", "false")
            lab.run("nix-store", "--realise", lab.full(closure.derivation), *options)
    assert lab.is_valid(closure.top)


@pytest.mark.parametrize("size", SIZES)
def test_a_client_goes_on_with_the_next_substituter(server: Server, daemon: Lab, tmp_path: Path, size: int) -> None:
    path = add(daemon, tmp_path / "directory", size)
    daemon.nix("copy", "--to", f"file://{tmp_path}/other?compression=none", daemon.full(path))
    right = daemon.dump(path)
    change_contents(daemon.real(path))
    client = daemon.client(tmp_path.name)
    options = {"substituters": f"{server.url} file://{tmp_path}/other?priority=99", "require-sigs": "false"}
    arguments = [argument for name, value in options.items() for argument in ("--option", name, value)]
    client.run("nix-store", "--realise", daemon.full(path), "--option", "max-jobs", "0", *arguments)
    assert client.run("nix-store", "--dump", str(client.real(path))).stdout == right


@pytest.mark.parametrize("compression", ["zstd", "none"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_it_is_not_here_by_any_url_of_any_worker_and_that_is_said_loudly(
    daemon: Lab, settings: dict[str, Any], tmp_path: Path, damage: Callable[[Path], None], compression: str
) -> None:
    if compression == "none" and damage is change_contents:
        pytest.skip("what has the right size is verified where it is compressed")
    path = add(daemon, tmp_path / "directory", SIZES[0])
    with Server(tmp_path, daemon.env, settings | {"compression": compression}) as server:
        targets = [f"/{path.hash_part}.narinfo", f"/{narinfo_url(server, path)}", f"/{path.hash_part}.ls"]
        damage(daemon.real(path))
        assert server.get(targets[1]).status == 404
        wait_until(
            lambda: all(server.get(target).status == 404 for _ in range(15) for target in targets), seconds=SEEN_SECONDS
        )
        page = server.get(f"/path/{path.hash_part}")
        assert page.status == 404
        assert b"nix-store --repair-path" in page.body
        metrics = server.get("/metrics").body.decode()
        assert "harmonia_damaged_paths_total 1\n" in metrics
    assert f"critical: {path} is damaged: " in server.output().lower()
    assert "Traceback" not in server.output()


def test_a_path_that_was_repaired_is_served_again(server: Server, daemon: Lab, tmp_path: Path) -> None:
    path = add(daemon, tmp_path / "directory", SIZES[0])
    url, right = narinfo_url(server, path), daemon.dump(path)
    change_size(daemon.real(path))
    assert server.get(f"/{url}").status == 404
    wait_until(lambda: server.get(f"/{path.hash_part}.narinfo").status == 404, seconds=SEEN_SECONDS)
    real = daemon.real(path)
    # As `nix-store --repair-path` does: what is right takes the place of what is wrong.
    repaired = real.parent / "repaired"
    repaired.mkdir()
    random = (tmp_path / "directory" / "file").read_bytes()
    (repaired / "file").write_bytes(random)
    (repaired / "link").symlink_to("nowhere!")
    real.rename(real.parent.parent / "broken")
    repaired.rename(real)
    assert daemon.dump(path) == right
    wait_until(lambda: server.get(f"/{path.hash_part}.narinfo").status == 200, seconds=SEEN_SECONDS)
    assert server.get(f"/nar/{path.hash_part}.nar").body == right


async def test_doctor_counts_the_valid_paths_without_files(daemon: Lab, tmp_path: Path) -> None:
    path = add(daemon, tmp_path / "directory", 1000)
    lose(daemon.real(path))
    config = Config(real_nix_store=str(daemon.real_store), virtual_nix_store=daemon.store_dir)
    metadata = DaemonStore(daemon.socket, daemon.store_dir)
    try:
        findings = await look_at_store(config, metadata, store_paths_in(daemon.real_store))
    finally:
        await metadata.aclose()
    assert any("have no files" in finding.what for finding in findings)
