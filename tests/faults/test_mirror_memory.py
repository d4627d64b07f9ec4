"""What a mirror takes of memory while it fetches large NARs, each worker by itself.

`HARMONIA_PY_MIRRORED_MIB` says how large each of the ten NARs is; they are kept on the disk of `tmp_path`.
"""

import contextlib
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from fault_upstream import KEY, STORE_DIR, Package, package, signed
from nginx import Nginx
from server import Server
from watched import Raw, memory_of

from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import StorePath

MIB: Final = 1 << 20
NAR_BYTES: Final = int(os.environ.get("HARMONIA_PY_MIRRORED_MIB", "128")) * MIB
DOWNLOADS: Final = 10
WORKERS: Final = 2
# Buffers of threads, sockets and the allocator: nothing that grows with a NAR, or with the number of them.
MARGIN_BYTES: Final = 40 * MIB


def sparse_upstream(directory: Path) -> list[Package]:
    """Ten paths with the same NAR, which is nothing but zeros: no disk has to read it, and no two share a download."""
    digest, zeros = hashlib.sha256(), bytes(MIB)
    for _ in range(NAR_BYTES // MIB):
        digest.update(zeros)
    (directory / "nar").mkdir(parents=True)
    with (directory / "nar/zeros").open("wb") as file:
        file.truncate(NAR_BYTES)
    found = []
    for number in range(DOWNLOADS):
        name = StorePath.parse(f"{package(number).hash_part}-large-{number}")
        info = PathInfo(store_path=name, nar_hash=Hash("sha256", digest.digest()), nar_size=NAR_BYTES)
        one = Package(
            path_info=info, nar=b"", file=b"", compression="none", url=f"nar/zeros?{number}", with_file_hash=False
        )
        one = signed(one, KEY)
        (directory / f"{one.hash_part}.narinfo").write_bytes(one.narinfo.format(STORE_DIR))
        found.append(one)
    return found


class Sampling:
    """The private memory of processes, four times a second, while the block runs."""

    def __init__(self, processes: Sequence[int]) -> None:
        self._processes = processes
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self.before = self._now()
        self.peak = self.before

    def _now(self) -> list[int]:
        return [memory_of(process) for process in self._processes]

    def _sample(self) -> None:
        while not self._ended.wait(0.25):
            self.peak = list(map(max, self.peak, self._now()))

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._thread.join()
            self.after = self._now()

    def __str__(self) -> str:
        stages = {"before": self.before, "peak": self.peak, "after": self.after}
        return ", ".join(f"{stage} {[round(size / MIB, 1) for size in sizes]} MiB" for stage, sizes in stages.items())


def download(server: Server, one: Package, begun: threading.Barrier) -> int:
    with Raw(server.port) as client:
        client.ask(f"/{one.hash_part}.narinfo")
        client.body(client.head()[1])
        client.ask(f"/{one.our_url}")
        status, headers = client.head()
        assert status == 200, status
        assert int(headers["Content-Length"]) == NAR_BYTES
        client.exactly(1000)
        begun.wait(60)  # all of them are in flight
        left = NAR_BYTES - 1000
        while left:
            data = client.read(MIB)
            assert data, "the download was cut"
            left -= len(data)
        return NAR_BYTES


@pytest.mark.slow
def test_ten_large_nars_in_flight_take_no_memory_that_grows_with_them(tmp_path: Path) -> None:
    directory = tmp_path / "upstream"
    packages = sparse_upstream(directory)
    with Nginx(tmp_path, directory) as upstream:
        settings = {
            "workers": WORKERS,
            "daemon_socket": "/nowhere/socket",
            "real_nix_store": "/nowhere/store",
            "mirror": {"min_free": 0},
            "upstream": [{"url": upstream.url, "name": "up", "public_keys": [str(KEY.public_key)]}],
        }
        with Server(tmp_path, os.environ, settings) as server, ThreadPoolExecutor(DOWNLOADS) as clients:
            sampling, began = Sampling(server.processes()[1:]), time.monotonic()
            begun = threading.Barrier(DOWNLOADS)
            with sampling.running():
                running = [clients.submit(download, server, one, begun) for one in packages]
                assert sum(one.result() for one in running) == DOWNLOADS * NAR_BYTES
            print(f"{DOWNLOADS} x {NAR_BYTES // MIB} MiB in {time.monotonic() - began:.1f} s: {sampling}")
        shutil.rmtree(server.root / "cache")  # no test leaves gigabytes behind
        for before, peak in zip(sampling.before, sampling.peak, strict=True):
            assert peak - before < MARGIN_BYTES
