"""The ID token of a CI's job: asked for where the CI hands it out, or read where the job has it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

from harmonia_py.client.http import HttpServer
from harmonia_py.errors import ConfigError, UpstreamProtocolError, describe_os_error

VARIABLE: Final = "HARMONIA_PY_ID_TOKEN"
"""The variable in which a job of GitLab has its token; its `id_tokens:` name one for each audience."""
# GitHub's, and Forgejo's after it: "Security hardening your deployments, OpenID Connect".
_REQUEST_URL: Final = "ACTIONS_ID_TOKEN_REQUEST_URL"
_REQUEST_TOKEN: Final = "ACTIONS_ID_TOKEN_REQUEST_TOKEN"  # noqa: S105  # the name of a variable
_PATIENCE_SECONDS: Final = 30.0
_MAX_BYTES: Final = 64 * 1024


async def id_token(source: str | None, audience: str, environment: Mapping[str, str]) -> str:
    """The token of this job.

    Args:
        source: `env:NAME`, a file, or `-` for standard input; None to ask the CI, or else to look at `VARIABLE`.
        audience: that it is to be made for, where the CI is asked.
        environment: of the job.

    Raises:
        ConfigError: there is none; the message says what a job must say to have one.
        HarmoniaError: the CI does not hand it out.
    """
    if source is not None:
        return _checked(read_token(source, environment), source)
    if is_handed_out(environment):
        return await _asked(environment[_REQUEST_URL], environment[_REQUEST_TOKEN], audience)
    if environment.get(VARIABLE):
        return _checked(environment[VARIABLE], VARIABLE)
    raise ConfigError(
        f"there is no token of a CI here: neither {_REQUEST_URL} (GitHub: `permissions: id-token: write`; Forgejo: "
        f"`enable-openid-connect: true`) nor {VARIABLE} (GitLab: `id_tokens:`) is set; --id-token says where it is"
    )


def is_handed_out(environment: Mapping[str, str]) -> bool:
    """Whether the CI makes a token for the audience that it is asked for."""
    return _REQUEST_URL in environment and _REQUEST_TOKEN in environment


async def _asked(url: str, token: str, audience: str) -> str:
    """The token that the CI hands out for `audience`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"{_REQUEST_URL}: not a URL: {url!r}")
    query = f"{parts.query}&" if parts.query else ""
    place = f"{parts.path or '/'}?{query}audience={quote(audience, safe='')}"
    async with HttpServer(f"{parts.scheme}://{parts.netloc}", token, patience=_PATIENCE_SECONDS) as server:
        told = (await server.ask("GET", place)).json()
    if not isinstance(told, dict) or not isinstance(told.get("value"), str):
        raise UpstreamProtocolError(f"{parts.netloc} hands out no token")
    return _checked(told["value"], _REQUEST_URL)


def read_token(source: str, environment: Mapping[str, str]) -> str:
    """The text that a job names as its token, without spaces around it.

    Args:
        source: `env:NAME`, a file, or `-` for standard input.
        environment: of the job.

    Raises:
        ConfigError: it cannot be read, or is no text.
    """
    if source.startswith("env:"):
        return environment.get(source.removeprefix("env:"), "").strip()
    try:
        if source == "-":
            return sys.stdin.read(_MAX_BYTES).strip()
        with Path(source).open(encoding="ascii") as file:
            return file.read(_MAX_BYTES).strip()
    except OSError as error:
        raise ConfigError(describe_os_error(error)) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{source}: not text") from None


def _checked(text: str, source: str) -> str:
    token = text.strip()
    if token.count(".") != 2 or not token.isascii() or not token.isprintable():  # noqa: PLR2004  # a JWT has three parts
        raise ConfigError(f"{source}: there is no token of a CI in it, which has three parts with dots between them")
    return token
