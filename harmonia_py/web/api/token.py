"""`/api/token`: the token of an issuer, such as that of a CI's job, exchanged for one of this server. RFC 8693.

Errors are JSON as RFC 6749, section 5.2, has it, with statuses that say as everywhere here what is wrong: 401 for a
token that is not good, 403 for one that no rule lets in.
"""

from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs

from aiohttp import hdrs, web

from harmonia_py.catalog.access import TooManyTokens
from harmonia_py.errors import AccessError, FormatError, NotAuthenticated
from harmonia_py.web.api.capabilities import json_response
from harmonia_py.web.http import upload
from harmonia_py.web.http.errors import not_found
from harmonia_py.web.state import SERVING

GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
_TYPES: Final = frozenset({"urn:ietf:params:oauth:token-type:id_token", "urn:ietf:params:oauth:token-type:jwt"})
_ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105  # the name of a type
_MAX_BODY: Final = 32 * 1024
_MAX_FIELDS: Final = 10
# Tokens last for hours; which of them expires next is not looked up.
_RETRY_AFTER_SECONDS: Final = 60
_FORM: Final = "application/x-www-form-urlencoded"


async def post(request: web.Request) -> web.StreamResponse:
    """A token for the holder of `subject_token`."""
    exchange = request.app[SERVING].settings.exchange
    if exchange is None:
        return not_found()
    try:
        subject_token = _subject_token(request, await upload.read(request, _MAX_BODY))
    except FormatError as error:
        return _error(HTTPStatus.BAD_REQUEST, "invalid_request", str(error))
    try:
        exchanged = await exchange.exchange(subject_token)
    except NotAuthenticated as error:
        words = str(error) or "Unauthorized: no issuer that is known here has signed this token"
        return _error(HTTPStatus.UNAUTHORIZED, "invalid_grant", words)
    except AccessError as error:
        return _error(HTTPStatus.FORBIDDEN, "access_denied", str(error))
    except TooManyTokens as error:
        response = _error(HTTPStatus.TOO_MANY_REQUESTS, "slow_down", str(error))
        response.headers[hdrs.RETRY_AFTER] = str(_RETRY_AFTER_SECONDS)
        return response
    body = {
        "access_token": str(exchanged.token),
        "issued_token_type": _ACCESS_TOKEN,
        "token_type": "Bearer",
        "expires_in": exchanged.identity.seconds,
        "principal": exchanged.identity.name,
    }
    return json_response(body)


def _subject_token(request: web.Request, data: bytes) -> str:
    """The token in a form.

    Raises:
        FormatError: it is no such form.
    """
    if request.content_type != _FORM:
        raise FormatError(f"send it as {_FORM}")
    try:
        fields = parse_qs(data.decode("ascii"), strict_parsing=True, max_num_fields=_MAX_FIELDS)
    except (ValueError, UnicodeDecodeError):
        raise FormatError("the body is no form") from None
    if any(len(values) > 1 for values in fields.values()):
        raise FormatError("a field is there twice")
    given = {name: values[0] for name, values in fields.items()}
    if given.get("grant_type") != GRANT_TYPE:
        raise FormatError(f"grant_type is not {GRANT_TYPE}")
    if given.get("subject_token_type") not in _TYPES:
        raise FormatError(f"subject_token_type is not one of {', '.join(sorted(_TYPES))}")
    if given.get("requested_token_type", _ACCESS_TOKEN) != _ACCESS_TOKEN:
        raise FormatError(f"requested_token_type is not {_ACCESS_TOKEN}")
    if not given.get("subject_token"):
        raise FormatError("subject_token is missing")
    return given["subject_token"]


def _error(status: HTTPStatus, error: str, description: str) -> web.Response:
    response = json_response({"error": error, "error_description": description})
    response.set_status(status)
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer error="invalid_token"'
    return response
