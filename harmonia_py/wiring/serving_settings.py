"""The settings of serving from a configuration: authenticators, limits, codings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harmonia_py.cache.access import Authenticator
from harmonia_py.cache.checks import Check
from harmonia_py.config.settings import Config
from harmonia_py.web.admission.clients import Clients, Proxies, group_of
from harmonia_py.web.admission.limits import Limits
from harmonia_py.web.admission.rate_limit import RateLimiter, RateTable
from harmonia_py.web.http.coding import Coding
from harmonia_py.web.state import ChangesOf, ServingSettings
from harmonia_py.wiring.slices import slice_of

if TYPE_CHECKING:  # a server that knows no issuer does not import it
    from harmonia_py.catalog.exchange import TokenExchange


def serving_settings_of(
    config: Config,
    authenticators: Sequence[Authenticator],
    checks: Sequence[Check],
    changes: ChangesOf = lambda: None,
    exchange: "TokenExchange | None" = None,
) -> ServingSettings:
    """The settings with which caches are served.

    Args:
        config: has most of them.
        authenticators: know principals.
        checks: of `/ready`.
        changes: makes and changes caches by the API, where that is possible.
        exchange: exchanges the tokens of issuers, where some are known.
    """
    coding = Coding(text=config.enable_compression is not False, nars=config.codes_nars)
    return ServingSettings(
        coding=coding,
        authenticators=authenticators,
        base_url=config.base_url,
        checks=tuple(checks),
        attic=changes if config.attic.enabled else None,
        exchange=exchange,
    )


def limits_of(config: Config) -> Limits:
    """The limits of a client: each field is filled from the setting of its name."""
    return slice_of(Limits, config.limits, config)


def clients_of(config: Config, rates: RateTable) -> Clients:
    """How clients are told apart, and how often each may ask."""
    limits = config.limits
    limiter = None
    if limits.requests_per_second:
        limiter = RateLimiter(rates, rate=limits.requests_per_second, burst=limits.requests_at_once, group_of=group_of)
    return Clients(proxies=Proxies.parse(limits.trusted_proxies), limiter=limiter)
