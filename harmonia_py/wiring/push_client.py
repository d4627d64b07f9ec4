"""The push client put together: a login, the store of this machine, threads for its processors."""

import os
from collections.abc import Collection, Mapping
from typing import Final

from harmonia_py.client.api import PushApi
from harmonia_py.client.http import PATIENCE_SECONDS, HttpServer
from harmonia_py.client.outcomes import Events, Summary
from harmonia_py.client.push import Push, PushSettings
from harmonia_py.config.logins import CacheUrl
from harmonia_py.contents.encoders import Zstd
from harmonia_py.nix.store_path import StorePath
from harmonia_py.wiring.local_paths import open_local_paths, store_config
from harmonia_py.wiring.tuning import return_memory

# Each thread has 10 MB of zstd's buffers: more threads would cost more memory than a push may take.
_MOST_THREADS: Final = 4
# Files that cannot be sent to the bucket go to the server instead.
_BUCKET_SECONDS: Final = 20.0


class Silent:
    """Takes the `Events` of a push that is not watched."""

    def planned(self, paths: int, nar_bytes: int) -> None:
        """As in `Events`."""

    def advanced(self, nar_bytes: int) -> None:
        """As in `Events`."""


async def push(
    cache: CacheUrl,
    roots: Collection[StorePath],
    events: Events,
    *,
    jobs: int,
    level: int,
    pins: Mapping[str, StorePath],
    environment: Mapping[str, str],
    patience: float = PATIENCE_SECONDS,
) -> Summary:
    """Push the closures of `roots`.

    Raises:
        HarmoniaError: nothing can be pushed at all.
    """
    return_memory()
    cores = len(os.sched_getaffinity(0))
    zstd = Zstd(level=level, threads=min(cores, _MOST_THREADS))
    settings = PushSettings(jobs=jobs, zstd=zstd, threads=max(2, cores), pins=pins)
    async with (
        HttpServer(cache.server, cache.token, connections=jobs + 2, patience=patience) as server,
        # The bucket of the server: its URLs are signed and need no token, which the bucket shall not see.
        HttpServer(cache.server, None, connections=jobs, patience=min(patience, _BUCKET_SECONDS)) as bucket,
        open_local_paths(store_config(environment)) as store,
    ):
        return await Push(PushApi(server, cache.root), store, events, settings, bucket).run(roots)
