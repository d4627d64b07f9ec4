"""The `[limits]` table, compared with what an ordinary Nix client does: a limit must not keep such a client out."""

from ipaddress import ip_address, ip_network
from typing import Final

from harmonia_py.commands.doctor.finding import Finding
from harmonia_py.config.settings import Config
from harmonia_py.errors import ConfigError
from harmonia_py.server.listen import TcpAddress, UnixAddress, parse_address

# Nix's `http-connections`.
_CONNECTIONS_OF_NIX: Final = 25
# A small system's closure: a narinfo and a NAR for each path, which a client asks for as fast as it may.
_REQUESTS_OF_A_SYSTEM: Final = 2 * 1000
_PATIENCE_SECONDS: Final = 300.0
# 10 Mbit/s: many a line to a home has less.
_SLOW_LINE: Final = 1_250_000


def judge(config: Config) -> list[Finding]:
    """The findings about all limits; none about a limit that no ordinary client meets."""
    return [*_connections(config), *_requests(config), *_proxies(config), *_times(config)]


def _connections(config: Config) -> list[Finding]:
    most = config.max_connections * config.workers
    if most >= _CONNECTIONS_OF_NIX:
        return []
    what = f"{most} connections at once: one Nix client opens {_CONNECTIONS_OF_NIX} (http-connections)"
    return [Finding.warning("max_connections", what, "raise it, as others wait until one of them is closed")]


def _requests(config: Config) -> list[Finding]:
    rate, burst = config.limits.requests_per_second, config.limits.requests_at_once
    if not rate:
        return []
    name = "requests_per_second"
    if burst < _CONNECTIONS_OF_NIX:
        what = f"{burst} requests at once: a Nix client begins with {_CONNECTIONS_OF_NIX}, and most are told 429"
        return [Finding.warning(name, what, f"set burst in [limits] to {_REQUESTS_OF_A_SYSTEM} or so")]
    seconds = max(0.0, (_REQUESTS_OF_A_SYSTEM - burst) / rate)
    if seconds > _PATIENCE_SECONDS:
        what = f"a client that fetches 1000 paths waits {seconds / 60:.0f} minutes for {rate:g} requests a second"
        return [Finding.warning(name, what, f"raise it, or burst in [limits] to {_REQUESTS_OF_A_SYSTEM} or so")]
    return [Finding.ok(name, f"{rate:g} of each client address, {burst} at once")]


def _proxies(config: Config) -> list[Finding]:
    limits, name = config.limits, "trusted_proxies"
    networks = [ip_network(text) for text in limits.trusted_proxies if text != "unix"]
    findings = []
    if any(network.prefixlen == 0 for network in networks):
        what = "every address is trusted to name itself in X-Forwarded-For: limits and logs believe any client"
        findings.append(Finding.warning(name, what, "name only your own proxies"))
    if not limits.requests_per_second:
        return findings
    for text in config.addresses:
        try:
            address = parse_address(text)
        except ConfigError:  # the check of the addresses reports it
            continue
        if isinstance(address, UnixAddress) and "unix" not in limits.trusted_proxies:
            what = f"{text}: clients behind a proxy on this socket have no address, so requests_per_second is nothing"
            findings.append(Finding.warning(name, what, 'add "unix" to trusted_proxies'))
        elif isinstance(address, TcpAddress) and _is_loopback(address.host) and not networks:
            what = f"{text}: all clients behind a proxy on this machine count as one"
            findings.append(Finding.warning(name, what, f'add "{address.host}" to trusted_proxies'))
    return findings


def _times(config: Config) -> list[Finding]:
    limits = config.limits
    findings = []
    if config.upstream and limits.request_timeout <= config.mirror.budget:
        what = f"{limits.request_timeout:g} seconds: upstreams may take {config.mirror.budget:g} (mirror.budget)"
        findings.append(Finding.failure("request_timeout", what, "raise it above mirror.budget"))
    if limits.min_rate > _SLOW_LINE:
        what = f"{limits.min_rate} bytes a second: cuts clients whose line carries less than 10 Mbit/s"
        findings.append(Finding.warning("min_rate", what, "lower it; 100000 cuts only clients that stand still"))
    return findings


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"
