"""The keys of one issuer: found by discovery when they are first needed, remembered, and kept while it is away.

Source: OpenID Connect Discovery 1.0, section 4.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final
from urllib.parse import urlsplit

import msgspec

from harmonia_py import json_text
from harmonia_py.errors import FormatError, UpstreamError, UpstreamProtocolError, UpstreamUnreachable
from harmonia_py.oidc.key_set import KeySet, VerificationKey, parse_key_set
from harmonia_py.runtime.tasks import SingleFlight

_DISCOVERY: Final = ".well-known/openid-configuration"
# With a key that an issuer takes away tokens are verified for so long; one that was verified is good until it ends.
_FRESH_SECONDS: Final = 3600.0
# And for so long where the issuer does not answer: then its CI makes no tokens either.
_KEPT_SECONDS: Final = 24 * 3600.0
# Tokens of unknown keys, which anybody can make, let an issuer be asked so often. Issuers publish a key long before
# they sign with it.
_AGAIN_SECONDS: Final = 30.0
# And an issuer that failed is asked again after so long: meanwhile, each token of it that needs its keys gets 502.
_AFTER_FAILURE_SECONDS: Final = 5.0
# A request that has a key waits so long for a newer one.
_RENEWAL_SECONDS: Final = 2.0
_ANSWER_SECONDS: Final = 10.0

Fetch = Callable[[str], Awaitable[bytes | None]]
"""The document at a URL that may be relative to the issuer's; None when it has none.

It bounds the size of what it reads, refuses what leads inward, and raises `UpstreamError`.
"""


class _Discovered(msgspec.Struct, frozen=True):
    issuer: str
    jwks_uri: str


class Issuer:
    """An issuer of tokens.

    Args:
        url: as the claim `iss` has it; a slash at its end makes no difference.
        fetch: fetches its documents.
        clock: seconds that only grow.
    """

    def __init__(self, url: str, fetch: Fetch, clock: Callable[[], float] = time.monotonic) -> None:
        self.url = normal_url(url)
        self._fetch = fetch
        self._clock = clock
        self._keys: KeySet = {}
        self._fetched = -inf
        self._asked = -inf
        self._failure: UpstreamError | None = None
        self._flight: SingleFlight[None, None] = SingleFlight()

    async def key(self, kid: str, algorithm: str) -> VerificationKey | None:
        """The key of this name; None when the issuer has none.

        Raises:
            UpstreamError: it cannot be asked, and was not lately.
        """
        known, age = self._keys.get((kid, algorithm)), self._clock() - self._fetched
        if known is not None and age < _FRESH_SECONDS:
            return known
        kept = known if age < _KEPT_SECONDS else None
        await self._ask_again(_RENEWAL_SECONDS if kept is not None else None)
        found = self._keys.get((kid, algorithm))
        if self._failure is None:
            return found if self._clock() - self._fetched < _KEPT_SECONDS else None
        if kept is None:
            raise self._renewed_failure()
        return kept

    async def refresh(self) -> KeySet:
        """Ask the issuer now; its keys.

        Raises:
            UpstreamError: it cannot be asked, or says what no issuer says.
        """
        await self._flight.do(None, self._ask)
        if self._failure is not None:
            raise self._renewed_failure()
        return self._keys

    async def aclose(self) -> None:
        """Give up a question that is under way."""
        await self._flight.aclose()

    async def _ask_again(self, seconds: float | None) -> None:
        """Ask unless that was done just now, and wait for the answer, for `seconds` at the most."""
        task = self._flight.get(None)
        pause = _AGAIN_SECONDS if self._failure is None else _AFTER_FAILURE_SECONDS
        if task is None and self._clock() - self._asked >= pause:
            task = self._flight.begin(None, self._ask)
        if task is not None:
            done, _ = await asyncio.wait([task], timeout=seconds)
            for one in done:
                if one.cancelled():  # by `aclose`: its callers are not cancelled
                    self._failure = UpstreamUnreachable(f"the issuer {self.url} is not asked any more")
                else:
                    one.result()

    def _renewed_failure(self) -> UpstreamError:
        """The failure, to be raised: each time that an exception is raised it grows by a traceback."""
        assert self._failure is not None
        return type(self._failure)(str(self._failure))

    async def _ask(self) -> None:
        """Note what the issuer says, or why it does not."""
        self._asked = self._clock()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                self._keys = await self._ask_for_keys()
        except TimeoutError:
            self._failure = UpstreamUnreachable(f"the issuer {self.url} does not answer in time")
        except UpstreamError as error:
            self._failure = type(error)(f"the issuer {self.url}: {error}")
        else:
            self._fetched, self._failure = self._clock(), None

    async def _ask_for_keys(self) -> KeySet:
        discovered = await self._document(_DISCOVERY)
        try:
            told = json_text.decode(discovered, _Discovered)
        except FormatError:
            raise UpstreamProtocolError(f"{_DISCOVERY} does not say its issuer and jwks_uri") from None
        if normal_url(told.issuer) != self.url:
            raise UpstreamProtocolError(f"{_DISCOVERY} is of another issuer, {told.issuer[:200]}")
        if not urlsplit(told.jwks_uri).scheme:
            raise UpstreamProtocolError(f"{_DISCOVERY}: its jwks_uri is no URL")
        try:
            return parse_key_set(await self._document(told.jwks_uri))
        except FormatError as error:
            raise UpstreamProtocolError(str(error)) from None

    async def _document(self, url: str) -> bytes:
        document = await self._fetch(url)
        if document is None:
            raise UpstreamProtocolError(f"it has no {url[:200]}")
        return document


def normal_url(url: str) -> str:
    """The URL of an issuer in the form for comparisons: without a slash at the end."""
    return url.rstrip("/")
