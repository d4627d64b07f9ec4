"""The netrc that Nix takes passwords from: an entry for a server, added and taken out again.

Source: `netrc-file` in the Nix manual; curl reads the file: the first entry of a host counts, and no entry knows ports.
"""

import re
from typing import Final

_LOGIN: Final = "harmonia-py"
_TOKEN: Final = r"\S+"  # noqa: S105  # a pattern


def add_entry(text: str | None, host: str, token: str) -> str:
    """The text with an entry for this host as the first one; an earlier one of ours is replaced."""
    rest = remove_entry(text, host) or ""
    return f"{entry(host, token)}\n{rest}"


def remove_entry(text: str | None, host: str) -> str | None:
    """The text without our entry for this host; None when nothing else is in it."""
    if text is None:
        return None
    rest = re.sub(rf"^{entry(re.escape(host), _TOKEN)}\n", "", text, flags=re.MULTILINE)
    return rest or None


def entry(host: str, password: str) -> str:
    """A line for a netrc."""
    return f"machine {host} login {_LOGIN} password {password}"
