"""The upstreams of a soak: nginx over what `nix copy` made, and one made of bytes that fails in ways of its own."""

import asyncio
import os
import signal
import threading
from collections.abc import Coroutine
from pathlib import Path as FilePath
from types import TracebackType
from typing import Final, Self, TypeVar

import fault_upstream
from fault_upstream import FaultUpstream, Package, Speak
from nginx import Nginx
from soak.paths import Path
from soak.plan import Fault
from soak.policy import Origin

PACKAGES: Final = 24
_TIME_LIMIT: Final = 30.0

T = TypeVar("T")


class StoppableNginx(Nginx):
    """nginx that can be stopped in its tracks: the kernel accepts for it, and no answer comes."""

    def begin(self, fault: Fault) -> None:
        if fault is Fault.GONE:
            self.stop()
        else:
            self._signal(signal.SIGSTOP)

    def end(self, fault: Fault) -> None:
        if fault is Fault.GONE:
            self.start()
        else:
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        main = self._process.pid
        workers = FilePath(f"/proc/{main}/task/{main}/children").read_text().split()
        for process in (main, *map(int, workers)):
            os.kill(process, number)


class FaultyCache:
    """`FaultUpstream` on a thread of its own."""

    def __init__(self) -> None:
        self.key = str(fault_upstream.KEY.public_key)
        compressions = ("xz", "zstd", "none", "bzip2")
        self._packages = [
            fault_upstream.package(1000 + number, size=20_000 * (1 + number), compression=compressions[number % 4])
            for number in range(PACKAGES)
        ]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty cache")

    def __enter__(self) -> Self:
        self._thread.start()
        self._upstream = self._run(FaultUpstream().__aenter__())
        self._upstream.serve(*self._packages)
        self._good = self._upstream.answers
        self.url = self._upstream.url
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._upstream.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_TIME_LIMIT)
        self._loop.close()

    def _run(self, coroutine: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_TIME_LIMIT)

    @property
    def paths(self) -> list[Path]:
        return [Path(str(one.path_info.store_path), one.nar, Origin.FAULTY) for one in self._packages]

    def begin(self, fault: Fault) -> None:
        self._upstream.requests.clear()
        if fault is Fault.HANGS:
            self._upstream.answers, self._upstream.default = {}, fault_upstream.hang
        elif fault is Fault.ERRORS:
            self._upstream.answers, self._upstream.default = {}, fault_upstream.status(500)
        else:
            files = {f"/{one.path}": _wrong(one, fault) for one in self._packages}
            self._upstream.answers = self._good | files

    def end(self, _: Fault) -> None:
        self._upstream.default = fault_upstream.status(404)
        self._upstream.answers = self._good


def _wrong(package: Package, fault: Fault) -> Speak:
    if fault is Fault.CUTS:
        return fault_upstream.file_with_ranges(package.file, cuts=10**9, cut_after=len(package.file) // 2)
    changed = bytearray(package.file)
    changed[len(changed) // 2] ^= 1
    return fault_upstream.file_with_ranges(bytes(changed))
