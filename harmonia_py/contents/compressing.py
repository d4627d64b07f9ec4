"""NARs of the local store made into zstd files: the threads that compress, and the turns of requests."""

from typing import Final

from msgspec.structs import replace

from harmonia_py.contents.encoders import Zstd
from harmonia_py.contents.incoming import Lane
from harmonia_py.contents.nar_check import NarCheck
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.runtime.turns import Turns

# Clients that are served at once where nothing can be kept; each costs the 4 MiB of a compressor.
_STREAMS_AT_ONCE: Final = 64
# Up to here a NAR takes a few milliseconds, and does not wait behind those that take seconds.
_QUICK_BYTES: Final = 1024 * 1024


class Compressing:
    """Threads that compress NARs of the local store, and the turns of requests at them.

    Args:
        settings: how to compress.
        at_once: number of large NARs that are compressed at once; small ones pass by.

    Attributes:
        streams: where nothing can be kept.
    """

    def __init__(self, *, settings: Zstd, at_once: int) -> None:
        self._settings = settings
        self._threads = [Threads(Pool.COMPRESS, at_once), Threads(Pool.COMPRESS_SMALL)]
        self._large = Lane(self._threads[0], Turns(at_once), gives_up=True)
        self._small = Lane(self._threads[1], Turns(1), gives_up=True)
        self.streams = Lane(self._threads[0], Turns(_STREAMS_AT_ONCE), gives_up=True)

    def lane(self, nar_size: int) -> Lane:
        """The lane in which a NAR of this size is compressed."""
        return self._small if nar_size <= _QUICK_BYTES else self._large

    def check(self, path_info: PathInfo, *, is_kept: bool) -> NarCheck:
        """Verifies the NAR of this path, and makes its zstd file."""
        # Threads of its own are for what many clients get.
        settings = self._settings if is_kept else replace(self._settings, threads=0)
        return NarCheck(path_info, "none", encoder=settings.compressor(path_info.nar_size))

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """All of them."""
        return self._small, self._large, self.streams

    async def aclose(self) -> None:
        """End the threads, once nothing is compressed any more."""
        for threads in self._threads:
            await threads.aclose()
