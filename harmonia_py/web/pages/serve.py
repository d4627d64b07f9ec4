"""`/serve/<hash part>/<path…>`: the files of a store path, as a browser or `curl` wants them.

A store path may hold anything, also a page written to attack its visitors, so a file is shown without the rights of
this cache's pages (`POLICY`).
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import quote, unquote, unquote_to_bytes

from aiohttp import hdrs, web

from harmonia_py.cache.tree import Directory, Entry, File, Kind
from harmonia_py.nix.store_path import HashPart
from harmonia_py.web.http.body import Headers, respond
from harmonia_py.web.http.content_types import content_type_of
from harmonia_py.web.http.errors import not_found
from harmonia_py.web.http.making import turn_of
from harmonia_py.web.pages.templates import DirectoryEntry, respond_page
from harmonia_py.web.state import cache_of, segments_of

# For every file. `sandbox` gives a page an opaque origin, no other page's, and neither scripts, forms, windows nor the
# address bar; `default-src 'none'` forbids scripts and everything else once more, and connections. A static site may
# load its own styles, images, sound and films, and have styles in its pages; nothing comes from or goes to elsewhere.
# `'self'` is the address the page came from, also where its origin is opaque. Fonts that are files are the price of
# that origin: browsers ask permission across origins for them, and to give it would let every site on the net read
# what only this cache's network should. A text is shown in the system's font then.
# Links to what a browser saves still work: `allow-downloads`.
POLICY: Final = (
    "sandbox allow-downloads; default-src 'none'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "media-src 'self' data:; font-src 'self' data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
INDEX: Final = b"index.html"

_FILE_HEADERS: Final[Mapping[str, str]] = {
    hdrs.CONTENT_SECURITY_POLICY: POLICY,
    hdrs.X_CONTENT_TYPE_OPTIONS: "nosniff",
    hdrs.REFERRER_POLICY: "same-origin",
    # A path that is collected and built again may have other contents, and links elsewhere may stop to lead anywhere.
    hdrs.CACHE_CONTROL: "max-age=3600",
}


async def get(request: web.Request) -> web.StreamResponse:
    """A file; for a directory its `index.html`, or else its entries."""
    # The raw path: the framework has decoded the names in its path, with the slashes in them.
    _, raw_hash_part, *raw_components = segments_of(request)
    hash_part = HashPart.parse(unquote(raw_hash_part))
    wants_directory = raw_components[-1:] == [""]
    components = [_component(raw) for raw in (raw_components[:-1] if wants_directory else raw_components)]
    if not all(map(_is_name, components)):
        return not_found()
    if wants_directory:
        return await _directory(request, hash_part, components)
    found = await cache_of(request).file(hash_part, components)
    if isinstance(found, File):
        return await _file(request, found, components)
    if found is None:
        return not_found()
    # Relative, so that it holds below any prefix of a proxy and cannot lead to another host; encoded, so that a name
    # stays one component, also with a question mark in it.
    return _redirect(f"{quote(components[-1], safe='') if components else hash_part}/")


def _redirect(location: str) -> web.Response:
    return web.Response(status=HTTPStatus.FOUND, text="Found\n", headers={hdrs.LOCATION: location})


async def _directory(request: web.Request, hash_part: HashPart, components: Sequence[bytes]) -> web.StreamResponse:
    cache = cache_of(request)
    index = await cache.file(hash_part, [*components, INDEX])
    if isinstance(index, File):
        return await _file(request, index, [INDEX])
    async with turn_of(request):
        found = await cache.file(hash_part, components)
        if isinstance(found, Directory):
            return await _listing(request, found, components)
    if found is not None:
        found.download.release()
        # Pages link to every store path as a directory; one that is a file has no slash at its end.
        return not_found() if components else _redirect(f"../{hash_part}")
    return not_found()


async def _file(request: web.Request, file: File, components: Sequence[bytes]) -> web.StreamResponse:
    # The name that was asked for, and not that of the file which a link led to: the author of a site chose it.
    name = components[-1] if components else file.store_path.encode()
    headers: Headers = {hdrs.CONTENT_TYPE: content_type_of(name), **_FILE_HEADERS}
    return await respond(request, file.download, headers)


async def _listing(request: web.Request, directory: Directory, components: Sequence[bytes]) -> web.StreamResponse:
    names = [str(directory.store_path), *map(_for_people, components)]
    above = [f"{'../' * steps}" for steps in range(len(components), 0, -1)]
    values = {
        "title": names[-1],
        "path": [*zip(names, [*above, None], strict=True)],
        "parent": "../" if components else None,
        "entries": [_row(entry) for entry in directory.entries],
        "omitted": directory.total - len(directory.entries),
        "hash_part": directory.store_path.hash_part,
    }
    return await respond_page(request, "directory.html", values)


def _row(entry: Entry) -> DirectoryEntry:
    slash = "/" if entry.kind is Kind.DIRECTORY else ""
    return DirectoryEntry(
        name=_for_people(entry.name),
        href=quote(entry.name, safe="") + slash,
        kind=entry.kind.value,
        size=entry.size if entry.kind is Kind.REGULAR else None,
        executable=entry.executable,
        target=_for_people(entry.target) if entry.kind is Kind.SYMLINK else None,
    )


def _component(raw: str) -> bytes:
    return unquote_to_bytes(raw.encode("utf-8", "surrogateescape"))


def _is_name(component: bytes) -> bool:
    """Whether a directory can have an entry of this name. A slash in it was encoded, and separates nothing."""
    return component not in (b"", b".", b"..") and b"/" not in component and b"\0" not in component


def _for_people(name: bytes) -> str:
    r"""The name with every byte that is no text, and every character that cannot be seen, as its escape: `\xff`."""
    text = name.decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
