"""`deduplicate = "chunks"` on the real server: switched on and off with content in the cache, while clients read."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import prefork
import pytest
from lab import Lab
from server import Server
from zstd_library import zstd

from harmonia_py.nix.narinfo import NarInfo

LIMIT: Final = 60.0


def settings_of(lab: Lab, state: Path, deduplicate: str) -> dict[str, Any]:
    return {
        "workers": 2,
        "virtual_nix_store": lab.store_dir,
        "daemon_socket": "/nowhere/socket",
        "real_nix_store": "/nowhere/store",
        "state_directory": str(state),
        "caches": {"team": {"public": True, "deduplicate": deduplicate, "deduplicate_after": 0, "grace": 0}},
    }


class Readers:
    """Clients that download the NARs of a closure over and over; each must be right.

    Attributes:
        read: how many were.
        wrong: what was not.
    """

    def __init__(self, lab: Lab, server: Server) -> None:
        self.read = 0
        self.wrong: list[str] = []
        self._nars = {path: lab.dump(path) for path in (lab.closure.top, lab.closure.input2, lab.closure.input0)}
        self._lab = lab
        self._server = server
        self._stop = threading.Event()

    def _run(self) -> None:
        while not self._stop.wait(0.02):  # for so long: the server needs the processor to make chunks
            for path, nar in self._nars.items():
                answer = self._server.get(f"/team/{path.hash_part}.narinfo")
                if answer.status != 200:
                    self.wrong.append(f"{path}: {answer.status}")
                    continue
                info = NarInfo.parse(answer.body, self._lab.store_dir)
                file = self._server.get(f"/team/{info.url}")
                if file.status != 200 or zstd.decompress(file.body) != nar:
                    self.wrong.append(f"{info.url}: {file.status}")
                self.read += 1

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._run) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()


@pytest.mark.default_backing
def test_a_cache_with_content_is_switched_on_and_off_while_clients_read(lab: Lab, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with Server(tmp_path, lab.env, settings_of(lab, state, "files")) as server:
        config = str(tmp_path / "server" / "harmonia.toml")
        command = ("token", "create", "ci", "--cache", "team", "--allow", "read,push", "--config", config)
        made = prefork.run(*command, cwd=tmp_path, env=lab.env, timeout=LIMIT)
        assert made.returncode == 0, made.stderr
        token = made.stdout.strip()
        url = f"http://x:{token}@127.0.0.1:{server.port}/team/push/r1?compression=zstd"
        lab.run("nix", "copy", "--to", url, lab.full(lab.closure.top))
    pushed = state / "pushed"
    assert list((pushed / "nar").glob("*.nar.zst"))
    # The first look of a server may be before its settings are in the catalog, and the next one is a minute later.
    with Server(tmp_path, lab.env, settings_of(lab, state, "chunks")):
        pass
    # On: what is there becomes chunks while it is read. Off: it stays so, and is served. On again: it stays so as well.
    for deduplicate in ("chunks", "files", "chunks"):
        with Server(tmp_path, lab.env, settings_of(lab, state, deduplicate)) as server:
            readers = Readers(lab, server)
            with readers.reading():
                until = time.monotonic() + LIMIT
                while time.monotonic() < until and (readers.read < 20 or not list(pushed.glob("recipes/*"))):
                    time.sleep(0.05)
            assert readers.wrong == []
            assert readers.read >= 20
            env = os.environ | {"CACHE_DIRECTORY": str(tmp_path / "server" / "cache")}
            checked = prefork.run("fsck", "--hashes", "--config", config, cwd=tmp_path, env=env, timeout=LIMIT)
            assert checked.returncode == 0, checked.stdout
            assert list(pushed.glob("recipes/*"))
            client = lab.client(f"client-{time.monotonic_ns()}")
            options = ["--option", "substituters", f"{server.url}/team", "--option", "require-sigs", "false"]
            client.nix_store("--realise", lab.full(lab.closure.top), *options)
            assert client.run("nix-store", "--dump", str(client.real(lab.closure.top))).stdout == lab.dump(
                lab.closure.top
            )
