"""`mirror.deduplicate` switched on, off and on by reloads of the real server, while clients read."""

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

import prefork
import pytest
from chunking import nar_of
from fault_upstream import KEY, STORE_DIR, Package
from lab import Lab
from mirror_chunks import build
from nginx import Nginx
from reloading import reload
from server import Server

from harmonia_py.nix.narinfo import NarInfo

READERS: Final = 2
# Every third is a build of the same program.
BUILDS: Final = [build(number, size=250_000, seed=number % 3) for number in range(9)]

pytestmark = pytest.mark.timeout(300)


def settings_of(url: str, deduplicate: str) -> dict[str, Any]:
    return {
        "workers": 2,
        "virtual_nix_store": str(STORE_DIR),
        "daemon_socket": "/nowhere/socket",
        "real_nix_store": "/nowhere/store",
        "upstream": [{"url": url, "name": "up", "public_keys": [str(KEY.public_key)]}],
        "mirror": {"deduplicate": deduplicate, "deduplicate_after": 0},
    }


def written(directory: Path) -> Path:
    """A cache of files that has the builds."""
    (directory / "nar").mkdir(parents=True)
    for one in BUILDS:
        (directory / f"{one.hash_part}.narinfo").write_bytes(one.narinfo_text)
        (directory / one.path).write_bytes(one.file)
    return directory


@dataclass
class Readers:
    """Clients that download what is there, whole and in ranges.

    Attributes:
        read: answers that were right.
        wrong: what was not, in words.
    """

    server: Server
    read: int = 0
    wrong: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def look(self, one: Package, chance: random.Random) -> None:
        answer = self.server.get(f"/{one.hash_part}.narinfo")
        if answer.status != 200:
            self.wrong.append(f"{one.hash_part}: {answer.status}")
            return
        info = NarInfo.parse(answer.body, STORE_DIR)
        file = self.server.get(f"/{info.url}")
        if file.status != 200 or nar_of(file.body) != one.nar:
            self.wrong.append(f"{info.url}: {file.status}, {len(file.body)} bytes")
            return
        # The file under its URL becomes another one, of the same NAR, with another ETag.
        start = chance.randrange(len(file.body))
        stop = chance.randrange(start, len(file.body)) + 1
        headers = {"Range": f"bytes={start}-{stop - 1}", "If-Range": file.headers["ETag"]}
        part = self.server.get(f"/{info.url}", headers)
        is_right = part.body == file.body[start:stop] if part.status == 206 else nar_of(part.body) == one.nar
        if part.status not in {200, 206} or not is_right:
            self.wrong.append(f"{info.url} {start}-{stop - 1}: {part.status}, {len(part.body)} bytes")
        self.read += 1

    def _run(self, number: int) -> None:
        chance = random.Random(number)
        try:
            while not self._stop.wait(0.02):  # for so long: the server needs the processor to make chunks
                self.look(chance.choice(BUILDS), chance)
        except (OSError, HTTPException) as error:
            self.wrong.append(repr(error))

    @contextmanager
    def reading(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._run, args=(number,)) for number in range(READERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()


@pytest.mark.default_backing
def test_chunks_of_a_mirror_are_switched_on_off_and_on_by_reloads_while_clients_read(lab: Lab, tmp_path: Path) -> None:
    with (
        Nginx(tmp_path, written(tmp_path / "upstream")) as nginx,
        Server(tmp_path, lab.env, settings_of(nginx.url, "files")) as server,
    ):
        readers = Readers(server)

        def chunked() -> float:
            return server.figure('harmonia_chunked_files{directory="cache"}')

        def switch(deduplicate: str, files: int) -> None:
            """Returns when so many files are made of chunks, and some were read since."""
            reload(server, settings_of(nginx.url, deduplicate))
            server.until(lambda: chunked() >= files or readers.wrong)
            enough = readers.read + 20
            server.until(lambda: readers.read >= enough or readers.wrong)

        for one in BUILDS:
            readers.look(one, random.Random(0))
        with readers.reading():
            switch("chunks", 3)
            switch("files", 3)
            switch("chunks", 3)
        assert readers.wrong == []
        assert "Traceback" not in server.output()
        nginx.stop()
        for one in BUILDS:
            readers.look(one, random.Random(1))
        assert readers.wrong == []
        config = str(tmp_path / "server" / "harmonia.toml")
        env = os.environ | {"CACHE_DIRECTORY": str(tmp_path / "server" / "cache")}
        checked = prefork.run("fsck", "--hashes", "--config", config, cwd=tmp_path, env=env, timeout=60)
        assert checked.returncode == 0, checked.stdout + checked.stderr
