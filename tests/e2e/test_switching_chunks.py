"""`deduplicate` switched on, off and on by reloads of the real server, while clients download, read ranges and push."""

import base64
import itertools
import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

import prefork
import pytest
from chunking import LIBRARY, nar_of, program
from lab import Lab
from pushed_paths import REFERENCE, STORE, Pushed, pushed
from reloading import reload
from server import Server

from harmonia_py.nix import base32
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.store_path import StorePath

READERS: Final = 2
SIZE: Final = 250_000

pytestmark = pytest.mark.timeout(300)


def path_of(number: int) -> Pushed:
    path = StorePath(f"{base32.encode(Hash.of(str(number).encode()).digest[:20])}-path-{number}")
    # Every third is a build of the same program.
    return pushed(path, program(path, SIZE, number % 3), REFERENCE, compression="zstd")


def settings_of(state: Path, deduplicate: str) -> dict[str, Any]:
    return {
        "workers": 2,
        "virtual_nix_store": str(STORE),
        "daemon_socket": "/nowhere/socket",
        "real_nix_store": "/nowhere/store",
        "state_directory": str(state),
        "caches": {"team": {"public": True, "deduplicate": deduplicate, "deduplicate_after": 0, "grace": 0}},
    }


@dataclass
class Clients:
    """Two that download what is there, whole and in ranges, and one that pushes more.

    Attributes:
        read: answers that were right.
        wrong: what was not, in words.
        here: what was pushed, and its NAR.
    """

    server: Server
    token: str
    read: int = 0
    wrong: list[str] = field(default_factory=list)
    here: list[tuple[Pushed, bytes]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def push(self, one: Pushed) -> None:
        """Send a file and its narinfo, as `nix copy` does."""
        secret = base64.b64encode(f"x:{self.token}".encode()).decode()
        for place, body in ((one.place, one.data), (f"/{one.path.hash_part}.narinfo", one.narinfo)):
            status = self._put(f"/team/push/r1{place}", body, {"Authorization": f"Basic {secret}"})
            if status != 200:
                self.wrong.append(f"PUT {place}: {status}")
                return
        self.here.append((one, nar_of(one.data)))

    def _put(self, place: str, body: bytes, headers: dict[str, str]) -> int:
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            connection.request("PUT", place, body, headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def _read_all(self, chance: random.Random) -> None:
        while not self._stop.wait(0.02):  # for so long: the server needs the processor to make chunks
            self._look(*chance.choice(self.here), chance)

    def _look(self, one: Pushed, nar: bytes, chance: random.Random) -> None:
        answer = self.server.get(f"/team/{one.path.hash_part}.narinfo")
        if answer.status != 200:
            self.wrong.append(f"{one.path}: {answer.status}")
            return
        info = NarInfo.parse(answer.body, STORE)
        file = self.server.get(f"/team/{info.url}")
        if file.status != 200 or nar_of(file.body) != nar:
            self.wrong.append(f"{info.url}: {file.status}, {len(file.body)} bytes")
        # The file under its URL becomes another one, of the same NAR, with another ETag.
        start = chance.randrange(len(file.body))
        stop = chance.randrange(start, len(file.body)) + 1
        headers = {"Range": f"bytes={start}-{stop - 1}", "If-Range": file.headers["ETag"]}
        part = self.server.get(f"/team/{info.url}", headers)
        is_right = part.body == file.body[start:stop] if part.status == 206 else nar_of(part.body) == nar
        if part.status not in {200, 206} or not is_right:
            self.wrong.append(f"{info.url} {start}-{stop - 1}: {part.status}, {len(part.body)} bytes")
        self.read += 1

    def _push_more(self) -> None:
        for number in itertools.count(len(self.here)):
            if self._stop.wait(0.3):  # so that there are dozens, not thousands
                return
            self.push(path_of(number))

    def _run(self, number: int) -> None:
        try:
            self._push_more() if number == READERS else self._read_all(random.Random(number))
        except (OSError, HTTPException) as error:
            self.wrong.append(repr(error))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._run, args=(number,)) for number in range(READERS + 1)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()


@pytest.mark.default_backing
def test_chunks_are_switched_on_off_and_on_by_reloads_while_clients_read_and_push(lab: Lab, tmp_path: Path) -> None:
    """The job looked at what caches want once a minute alone, and missed a setting that came after its first look."""
    state = tmp_path / "state"
    with Server(tmp_path, lab.env, settings_of(state, "files")) as server:
        config = str(tmp_path / "server" / "harmonia.toml")
        command = ("token", "create", "ci", "--cache", "team", "--allow", "read,push", "--config", config)
        made = prefork.run(*command, cwd=tmp_path, env=lab.env, timeout=60)
        assert made.returncode == 0, made.stderr
        clients = Clients(server, made.stdout.strip())
        for one in (LIBRARY, *map(path_of, range(6))):
            clients.push(one)
        assert clients.wrong == []

        def chunked() -> float:
            return server.figure('harmonia_chunked_files{directory="pushed"}')

        def switch(deduplicate: str, files: float) -> None:
            """Returns when so many files are made of chunks, and some were read since."""
            reload(server, settings_of(state, deduplicate))
            server.until(lambda: chunked() >= files or clients.wrong)
            enough = clients.read + 20
            server.until(lambda: clients.read >= enough or clients.wrong)

        with clients.at_work():
            switch("files", 0)
            assert chunked() == 0
            # What is used in the moment in which it is looked at is not due.
            switch("chunks", 3)
            switch("files", 3)
            enough = len(clients.here) + 3
            server.until(lambda: len(clients.here) >= enough or clients.wrong)
            switch("chunks", chunked() + 1)
        assert clients.wrong == []
        assert "Traceback" not in server.output()
        for one, nar in clients.here:
            assert nar_of(server.get(f"/team/{NarInfo.parse(_narinfo(server, one), STORE).url}").body) == nar
        env = os.environ | {"CACHE_DIRECTORY": str(tmp_path / "server" / "cache")}
        checked = prefork.run("fsck", "--hashes", "--config", config, cwd=tmp_path, env=env, timeout=60)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def _narinfo(server: Server, one: Pushed) -> bytes:
    answer = server.get(f"/team/{one.path.hash_part}.narinfo")
    assert answer.status == 200
    return answer.body
