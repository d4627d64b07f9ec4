"""The upstreams of a configuration, opened: files of secrets read, certificates loaded, sessions begun."""

import asyncio
import ssl
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from harmonia_py.config.settings import Config
from harmonia_py.config.upstream_tables import Upstream
from harmonia_py.errors import ConfigError, describe_os_error
from harmonia_py.metrics.board import Metrics
from harmonia_py.mirror.breaker import Breaker
from harmonia_py.mirror.outcome import OnUnknown
from harmonia_py.mirror.upstream_metrics import UpstreamMetrics
from harmonia_py.mirror.upstreams import Upstreams
from harmonia_py.upstream.client import HttpUpstream, Place
from harmonia_py.upstream.credentials import read_authorization
from harmonia_py.wiring.pools import Selection, entered, owned, running

# Within this time `/metrics` of every worker shows which upstreams are left alone.
_SHOW_SECONDS: Final = 1.0


async def open_upstreams(config: Config, selection: Selection, metrics: Metrics) -> Upstreams:
    """All upstreams, counted on `metrics`, whose board their breakers share.

    Their connections last while URL, credentials, certificates and time limits of connections are the same; keys,
    priorities and everything else are values, which a reload replaces.

    Raises:
        ConfigError: a file that the configuration names cannot be read.
    """
    opened = [await _open_upstream(upstream, selection, metrics) for upstream in config.upstream]
    mirror = config.mirror
    timeouts = {upstream.label: upstream.timeout for upstream in config.upstream if upstream.timeout is not None}
    urls = {upstream.label: upstream.url for upstream in config.upstream}

    def make() -> Upstreams:
        return Upstreams(
            opened,
            budget=mirror.budget,
            on_unknown=OnUnknown(mirror.on_unknown),
            timeouts=timeouts,
            offline=mirror.offline,
            # By its URL: another upstream of the same name begins with a closed breaker.
            breakers=lambda name: Breaker(metrics.board.shared.row(f"breaker {urls[name]}")),
        )

    settings = (opened, mirror.budget, mirror.on_unknown, timeouts, mirror.offline)
    upstreams = await selection.get("upstreams", settings, owned(make, lambda _: None))
    # Renewed with each reload: the task before would show upstreams that are not configured any more.
    show = running(lambda: _show_breakers(upstreams))
    await selection.get("breakers shown", (upstreams,), show, closes_at_once=True)
    return upstreams


async def _open_upstream(upstream: Upstream, selection: Selection, metrics: Metrics) -> HttpUpstream:
    place, certificates = await asyncio.to_thread(lambda: (place_of(upstream), certificates_in(upstream.ca_file)))
    name, values = upstream.label, (upstream.priority, upstream.keys)
    counted = UpstreamMetrics.on(metrics, name)
    make = entered(lambda: HttpUpstream(place, name=name, priority=values[0], public_keys=values[1], metrics=counted))
    # A TLS context is a new object each time: the content of the file tells whether it is the same.
    pool = await selection.get(f"connections of {name}", (replace(place, tls=None), certificates), make)
    return await selection.get(
        f"upstream {name}", (pool, *values), owned(lambda: pool.with_values(*values), lambda _: None)
    )


def tls_of(ca_file: str | None) -> ssl.SSLContext:
    """A TLS context that trusts the certificates in `ca_file`; None: those that the machine trusts.

    Raises:
        ConfigError: they cannot be read.
    """
    try:
        return _tls(ca_file) if ca_file else _tls_of_the_machine()
    except OSError as error:
        what = "not certificates in PEM form" if isinstance(error, ssl.SSLError) else describe_os_error(error)
        raise ConfigError(f"ca_file: {ca_file}: {what}") from None


def _tls(ca_file: str | None) -> ssl.SSLContext:
    tls = ssl.create_default_context(cafile=ca_file)
    tls.set_alpn_protocols(["http/1.1"])
    return tls


@cache
def _tls_of_the_machine() -> ssl.SSLContext:
    """The TLS context with the machine's certificates, read once by the supervisor, whose memory the workers share."""
    return _tls(None)


def certificates_in(ca_file: str | None) -> bytes | None:
    """The content of a file that `tls_of` has read, which tells whether it is the same."""
    return None if ca_file is None else Path(ca_file).read_bytes()


async def _show_breakers(upstreams: Upstreams) -> None:
    """Show on `/metrics`, until cancelled, which upstreams are left alone, also after failures in other workers."""
    try:
        while True:
            upstreams.show_breakers()
            await asyncio.sleep(_SHOW_SECONDS)
    finally:
        for state in upstreams.all:  # perhaps a reload has removed it
            state.upstream.metrics.breaker_open.set(0)


def check_upstreams(config: Config) -> None:
    """Read every file that an upstream needs.

    Raises:
        ConfigError: one cannot be read.
    """
    for upstream in config.upstream:
        place_of(upstream)


def place_of(upstream: Upstream) -> Place:
    """The place of an upstream, with its files read.

    Raises:
        ConfigError: one cannot be read.
    """
    try:
        authorization = read_authorization(
            urlsplit(upstream.url).hostname or "",
            Path(upstream.netrc_file) if upstream.netrc_file else None,
            Path(upstream.token_file) if upstream.token_file else None,
        )
        tls = tls_of(upstream.ca_file)
    except ConfigError as error:
        raise ConfigError(f"upstream {upstream.label}: {error}") from None
    return Place(
        url=upstream.url,
        authorization=authorization,
        tls=tls,
        connect_timeout=upstream.connect_timeout,
        stall_timeout=upstream.stall_timeout,
        local_network=upstream.local_network,
    )
