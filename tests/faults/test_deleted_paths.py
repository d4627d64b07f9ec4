"""Paths that leave the store, come back, or are not what they were: never a wrong byte that passes for right."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from lab import Lab
from nginx import Nginx
from server import Server, settings_of
from waiting import wait_until
from watched import TIME_LIMIT, Held, Raw, ResponseAborted, await_return, decompressed, random_file

from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import StorePath

# More than sockets hold, so that a download is in the middle for as long as a client wants.
BIG_SIZE: Final = 12 * 1024 * 1024
FORGOTTEN_SECONDS: Final = 20.0


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One for all tests here: each has store paths of its own."""
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        lab.closure = lab.build()
        lab.start_daemon()
        yield lab


@pytest.fixture
def settings(daemon: Lab) -> dict[str, Any]:
    return settings_of(daemon) | {"workers": 1}


@pytest.fixture
def server(daemon: Lab, settings: dict[str, Any], tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path, daemon.env, settings) as server:
        yield server


@pytest.fixture
def big(daemon: Lab) -> StorePath:
    return daemon.add(random_file(daemon.root / "big", BIG_SIZE))


def narinfo_of(server: Server, path: StorePath) -> dict[str, str]:
    answer = server.get(f"/{path.hash_part}.narinfo")
    assert answer.status == 200
    return dict(line.split(": ", 1) for line in answer.body.decode().splitlines())


def is_deleted(daemon: Lab, path: StorePath) -> bool:
    return daemon.run("nix-store", "--delete", daemon.full(path), check=False).returncode == 0


@pytest.mark.parametrize("shape", ["/nar/{hash}.nar", "/nar/{hash}-{nar_hash}.nar", "/{url}"])
def test_deleted_between_narinfo_and_nar_is_absent(server: Server, daemon: Lab, big: StorePath, shape: str) -> None:
    narinfo = narinfo_of(server, big)
    daemon.delete(big)
    nar_hash = narinfo["NarHash"].removeprefix("sha256:")
    target = shape.format(hash=big.hash_part, nar_hash=nar_hash, url=narinfo["URL"])
    assert server.get(target).status == 404
    assert "error:" not in server.output()


def test_a_kept_file_of_a_deleted_path_is_absent_within_seconds(server: Server, daemon: Lab, tmp_path: Path) -> None:
    """The compressed file was sent without a look at its path: for a minute from memory, and until it was evicted."""
    path = daemon.add(random_file(tmp_path / "kept", 200_000))
    url = f"/{narinfo_of(server, path)['URL']}"
    for _ in range(3):  # made, kept, and open at hand
        assert server.get(url).status == 200
    assert list((server.root / "cache").rglob(f"{path.hash_part}*.nar.zst"))
    daemon.stop_daemon()  # and with it what protected the path while it was compressed
    daemon.start_daemon()
    daemon.delete(path)
    wait_until(lambda: server.get(url).status == 404, seconds=FORGOTTEN_SECONDS)
    assert [server.get(url).status for _ in range(3)] == [404] * 3


def test_a_kept_file_is_sent_while_the_daemon_is_away(server: Server, daemon: Lab, tmp_path: Path) -> None:
    path = daemon.add(random_file(tmp_path / "kept", 200_000))
    url = f"/{narinfo_of(server, path)['URL']}"
    assert server.get(url).status == 200
    daemon.stop_daemon()
    try:
        os.utime(daemon.real_store)
        time.sleep(1.5)  # until what is remembered of the path has to be asked again
        assert server.get(url).status == 200
    finally:
        daemon.start_daemon()


@pytest.mark.parametrize("suffix", ["{hash}.ls", "serve/{hash}/", "{hash}.narinfo"])
def test_what_was_deleted_is_absent_and_no_fault_of_ours(
    server: Server, daemon: Lab, suffix: str, tmp_path: Path
) -> None:
    """For a second the listing of a path that had just been deleted was answered with 500: a client gives up then."""
    directory = tmp_path / "directory"
    directory.mkdir()
    random_file(directory / "file", 1000)
    path = daemon.add(directory)
    target = "/" + suffix.format(hash=path.hash_part)
    assert server.get(target).status == 200
    daemon.delete(path)
    statuses = set()

    def is_absent() -> bool:
        statuses.add(status := server.get(target).status)
        return status == 404

    wait_until(is_absent, seconds=FORGOTTEN_SECONDS)
    assert statuses <= {200, 404}
    assert "error:" not in server.output()


