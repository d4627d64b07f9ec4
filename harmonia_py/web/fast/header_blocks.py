"""Blocks of header lines, each looked at once: clients send the same block with every request."""

import time
from typing import Final

from msgspec import Struct

from harmonia_py.cache.access import Principal
from harmonia_py.cache.caches import NamedCache
from harmonia_py.web.admission.authorization import Principals
from harmonia_py.web.http.coding import select

END: Final = b"\r\n\r\n"

# Headers that do not change the answer by any value. The framework answers a request with any other header.
_HARMLESS: Final = frozenset({b"user-agent", b"accept", b"accept-language", b"via"})
# The value of `Accept` in which a browser says that an error may be a page.
_PAGE: Final = b"text/html"
# Headers that choose among the answers, or decide whether there is one.
_CHOOSING: Final = (b"host", b"accept-encoding", b"authorization")
_MAX_BLOCKS: Final = 256
_MAX_BLOCK_BYTES: Final = 1024


class HeaderBlock(Struct):
    """A block of header lines, and what they say of every request that has them.

    Attributes:
        coding: the one that they select.
        principal: the one that their credentials belong to.
        expires: when the principal does, by `time.monotonic`.
        caches: caches that the principal was found to be allowed to read.
        used: whether a request had this block since the last call of `take_used`.
    """

    coding: str | None
    principal: Principal
    expires: float
    caches: set[NamedCache]
    used: bool = True


class HeaderBlocks:
    """The blocks of one worker.

    Args:
        principals: finds the principal of a request.

    Attributes:
        known: blocks that were parsed, by their bytes.
    """

    def __init__(self, principals: Principals) -> None:
        self.known: dict[bytes, HeaderBlock] = {}
        self._principals = principals

    def look_at(self, block: bytes) -> HeaderBlock | None:
        """The parsed `block`, if it is all header lines of one plain request, and the last bytes of it.

        None when a header may change the answer in another way than by its coding, and when the principal of the
        request is not known yet.
        """
        chosen = _chosen(block)
        if chosen is None:
            return None
        principal = self._principals.known(chosen.get(b"authorization"))
        if principal is None:
            return None
        if len(self.known) >= _MAX_BLOCKS:
            self.known.clear()
        expires = time.monotonic() + principal.expires - time.time()
        found = self.known[block] = HeaderBlock(select(chosen.get(b"accept-encoding", "")), principal, expires, set())
        return found

    def take_used(self) -> list[Principal]:
        """The principals of requests since the last call."""
        used = [block for block in self.known.values() if block.used]
        for block in used:
            block.used = False
        return [block.principal for block in used]

    def clear(self) -> None:
        """Look at every block again."""
        self.known.clear()


def _chosen(block: bytes) -> dict[bytes, str] | None:
    """The headers in `block` that choose among the answers; None when the framework may have to answer."""
    if len(block) > _MAX_BLOCK_BYTES or block.find(END) != len(block) - len(END):
        return None
    chosen: dict[bytes, str] = {}
    for line in block[: -len(END)].split(b"\r\n"):
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not colon or not value.isascii() or not value.decode().isprintable() or name in chosen:
            return None
        if name in _CHOOSING:
            chosen[name] = value.decode().strip()
        elif name not in _HARMLESS or _PAGE in value.lower():
            return None
    return chosen if b"host" in chosen else None
