"""Pages for people: Jinja2 templates in `html/`, which escape every value.

A page loads nothing. Style and script stand in the page itself, and its policy names their digests: other code that an
attacker brings into a page neither runs nor fetches anything. Links are relative, so a cache may live below any path.
"""

import base64
import hashlib
import pkgutil
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, Literal

from aiohttp import hdrs, web
from msgspec import Struct

from harmonia_py import __version__
from harmonia_py.nix.hashes import Hash
from harmonia_py.web.admission.address import site_of
from harmonia_py.web.http.body import Headers, respond_bytes
from harmonia_py.web.state import TRANSFERS, root_of

_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_STEP: Final = 1024


class DirectoryEntry(Struct, frozen=True, kw_only=True):
    """A row of `directory.html`.

    Attributes:
        name: for people; bytes of it that are not UTF-8 are escaped.
        href: relative and percent-encoded; None when there is nothing to open.
        kind: of the entry itself, not of what a symbolic link leads to.
        size: in bytes, of a regular file.
        executable: whether a regular file is.
        target: of a symbolic link, for people.
    """

    name: str
    href: str | None
    kind: Literal["directory", "regular", "symlink"]
    size: int | None = None
    executable: bool = False
    target: str | None = None


def render(template: str, **values: object) -> bytes:
    """The page that `template` makes of `values`. It takes a millisecond for every hundred rows: call it in a thread.

    Every template takes `root`, the relative URL of the root of the cache, and `site`, the name of this cache.

    * `directory.html`: `title`; `path`, the directory's place in the store path, as pairs of a name and a relative URL
      that may be None; `parent`, a relative URL or None; `entries`, a sequence of `DirectoryEntry`;
      `hash_part`, whose page is linked; None if there is none.
    """
    return str(_environment().get_template(template).render(values)).encode()


async def respond_page(request: web.Request, template: str, values: Mapping[str, object]) -> web.Response:
    """Answer with the page; `root` and `site` are filled in."""
    common = {"root": root_of(request), "site": site_of(request)}
    data = await request.app[TRANSFERS].threads.run(lambda: render(template, **common, **values))
    return await respond_bytes(request, data, etag=Hash.of(data).nix32, headers=headers())


def headers() -> Headers:
    """The headers of every page."""
    return {
        hdrs.CONTENT_TYPE: "text/html; charset=utf-8",
        # It shows the URL that the visitor used, so a shared cache must not give it to another visitor.
        hdrs.CACHE_CONTROL: "private, no-cache",
        hdrs.CONTENT_SECURITY_POLICY: content_security_policy(),
        hdrs.X_CONTENT_TYPE_OPTIONS: "nosniff",
        hdrs.REFERRER_POLICY: "same-origin",
    }


@cache
def content_security_policy() -> str:
    """The strictest policy that a page works under."""
    return (
        f"default-src 'none'; style-src {_source('page.css')}; script-src {_source('page.js')}; img-src data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def date_of(seconds: int) -> datetime | None:
    """A time of a path info, in seconds since the epoch; None for 0, and for one that only a broken store can have."""
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds else None
    except (OverflowError, OSError, ValueError):
        return None


def format_size(size: int) -> str:
    """`size` in bytes with three or four digits: `17 bytes`, `1.2 MiB`."""
    value, unit = float(size), 0
    while round(value) >= _STEP and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    digits = 1 if unit and value < 100 else 0  # noqa: PLR2004  # from there on a digit behind the point is noise
    return f"{value:,.{digits}f} {_UNITS[unit] if size != 1 else 'byte'}"


@cache
def _text(name: str) -> str:
    # Not by `importlib.resources`, whose import takes 450 KB and as long as that of ten modules.
    data = pkgutil.get_data(__package__, f"html/{name}")
    assert data is not None
    return data.decode()


def _source(name: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(_text(name).encode()).digest()).decode()}'"


@cache
def _environment() -> Any:
    # Importing it takes as long as importing half the daemon, and most daemons are never looked at by a person.
    import jinja2  # noqa: PLC0415

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {"bytes": format_size, "grouped": lambda number: f"{number:,}"}
    markup = environment.filters["safe"]
    environment.globals |= {
        "style": markup(_text("page.css")),
        "script": markup(_text("page.js")),
        "version": __version__,
    }
    return environment
