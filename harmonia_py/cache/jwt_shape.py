"""The common parts of Attic's and issuers' tokens as JSON Web Tokens: shape, length and clocks. RFC 7519."""

import base64
import binascii
import re
from datetime import UTC, datetime
from typing import Final

from harmonia_py.errors import FormatError

LEEWAY_SECONDS: Final = 60
"""The clocks of this machine and of a token's maker may differ by so much: `atticadm` lets tokens begin at once."""
MAX_LENGTH: Final = 8 * 1024
"""The bound of a token's length. Those of GitHub and GitLab have about 2,000 characters, `atticadm`'s some hundred."""
JWT: Final = re.compile(r"eyJ[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+", re.ASCII)
"""Header, claims and signature in base 64; the group is the claims."""


def decoded(part: str) -> bytes:
    """What a part of a token has in base 64.

    Raises:
        FormatError: that is not base 64.
    """
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except binascii.Error:
        raise FormatError("a part of the token is not base 64") from None


def shown_time(seconds: float) -> str:
    """A time of a token, in seconds since the epoch, for people: in UTC, to the second."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds")
    except (OverflowError, ValueError, OSError):
        return "a time that no calendar has"


def begins_later(what: str, seconds: float) -> str:
    """The sentence about a token, named `what`, that is not valid before a time that is to come."""
    return f"{what} is not valid before {shown_time(seconds)}: the clocks of two machines differ"
