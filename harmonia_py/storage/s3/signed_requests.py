"""Requests to a bucket that the library of buckets does not make, each signed as a URL: so a body needs no hash."""

import asyncio
import re
import ssl
from collections.abc import Mapping
from html import unescape
from http import HTTPStatus
from typing import Final

import aiohttp
from aiohttp import hdrs
from msgspec import Struct
from yarl import URL

from harmonia_py.errors import StorageError
from harmonia_py.storage.s3.signature import Signer

# What this process asks is asked at once.
_GOOD_SECONDS: Final = 300
_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 8.0
_ATTEMPTS: Final = 3
_PAUSE_SECONDS: Final = 0.2
# A page of a list has a thousand entries of a few hundred bytes.
_MAX_ANSWER: Final = 8 * 1024**2
# Questions that one worker asks at once; further ones wait for a connection.
_CONNECTIONS: Final = 100


class Answer(Struct, frozen=True):
    """The answer of a bucket.

    Attributes:
        status: of HTTP.
        text: XML.
    """

    status: int
    text: str

    @property
    def code(self) -> str:
        """The error that the bucket names; empty for none."""
        found = re.search(r"<Code>(\w+)</Code>", self.text) if "<Error>" in self.text else None
        return "" if found is None else found[1]

    @property
    def is_good(self) -> bool:
        """Whether it is done: the answer to what takes long begins with 200, and may still end with an error."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES and "<Error>" not in self.text

    def describe(self) -> str:
        """The status and the error, in words."""
        return f"the bucket answers {self.status}" + (f" ({self.code})" if self.code else "")

    def one(self, element: str) -> str | None:
        """The text of the first element of this name; None when there is none."""
        found = re.search(f"<{element}>([^<]*)</{element}>", self.text)
        return None if found is None else unescape(found[1])


class SignedRequests:
    """Asks one bucket. It belongs to the event loop that uses it, and connects when it is first used.

    Args:
        signer: of the bucket.
        prefix: of all keys, without slashes at its ends.
    """

    def __init__(self, signer: Signer, prefix: str) -> None:
        self._signer = signer
        self._prefix = f"{prefix}/" if prefix else ""
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | None = None

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def ask(
        self,
        method: str,
        name: str,
        query: Mapping[str, str],
        body: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float = _ANSWER_SECONDS,
    ) -> Answer:
        """The answer to a request, which is made three times where the bucket fails.

        Args:
            method: of HTTP.
            name: of the object, without the prefix; empty for the bucket.
            query: of the URL.
            body: of the request.
            headers: that are signed, by their names in small letters.
            seconds: in which it is to be answered.

        Raises:
            StorageError: the bucket does not answer.
        """
        key = self._prefix + name if name else ""
        attempt = 1
        while True:
            url = self._signer.url(method, key, query, seconds=_GOOD_SECONDS, headers=headers)
            try:
                async with asyncio.timeout(seconds):
                    answer = await self._once(method, url, body, headers or {})
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                if attempt == _ATTEMPTS:
                    said = "does not answer in time" if isinstance(error, TimeoutError) else "cannot be reached"
                    raise StorageError(f"the bucket {said}") from error
            else:
                fails = answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR or (
                    answer.status < HTTPStatus.MULTIPLE_CHOICES and not answer.is_good
                )
                if not fails or attempt == _ATTEMPTS:
                    return answer
            await asyncio.sleep(_PAUSE_SECONDS * attempt)
            attempt += 1

    async def _once(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        if self._session is None:
            self._session = client_session(_CONNECTIONS)
        if self._tls is None and url.startswith("https:"):
            # It takes as long to read the certificates of the machine as to ask ten questions.
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        async with self._session.request(
            method,
            URL(url, encoded=True),
            data=body or None,
            headers=headers,
            allow_redirects=False,
            ssl=True if self._tls is None else self._tls,
        ) as response:
            data = bytearray()
            async for piece in response.content.iter_any():
                data += piece
                if len(data) > _MAX_ANSWER:
                    raise StorageError("the bucket's answer has no end")
            return Answer(response.status, data.decode(errors="replace"))


def client_session(connections: int) -> aiohttp.ClientSession:
    """A client of a bucket with at most so many connections; 0: without a limit."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        # What a proxy would compress is not decompressed here.
        headers={hdrs.ACCEPT_ENCODING: "identity"},
        trust_env=True,
        auto_decompress=False,
    )
