"""What the configuration says of how a cache is served: to whom, how fast, in which codings."""

from harmonia_py.cache.access import Tokens
from harmonia_py.config import Config
from harmonia_py.web.clients import Clients, Proxies, group_of
from harmonia_py.web.coding import Coding
from harmonia_py.web.limits import Limits
from harmonia_py.web.rate_limit import RateLimiter, RateTable
from harmonia_py.web.state import Rules


def rules_of(config: Config, tokens: Tokens | None) -> Rules:
    """How the cache is served."""
    coding = Coding(
        text=config.enable_compression is not False,
        nars=config.codes_nars,
        level=config.zstd.level,
        long_distance_matching=config.zstd.long_distance_matching,
        window_log=config.zstd.window_log,
    )
    return Rules(coding=coding, tokens=tokens)


def limits_of(config: Config) -> Limits:
    """What a client may take up."""
    return Limits(
        max_connections=config.max_connections,
        keepalive_timeout=config.keepalive_timeout,
        header_timeout=config.limits.header_timeout,
        request_timeout=config.limits.request_timeout,
        stall_timeout=config.stall_timeout,
        min_rate=config.limits.min_rate,
        rate_grace=config.limits.rate_grace,
    )


def clients_of(config: Config, rates: RateTable) -> Clients:
    """Who a client is, and how often it may ask."""
    limits = config.limits
    limiter = None
    if limits.requests_per_second:
        limiter = RateLimiter(rates, rate=limits.requests_per_second, burst=limits.requests_at_once, group_of=group_of)
    return Clients(proxies=Proxies.parse(limits.trusted_proxies), limiter=limiter)
