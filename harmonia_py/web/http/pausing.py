"""Waiting for a download to begin, and for its next bytes when it has none to send for now."""

import asyncio
import os
import socket
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from aiohttp import web

from harmonia_py.cache.source import Pause
from harmonia_py.web.http.pump import ClientGone

T = TypeVar("T")

# A client that has shut its side may still read, or may be gone: only bytes that are sent to it would tell. For such a
# client a download that has nothing to send goes on for so long.
_SHUT_SECONDS: Final = 2.0


async def wait_for_more(pause: Pause, sock: socket.socket, moved: float) -> None:
    """Wait until there may be more to send; `moved` is when the client was last sent something, by the loop's clock.

    Raises:
        ClientGone: the client has shut its side of the connection, and there has been nothing to send for too long.
    """
    waiting = asyncio.ensure_future(pause.wait())
    patience = moved + _SHUT_SECONDS - asyncio.get_running_loop().time()
    try:
        while not (await asyncio.wait([waiting], timeout=max(0.0, patience)))[0]:
            if _is_shut(sock):
                raise ClientGone
            patience = _SHUT_SECONDS
    finally:
        waiting.cancel()
    waiting.result()


async def while_connected(request: web.Request, wanted: Coroutine[Any, Any, T]) -> T:
    """The result of `wanted`, which is cancelled when the client has gone, so that its place in a queue is free.

    Raises:
        ClientGone: the connection is lost, or the client has shut its side and `wanted` takes long.
    """
    waiting = asyncio.ensure_future(wanted)
    try:
        while not (await asyncio.wait([waiting], timeout=_SHUT_SECONDS))[0]:
            transport = request.transport
            if transport is None or transport.is_closing() or _has_shut(transport):
                raise ClientGone
    finally:
        # The framework cancels no handler: without this, the handler of a client that has left would wait on.
        waiting.cancel()
    return waiting.result()


def _has_shut(transport: asyncio.BaseTransport) -> bool:
    # What the transport shows of its socket cannot be read from.
    try:
        sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    except OSError:  # no descriptor is left: nothing can be told
        return False
    with sock:
        return _is_shut(sock)


def _is_shut(sock: socket.socket) -> bool:
    """Whether the peer sends nothing any more."""
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
