"""Pages for people: Jinja2 templates in `templates/`, which escape every value.

A page loads nothing. Style and script stand in the page itself, and its policy names their digests: whatever else a
page may be made to contain neither runs nor fetches anything. Links are relative, so a cache may live below any path.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final, Literal

from aiohttp import hdrs, web

from harmonia_py import __version__
from harmonia_py.nix.hashes import Hash
from harmonia_py.web.address import site_of
from harmonia_py.web.body import Headers, respond_bytes
from harmonia_py.web.state import TRANSFERS

_TEMPLATES: Final = resources.files(__package__) / "templates"
_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_STEP: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryEntry:
    """A row of `directory.html`.

    Attributes:
        name: for people; what is not UTF-8 in it is escaped somehow.
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

    Every template takes `root`, the relative URL of `/` (see `root_of`), and `site`, the name of this cache.

    * `directory.html`: `title`; `path`, the directory's place in the store path, as pairs of a name and a relative URL
      that may be None; `parent`, a relative URL or None; `entries`, a sequence of `DirectoryEntry`;
      `hash_part`, whose page is linked; None if there is none.
    """
    return str(_environment().get_template(template).render(values)).encode()


async def respond_page(request: web.Request, template: str, values: Mapping[str, object]) -> web.Response:
    """Answer with the page; `root` and `site` are filled in."""
    common = {"root": root_of(request), "site": site_of(request)}
    data = await request.app[TRANSFERS].in_thread(lambda: render(template, **common, **values))
    return await respond_bytes(request, data, etag=Hash.of(data).nix32, headers=headers())


def headers() -> Headers:
    """What goes with every page."""
    return {
        hdrs.CONTENT_TYPE: "text/html; charset=utf-8",
        # It shows the URL that the visitor used, so it is nobody else's.
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


def root_of(request: web.Request) -> str:
    """The URL of `/`, relative to that of `request`: `./`, `../` and so on."""
    return "../" * (request.rel_url.raw_path.count("/") - 1) or "./"


def format_size(size: int) -> str:
    """`size` in bytes with three or four digits: `17 bytes`, `1.2 MiB`."""
    value, unit = float(size), 0
    while round(value) >= _STEP and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    digits = 1 if unit and value < 100 else 0  # noqa: PLR2004  # from there on a digit behind the point is noise
    return f"{value:,.{digits}f} {_UNITS[unit] if size != 1 else 'byte'}"


@cache
def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text()


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