def test_a_path_is_protected_while_it_is_sent_and_not_after_its_worker_has_ended(
    server: Server, daemon: Lab, big: StorePath
) -> None:
    nar = daemon.dump(big)
    with Raw(server.port, receive_buffer=4096) as client:
        client.ask(f"/nar/{big.hash_part}.nar")
        status, headers = client.head()
        assert status == 200
        assert not is_deleted(daemon, big)
        assert daemon.is_valid(big)
        assert client.body(headers) == nar
    server.stop()
    wait_until(lambda: is_deleted(daemon, big), seconds=TIME_LIMIT)


def test_a_path_is_protected_while_it_is_compressed(server: Server, daemon: Lab, big: StorePath) -> None:
    narinfo, nar = narinfo_of(server, big), daemon.dump(big)
    with Raw(server.port, receive_buffer=4096) as client:
        client.ask(f"/{narinfo['URL']}")
        status, headers = client.head()
        assert status == 200
        assert not is_deleted(daemon, big)
        assert decompressed(client.body(headers)) == nar


@pytest.mark.slow
def test_a_path_that_was_downloaded_can_be_collected_a_minute_later(
    server: Server, daemon: Lab, big: StorePath
) -> None:
    for _ in range(3):
        assert server.get(f"/nar/{big.hash_part}.nar").status == 200
    assert server.get(f"/{narinfo_of(server, big)['URL']}").status == 200
    began = time.monotonic()
    while not is_deleted(daemon, big):
        assert time.monotonic() < began + 75
        time.sleep(1)
    assert "warning:" not in server.output()


def test_what_was_protected_by_a_worker_that_was_killed_can_be_deleted(
    server: Server, daemon: Lab, big: StorePath
) -> None:
    with Raw(server.port, receive_buffer=4096) as client:
        client.ask(f"/nar/{big.hash_part}.nar")
        client.head()
        os.kill(server.processes()[1], 9)
        wait_until(lambda: is_deleted(daemon, big), seconds=TIME_LIMIT)


