"""One line for each request, when it has ended."""

import logging
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

_log: Final = logging.getLogger("harmonia_py.access")


class AccessLogger(AbstractAccessLogger):
    """Client, request, status, bytes and milliseconds; as fields for the JSON form, as words for the plain one."""

    @property
    def enabled(self) -> bool:
        """Whether anybody would see the line."""
        return _log.isEnabledFor(logging.INFO)

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Write the line of one request. `time` is in seconds."""
        _log.info(
            '%s "%s %s" %d %d %.1fms',
            request.remote or "unix",
            request.method,
            request.raw_path,
            response.status,
            response.body_length,
            time * 1000,
            extra={
                "fields": {
                    "client": request.remote or "unix",
                    "method": request.method,
                    "path": request.raw_path,
                    "status": response.status,
                    "bytes": response.body_length,
                    "milliseconds": round(time * 1000, 3),
                    "user_agent": request.headers.get("User-Agent", ""),
                }
            },
        )
