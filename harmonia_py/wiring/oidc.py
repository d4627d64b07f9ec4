"""The issuers of a configuration, opened: their connections, and their keys."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from harmonia_py.config.oidc_table import Oidc
from harmonia_py.config.settings import Config
from harmonia_py.errors import ConfigError
from harmonia_py.mirror.upstream import Upstream, read_document
from harmonia_py.upstream.client import HttpUpstream, Place
from harmonia_py.wiring.pools import Pools, Selection, entered, owned
from harmonia_py.wiring.upstreams import certificates_in, tls_of

try:
    from harmonia_py.oidc.examination import Examination, examine_token
    from harmonia_py.oidc.issuer import Issuer
    from harmonia_py.oidc.key_set import KeySet
    from harmonia_py.oidc.tokens import IdTokens, TrustedIssuer
except ImportError as error:
    raise ConfigError(f"oidc: tokens of issuers need {error.name}: install harmonia-py[oidc]") from None

# Bytes of a document. The largest that we have seen has 20 KB: eleven keys, each with its certificates.
_MAX_DOCUMENT: Final = 512 * 1024
_STALL_SECONDS: Final = 5.0


async def open_id_tokens(config: Config, selection: Selection) -> IdTokens:
    """The authenticator of all issuers' tokens. An issuer is not asked before a token of it comes.

    The keys of an issuer last through a reload that does not change its place.

    Raises:
        ConfigError: a file of certificates cannot be read.
    """
    return IdTokens([await _open_issuer(name, table, selection) for name, table in config.oidc.items()])


def check_issuers(config: Config) -> None:
    """Read every file that an issuer needs.

    Raises:
        ConfigError: one cannot be read.
    """
    for name, table in config.oidc.items():
        place_of(name, table)


def place_of(name: str, table: Oidc) -> Place:
    """The place of an issuer, with its files read.

    Raises:
        ConfigError: one cannot be read.
    """
    try:
        tls = tls_of(table.ca_file)
    except ConfigError as error:
        raise ConfigError(f"oidc.{name}: {error}") from None
    return Place(
        url=table.issuer,
        tls=tls,
        connect_timeout=table.connect_timeout,
        stall_timeout=_STALL_SECONDS,
        local_network=table.local_network,
        stays_secure=True,
    )


async def examine(config: Config, token: str) -> Examination:
    """The examination of `token` by the issuers and rules of `config`.

    Raises:
        ConfigError: a file cannot be read.
        FormatError: it is no token of one of these issuers.
    """
    async with _opened(config) as id_tokens:
        return await examine_token(id_tokens, token)


async def keys_of_issuer(config: Config, name: str) -> KeySet:
    """The keys of the issuer called `name`, asked for now.

    Raises:
        ConfigError: a file cannot be read.
        UpstreamError: it does not answer, or not as an issuer does.
    """
    async with _opened(config) as id_tokens:
        return await id_tokens.named(name).issuer.refresh()


@asynccontextmanager
async def _opened(config: Config) -> AsyncIterator[IdTokens]:
    pools = Pools()
    try:
        async with pools.select() as selection:
            id_tokens = await open_id_tokens(config, selection)
        yield id_tokens
    finally:
        await pools.aclose()


async def _open_issuer(name: str, table: Oidc, selection: Selection) -> TrustedIssuer:
    place, certificates = await asyncio.to_thread(lambda: (place_of(name, table), certificates_in(table.ca_file)))
    where = (table.issuer, table.connect_timeout, table.local_network, certificates)
    make = entered(lambda: HttpUpstream(place, name=name, priority=0, public_keys=()))
    upstream = await selection.get(f"connections of issuer {name}", where, make)
    issuer = await selection.get(
        f"issuer {name}", (upstream,), owned(lambda: Issuer(table.issuer, partial(fetch, upstream)), Issuer.aclose)
    )
    rules = tuple(rule.rule for rule in table.rules)
    return TrustedIssuer(name=name, issuer=issuer, audience=table.audience, rules=rules)


async def fetch(upstream: Upstream, url: str) -> bytes | None:
    """A document of an issuer; as `Fetch` says."""
    body = await upstream.open(url)
    if body is None:
        return None
    with body:
        return await read_document(body, _MAX_DOCUMENT)
