"""Access, put together: what knows the principals of requests, of all the places that tokens come from."""

import time
from typing import TYPE_CHECKING

from harmonia_py.cache.access import Authenticator
from harmonia_py.cache.tokens import Tokens
from harmonia_py.catalog.tokens import CatalogTokens

if TYPE_CHECKING:
    from harmonia_py.catalog.exchange import TokenExchange
    from harmonia_py.database.catalog import SqlCatalog
    from harmonia_py.oidc.tokens import IdTokens


def authenticators(
    catalog: "SqlCatalog | None",
    tokens: Tokens | None,
    id_tokens: Authenticator | None,
    attic: Authenticator | None,
) -> list[Authenticator]:
    """The authenticators: of the catalog, of issuers, of Attic's tokens, and of the file with `tokens`."""
    # In this order: any JWT may be one of Attic, and any text may be a token of the file.
    known = [None if catalog is None else CatalogTokens(catalog.access), id_tokens, attic, tokens]
    return [authenticator for authenticator in known if authenticator is not None]


def token_exchange(catalog: "SqlCatalog | None", id_tokens: "IdTokens | None") -> "TokenExchange | None":
    """The exchange of issuers' tokens for tokens of the catalog; None where there are no issuers or no catalog."""
    if catalog is None or id_tokens is None:
        return None
    from harmonia_py.catalog.exchange import TokenExchange  # noqa: PLC0415  # where there are issuers

    return TokenExchange(
        id_tokens.principal,
        id_tokens.audiences,
        access=catalog.access,
        audit=catalog.audit,
        clock=time.time,
    )
