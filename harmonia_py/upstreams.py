"""The upstreams of a configuration, opened: files of secrets read, certificates loaded, sessions begun."""

import asyncio
import ssl
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from harmonia_py.cache.asking import OnUnknown, Panel
from harmonia_py.cache.breaker import Breaker
from harmonia_py.cache.mirror import MirrorSettings
from harmonia_py.cache.upstream_figures import UpstreamFigures
from harmonia_py.config import Config
from harmonia_py.config_tables import Upstream
from harmonia_py.errors import ConfigError
from harmonia_py.metrics.board import Metrics
from harmonia_py.upstream.client import HttpUpstream, Place
from harmonia_py.upstream.credentials import read_authorization

# What another worker has learnt of an upstream is on `/metrics` so soon.
_SHOW_SECONDS: Final = 1.0


async def open_panel(config: Config, resources: AsyncExitStack, metrics: Metrics) -> Panel:
    """All upstreams, counted on `metrics`, whose board their breakers share; `resources` closes them.

    Raises:
        ConfigError: a file that the configuration names cannot be read.
    """
    opened = []
    for upstream in config.upstream:
        place = await asyncio.to_thread(place_of, upstream)
        opened.append(
            await resources.enter_async_context(
                HttpUpstream(place, name=upstream.label, priority=upstream.priority, public_keys=upstream.keys)
            )
        )
    timeouts = {upstream.label: upstream.timeout for upstream in config.upstream if upstream.timeout is not None}
    urls = {upstream.label: upstream.url for upstream in config.upstream}
    return Panel(
        opened,
        budget=config.mirror.budget,
        on_unknown=OnUnknown(config.mirror.on_unknown),
        timeouts=timeouts,
        offline=config.mirror.offline,
        figures=lambda name: UpstreamFigures.on(metrics, name),
        # By its URL: another one under the same name begins anew.
        breakers=lambda name: Breaker(metrics.board.shared.row(f"breaker {urls[name]}")),
    )


async def show_breakers(panel: Panel) -> None:
    """Show on `/metrics`, until cancelled, which upstreams are left alone, whichever worker has found it out."""
    try:
        while True:
            panel.show_breakers()
            await asyncio.sleep(_SHOW_SECONDS)
    finally:
        for asked in panel.all:  # perhaps a reload has removed it
            asked.figures.breaker_open.set(0)


def mirror_settings(config: Config) -> MirrorSettings:
    """How the mirror behaves."""
    return MirrorSettings(
        narinfo_ttl=config.mirror.narinfo_ttl,
        negative_ttl=config.mirror.negative_ttl,
        downloads=config.mirror.downloads,
    )


def check_upstreams(config: Config) -> None:
    """Read every file that an upstream needs.

    Raises:
        ConfigError: one cannot be read.
    """
    for upstream in config.upstream:
        place_of(upstream)


def place_of(upstream: Upstream) -> Place:
    """Where an upstream is, its files read.

    Raises:
        ConfigError: one cannot be read.
    """
    try:
        authorization = read_authorization(
            urlsplit(upstream.url).hostname or "",
            Path(upstream.netrc_file) if upstream.netrc_file else None,
            Path(upstream.token_file) if upstream.token_file else None,
        )
        tls = ssl.create_default_context(cafile=upstream.ca_file) if upstream.ca_file else None
    except ConfigError as error:
        raise ConfigError(f"upstream {upstream.label}: {error}") from None
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"upstream {upstream.label}: ca_file: {upstream.ca_file}: {error}") from None
    return Place(
        url=upstream.url,
        authorization=authorization,
        tls=tls,
        connect_timeout=upstream.connect_timeout,
        stall_timeout=upstream.stall_timeout,
    )
