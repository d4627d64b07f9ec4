"""The request line, judged before the framework's parser sees it: to a line that it does not know, that answers 400.

RFC 9110, sections 2.5 (versions), 9.1 (methods) and 15.5.15 (414); RFC 9112, section 3.
"""

import re
from http import HTTPMethod, HTTPStatus
from typing import Final

# The longest request target that the framework's parser takes.
MAX_TARGET_BYTES: Final = 8190

_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) [\x21-\x7e\x80-\xff]+ HTTP/([0-9])\.([0-9])\r?\n")
# A method and the beginning of a target, of a line that has not ended yet.
_BEGINNING: Final = re.compile(rb"[A-Z]{1,32} [/*h][\x21-\x7e\x80-\xff]*\Z")
_METHODS: Final = frozenset(method.encode() for method in HTTPMethod)


def judge(data: bytes) -> bytes | HTTPStatus:
    """`data`, which begins a request, for the framework's parser; or the status that no parser is needed for.

    A later HTTP/1 is read as HTTP/1.1, another HTTP is 505, an unknown method 405, and a target that is too long 414.
    """
    line = _LINE.match(data)
    if line is None:
        is_long = len(data) > MAX_TARGET_BYTES and _BEGINNING.match(data) is not None
        return HTTPStatus.REQUEST_URI_TOO_LONG if is_long else data
    method, major, minor = line.groups()
    if major > b"1":
        return HTTPStatus.HTTP_VERSION_NOT_SUPPORTED
    if line.end() > MAX_TARGET_BYTES:
        return HTTPStatus.REQUEST_URI_TOO_LONG
    if method not in _METHODS:
        return HTTPStatus.METHOD_NOT_ALLOWED
    if major == b"1" and minor > b"1":
        return data[: line.start(3)] + b"1" + data[line.end(3) :]
    return data
