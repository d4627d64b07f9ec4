"""Where a request ends: how many bytes of its body are still to come, by a look at the header alone.

It uses `_ErrInfo` of aiohttp, the message of a request that could not be parsed.
"""

import re
from typing import Final

from aiohttp import hdrs
from aiohttp.http import RawRequestMessage
from aiohttp.web_protocol import _ErrInfo

from harmonia_py.web.fast.header_blocks import END

_SIZE: Final = re.compile(r"[0-9]{1,18}", re.ASCII)


def left_after(left: int, data: bytes, requests: int, last: RawRequestMessage | _ErrInfo | None) -> int | None:
    """The bytes still to come of a body after the framework has taken `data`; None when that cannot be told.

    Args:
        left: how many were to come before.
        data: what came.
        requests: how many headers ended in it.
        last: the last of these requests, if there was one.
    """
    if left or not data:  # the framework wakes its parser with no data
        return left - len(data) if left >= len(data) and requests == 0 else None
    if requests != 1 or last is None:
        return None
    return 0 if _is_one_plain_request(data) else _body_left(data, last)


def _is_one_plain_request(data: bytes) -> bool:
    if not data.startswith((b"GET ", b"HEAD ")) or data.find(END) != len(data) - len(END):
        return False
    lower = data.lower()
    return not any(word in lower for word in (b"content-length", b"transfer-encoding", b"upgrade"))


def _body_left(data: bytes, message: RawRequestMessage | _ErrInfo) -> int | None:
    """The bytes still to come of the body of a PUT whose header is in `data`."""
    if isinstance(message, _ErrInfo) or message.method != hdrs.METH_PUT or message.upgrade or message.chunked:
        return None
    sizes = message.headers.getall(hdrs.CONTENT_LENGTH, [])
    if len(sizes) != 1 or _SIZE.fullmatch(sizes[0]) is None:
        return None
    left = int(sizes[0]) - (len(data) - data.index(END) - len(END))
    return left if left >= 0 else None