def test_files_that_vanish_while_they_are_sent_cut_the_answer(server: Server, daemon: Lab, tmp_path: Path) -> None:
    """Somebody deletes without asking the daemon: the client must not take what it has for the whole."""
    directory = tmp_path / "directory"
    directory.mkdir()
    for number in range(60):
        random_file(directory / f"{number:02}", BIG_SIZE // 40)
    path = daemon.add(directory)
    worker = server.processes()[1]
    assert server.get("/health").status == 200
    before = Held.by(worker)
    with Raw(server.port, receive_buffer=4096) as client:
        client.ask(f"/nar/{path.hash_part}.nar")
        status, headers = client.head()
        assert status == 200
        daemon.real(path).chmod(0o755)
        (daemon.real(path) / "59").unlink()
        with pytest.raises(ResponseAborted):
            client.body(headers)
    # Four connections to the daemon stay open for a while, and its database, which is three files.
    await_return(worker, before, descriptors=8, threads=16)
    assert "Traceback" not in server.output()
    assert server.get(f"/nar/{path.hash_part}.nar").status == 404


def test_a_path_that_was_deleted_and_made_again_is_sent_anew(server: Server, daemon: Lab) -> None:
    """An output that is not reproducible has other contents, another NarHash, and the same path."""
    top = daemon.closure.top
    old = narinfo_of(server, top)
    real, nar = daemon.real(top), made_otherwise(daemon, top)
    aside = daemon.root / "aside"
    real.rename(aside)
    daemon.delete(top)
    assert server.get(f"/nar/{top.hash_part}.nar").status == 404
    aside.rename(real)
    register(daemon, top, nar)
    wait_until(lambda: server.get(f"/{top.hash_part}.narinfo").status == 200, seconds=FORGOTTEN_SECONDS)
    wait_until(lambda: narinfo_of(server, top)["NarHash"] == str(Hash.of(nar)), seconds=FORGOTTEN_SECONDS)
    assert server.get(f"/nar/{top.hash_part}.nar").body == nar
    assert decompressed(server.get(f"/{narinfo_of(server, top)['URL']}").body) == nar
    assert server.get(f"/{old['URL']}").status == 404
    assert server.get(f"/nar/{top.hash_part}-{old['NarHash'].removeprefix('sha256:')}.nar").status == 404
    assert "error:" not in server.output()


def made_otherwise(daemon: Lab, path: StorePath) -> bytes:
    real = daemon.real(path)
    real.chmod(0o755)
    (real / "foobar").chmod(0o644)
    (real / "foobar").write_text("FOOBAZ, made at another time\n")
    return daemon.dump(path)


def register(daemon: Lab, path: StorePath, nar: bytes) -> None:
    lines = [daemon.full(path), Hash.of(nar).digest.hex(), str(len(nar)), "", "0", ""]
    command = ["nix-store", "--register-validity", "--hash-given"]
    subprocess.run(command, input="\n".join(lines).encode(), env=daemon.env, check=True, timeout=TIME_LIMIT)


def spoil_size(real: Path) -> None:
    with (real / "file").open("ab") as file:
        file.write(b"more")


def spoil_mode(real: Path) -> None:
    (real / "file").chmod(0o755)


def spoil_contents(real: Path) -> None:
    data = bytearray((real / "file").read_bytes())
    data[len(data) // 2] ^= 1
    (real / "file").write_bytes(data)


def spoil_name(real: Path) -> None:
    (real / "file").rename(real / "life")


def spoil_link(real: Path) -> None:
    (real / "link").unlink()
    (real / "link").symlink_to("elsewhere")


@pytest.mark.parametrize("size", [100_000, BIG_SIZE])
@pytest.mark.parametrize("spoil", [spoil_size, spoil_mode, spoil_contents, spoil_name, spoil_link])
def test_a_path_that_was_changed_by_hand_is_never_kept_nor_finished(
    server: Server, daemon: Lab, tmp_path: Path, spoil: Callable[[Path], None], size: int
) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    random_file(directory / "file", size)
    (directory / "link").symlink_to("nowhere!")
    path = daemon.add(directory)
    right = daemon.dump(path)
    real = daemon.real(path)
    real.chmod(0o755)
    for file in real.iterdir():
        if not file.is_symlink():
            file.chmod(0o644)
    spoil(real)
    narinfo = narinfo_of(server, path)
    for target in [f"/{narinfo['URL']}"] * 3:
        with Raw(server.port) as client:
            client.ask(target)
            status, headers = client.head()
            if status == 200:
                with pytest.raises(ResponseAborted):
                    client.body(headers)
            else:
                assert status == 404
    wait_until(lambda: server.get(f"/{path.hash_part}.narinfo").status == 404, seconds=FORGOTTEN_SECONDS)
    assert not list((server.root / "cache" / "blobs").rglob("*.nar.zst"))
    # What was in flight goes when the disk has let go of it.
    wait_until(lambda: not list((server.root / "cache").rglob("*.nar.zst")), seconds=FORGOTTEN_SECONDS)
    assert "Traceback" not in server.output()
    # As it is, what has another size or mode is not sent either; what cannot be told without reading it all, is.
    with Raw(server.port) as client:
        client.ask(f"/nar/{path.hash_part}.nar")
        status, headers = client.head()
        if status == 200:
            assert len(client.body(headers)) == len(right)
            assert spoil not in {spoil_size, spoil_mode}
        else:
            assert status == 404


def test_a_proxy_that_speaks_http_1_0_does_not_take_half_a_file_for_the_whole(
    server: Server, daemon: Lab, big: StorePath, tmp_path: Path
) -> None:
    """nginx ended such an answer cleanly, and would have kept it."""
    narinfo = narinfo_of(server, big)
    real = daemon.real(big)
    real.chmod(0o644)
    with real.open("r+b") as file:
        file.seek(BIG_SIZE - 1)
        last = file.read(1)
        file.seek(BIG_SIZE - 1)
        file.write(bytes([last[0] ^ 1]))
    with (
        Nginx(tmp_path, tmp_path, f"proxy_pass {server.url}; proxy_http_version 1.0;") as proxy,
        Raw(proxy.port) as raw,
    ):
        raw.ask(f"/{narinfo['URL']}")
        status, headers = raw.head()
        assert status == 200
        with pytest.raises(ResponseAborted):
            raw.body(headers)
