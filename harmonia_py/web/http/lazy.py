"""Handlers that are imported with the first request for them.

The handlers of pushes, and the modules under them, take a fifth of the time of a start, and 3 MB: a server that takes
no pushes pays for neither.
"""

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Final, TypeVar

from aiohttp import web

T = TypeVar("T")

_PACKAGE: Final = "harmonia_py.web"


def lazily(module: str, name: str) -> Callable[[web.Request], Awaitable[T]]:
    """A coroutine function that calls `name` of `harmonia_py.web.<module>`, which is imported with the first call."""

    async def handler(request: web.Request) -> T:
        result: T = await getattr(import_module(f"{_PACKAGE}.{module}"), name)(request)
        return result

    return handler
