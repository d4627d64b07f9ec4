"""The name of a cache: the first segment of its URLs, and what tokens, pins and commands call it."""

import re
from typing import Final, Self

from harmonia_py.errors import FormatError

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,49}", re.ASCII)

# First segments of URLs of the cache at `/` and of the server: a cache of such a name could not be reached.
RESERVED: Final = frozenset(
    [
        "api", "attic", "build-trace-v2", "debuginfo", "health", "log", "metrics", "nar", "nix-cache-info", "path",
        "pin", "pins", "push", "ready", "realisations", "search", "serve", "version",
    ]
)  # fmt: skip


class CacheName(str):
    """Up to 50 letters, digits, `_`, `+` and `-`, of which the first is a letter or a digit."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a name.

        Raises:
            FormatError: other characters, too long, or the first segment of another URL.
        """
        if _NAME.fullmatch(text) is None:
            raise FormatError("the name of a cache is made of up to 50 letters, digits, _, + and -")
        if text in RESERVED:
            raise FormatError(f"a cache cannot be called {text}: other URLs begin with that")
        return cls(text)


DEFAULT: Final = CacheName("default")
"""The cache at `/`: the local store, the mirror, and what is pushed to it."""
