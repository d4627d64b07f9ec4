"""A client that asks for random narinfos and NARs and holds every answer to the truth.

with checking(server, paths, count=8) as clients:     # paths: StorePath -> Hash of the NAR
    …                                                 # whatever happens to the server
clients.statuses                                      # how often each status came; "cut" for answers that ended early
clients.assert_truthful({200, 503})                   # no wrong byte, and no other status
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from server import Server
from waiting import wait_until
from watched import TIME_LIMIT, Raw, ResponseAborted, decompressed

from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import StorePath


class Client(threading.Thread):
    """Uses one connection for as long as it lasts."""

    def __init__(self, server: Server, paths: Mapping[StorePath, Hash], stop: threading.Event) -> None:
        super().__init__()
        self.statuses: Counter[int | str] = Counter()
        self.wrong: list[str] = []
        self._server = server
        self._paths = list(paths.items())
        self._stop_asking = stop
        self._raw: Raw | None = None

    def run(self) -> None:
        try:
            while not self._stop_asking.is_set():
                path, nar_hash = random.choice(self._paths)
                self._download(path, nar_hash)
        except Exception as error:  # noqa: BLE001  # whatever it is, the test shall see it
            self.wrong.append(repr(error))
        finally:
            self._close()

    def _close(self) -> None:
        if self._raw is not None:
            self._raw.socket.close()
            self._raw = None

    def _download(self, path: StorePath, nar_hash: Hash) -> None:
        narinfo = self._get(f"/{path.hash_part}.narinfo")
        if narinfo is None:
            return
        fields = dict(line.split(": ", 1) for line in narinfo.decode().splitlines())
        if fields["NarHash"] != str(nar_hash):
            self.wrong.append(f"NarHash {fields['NarHash']}")
        kept = self._get(f"/{fields['URL']}")
        if kept is not None and Hash.of(decompressed(kept)) != nar_hash:
            self.wrong.append(f"{path}: zstd")
        nar = self._get(f"/nar/{path.hash_part}.nar")
        if nar is not None and Hash.of(nar) != nar_hash:
            self.wrong.append(f"{path}: none")

    def _get(self, target: str) -> bytes | None:
        try:
            if self._raw is None:
                self._raw = Raw(self._server.port)
            self._raw.ask(target)
            status, headers = self._raw.head()
            body = self._raw.body(headers)
        except ConnectionRefusedError:
            self.statuses["refused"] += 1
            time.sleep(0.01)
            return None
        except (ResponseAborted, ConnectionError):
            self._close()
            self.statuses["cut"] += 1
            return None
        self.statuses[status] += 1
        if status == 503 and headers["Retry-After"] is None:
            self.wrong.append(f"{target}: no Retry-After")
        if headers["Connection"] == "close":
            self._close()
        return body if status == 200 else None


@dataclass
class Clients:
    """All of them together."""

    all: list[Client]

    @property
    def statuses(self) -> Counter[int | str]:
        return sum((client.statuses for client in self.all), Counter[int | str]())

    def assert_truthful(self, statuses: set[int | str]) -> None:
        wrong = [found for client in self.all for found in client.wrong]
        assert not wrong
        assert set(self.statuses) <= statuses, self.statuses

    def until(self, status: int, count: int = 50) -> None:
        """Return when so many more answers have had this status."""
        wanted = self.statuses[status] + count
        wait_until(lambda: self.statuses[status] >= wanted, f"{count} more answers of {status}")


@contextmanager
def checking(server: Server, paths: Mapping[StorePath, Hash], *, count: int) -> Iterator[Clients]:
    stop = threading.Event()
    clients = Clients([Client(server, paths, stop) for _ in range(count)])
    for client in clients.all:
        client.start()
    try:
        yield clients
    finally:
        stop.set()
        for client in clients.all:
            client.join(TIME_LIMIT)
