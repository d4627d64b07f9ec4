"""The header `Authorization`: RFC 6750 and RFC 7617.

Tokens are sent as `Bearer TOKEN`, or as the password of `Basic`, which is what Nix makes of a netrc.
"""

import base64
import binascii

from harmonia_py.cache.access import Tokens


def opens(tokens: Tokens, authorization: str | None) -> bool:
    """Whether a value of the header `Authorization` has one of `tokens`."""
    token = None if authorization is None else _token(authorization)
    return token is not None and tokens.find(token) is not None


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
    # The user's name is whatever the netrc has.
    return credentials.partition(":")[2] or None
