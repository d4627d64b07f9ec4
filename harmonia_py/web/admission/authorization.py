"""The header `Authorization`, and the principals behind its values: RFC 6750 and RFC 7617.

Tokens are sent as `Bearer TOKEN`, or as the password of `Basic`, which is what Nix makes of a netrc.
"""

import base64
import binascii
import time
from collections.abc import Mapping, Sequence
from typing import Final

from harmonia_py.cache.access import ANONYMOUS, Authenticator, Principal
from harmonia_py.errors import NotAuthenticated

# Tokens of one worker, with the principal of each; clients send the same one with every request.
_MAX_KNOWN: Final = 1024


class Principals:
    """Finds the principal of a request by its header `Authorization`.

    Finding one may take a look into a database, so principals are remembered until `forget` is called.

    Args:
        authenticators: know the principals; without any, credentials are not looked at.
    """

    def __init__(self, authenticators: Sequence[Authenticator] = ()) -> None:
        self._authenticators = tuple(authenticators)
        self._known: dict[str, Principal] = {}
        self._last_uses: dict[str, int] = {}

    def note_use(self, principal: Principal) -> None:
        """Note that `principal` has sent a request just now."""
        if principal.token_id is not None:
            self._last_uses[principal.token_id] = int(time.time())

    def take_last_uses(self) -> Mapping[str, int]:
        """When tokens were last seen since the last call, by their ids, in seconds since the epoch."""
        uses, self._last_uses = self._last_uses, {}
        return uses

    def forget(self) -> None:
        """Forget the principals that were found: a token may have been revoked."""
        self._known = {}

    def known(self, authorization: str | None) -> Principal | None:
        """The principal of a request with this header, if it was found before and is one still."""
        if authorization is None or not self._authenticators:
            return ANONYMOUS
        token = _token(authorization)
        return None if token is None else self._known_by(token)

    def _known_by(self, token: str) -> Principal | None:
        principal = self._known.get(token)
        return principal if principal is not None and time.time() < principal.expires else None

    async def find(self, authorizations: Sequence[str]) -> Principal:
        """The principal of a request with these headers.

        Raises:
            NotAuthenticated: the credential is not valid. It is refused also where none is needed, so that its holder
                learns of it from any URL. The error has a message where the credential was valid once.
            CatalogError: the catalog cannot tell.
        """
        if not authorizations or not self._authenticators:
            return ANONYMOUS
        # Two headers are refused: a proxy in front may have read the other one.
        token = _token(authorizations[0]) if len(authorizations) == 1 else None
        if token is None:
            raise NotAuthenticated
        principal = self._known_by(token)
        if principal is None:
            principal = await self._ask_and_remember(token)
        self.note_use(principal)
        return principal

    async def _ask_and_remember(self, token: str) -> Principal:
        known = self._known
        principal = await self._ask(token)
        if len(known) >= _MAX_KNOWN:
            known.clear()
        # `forget` replaces this table: a principal whose look-up began before it is not remembered after it. Nor is
        # one whose token is wrong: a client can make as many of those as it likes.
        if principal.fault is None:
            known[token] = principal
        return principal

    async def _ask(self, token: str) -> Principal:
        taken = False
        for authenticator in self._authenticators:
            if not authenticator.takes(token):
                continue
            principal = await authenticator.principal(token)
            if principal is not None:
                return principal
            taken = True
        if taken:
            raise NotAuthenticated
        # The password of another service, which a client sends to every server of this host (netrc knows no ports).
        return ANONYMOUS


def _token(authorization: str) -> str | None:
    scheme, _, rest = authorization.strip().partition(" ")
    rest = rest.strip()
    if scheme.lower() == "bearer":
        return rest or None
    if scheme.lower() != "basic":
        return None
    try:
        credentials = base64.b64decode(rest, validate=True).decode()
    except (binascii.Error, ValueError):
        return None
    # The user's name is not looked at: a netrc must have one, and any will do.
    return credentials.partition(":")[2] or None
