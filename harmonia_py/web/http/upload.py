"""The body of a request as it arrives, within bounds of its length and of its time.

The gate has decided by then that the body is to be read. It is given as the client sent it, also where
`Content-Encoding` says that it is coded.
"""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from harmonia_py.errors import LengthRequired, PushTooLarge
from harmonia_py.web.admission.limits import answer_in
from harmonia_py.web.state import TRANSFERS


def announced_bytes(request: web.Request, most: int) -> int:
    """The length of the body, from its header.

    Raises:
        LengthRequired: the header does not say it.
        PushTooLarge: more than `most` bytes.
    """
    size = request.content_length
    if size is None:
        raise LengthRequired("Length Required: say how long it is with the header Content-Length")
    if size > most:
        raise PushTooLarge(f"Content Too Large: this is {size} bytes, and {most} are taken at the most")
    return size


async def pieces(request: web.Request) -> AsyncIterator[bytes]:
    """The body, piece by piece. A client may take hours, as long as it does not stand still.

    The work that the caller does with a piece, and the answer after the last one, have the time limit of every answer.

    Raises:
        web.HTTPRequestTimeout: the client stands still.
        ConnectionError: it has left.
    """
    limits = request.app[TRANSFERS].limits
    while True:
        answer_in(None)
        try:
            async with asyncio.timeout(limits.stall_timeout):
                piece = await request.content.readany()
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
        answer_in(limits.request_timeout)
        if not piece:
            return
        yield piece


async def read(request: web.Request, most: int) -> bytes:
    """The whole body.

    Raises:
        PushTooLarge: more than `most` bytes; the others are not read.
        web.HTTPRequestTimeout: the client stands still.
        ConnectionError: it has left.
    """
    body = bytearray()
    async for piece in pieces(request):
        body += piece
        if len(body) > most:
            raise PushTooLarge(f"Content Too Large: {most} bytes are taken at the most")
    return bytes(body)
