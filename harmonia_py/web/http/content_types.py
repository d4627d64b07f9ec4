"""The `Content-Type` of a file, by the end of its name alone."""

import mimetypes
from typing import Final

UNKNOWN: Final = "application/octet-stream"

# Types by extension that do not depend on the machine or the version of Python.
_TYPES: Final = {
    **mimetypes.MimeTypes().types_map[True],
    ".7z": "application/x-7z-compressed",
    ".avif": "image/avif",
    ".br": UNKNOWN,
    ".bz2": "application/x-bzip2",
    ".cjs": "text/javascript",
    ".conf": "text/plain",
    ".cfg": "text/plain",
    ".diff": "text/plain",
    ".drv": "text/plain",
    ".flac": "audio/flac",
    ".gz": "application/gzip",
    ".ini": "text/plain",
    ".js": "text/javascript",
    ".log": "text/plain",
    ".lz": "application/x-lzip",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".nix": "text/plain",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".otf": "font/otf",
    ".patch": "text/plain",
    ".pc": "text/plain",
    ".rs": "text/plain",
    ".rst": "text/plain",
    ".service": "text/plain",
    ".sh": "text/plain",
    ".svgz": UNKNOWN,
    ".toml": "text/plain",
    ".ttc": "font/collection",
    ".ttf": "font/ttf",
    ".wasm": "application/wasm",
    ".webm": "video/webm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xml": "text/xml",
    ".xz": "application/x-xz",
    ".yaml": "text/plain",
    ".yml": "text/plain",
    ".zst": "application/zstd",
}


def content_type_of(name: bytes) -> str:
    """The type of a file with this name, never guessed from its contents; text is said to be UTF-8."""
    # A name that begins with its only dot has no extension.
    _, dot, extension = name.lstrip(b".").rpartition(b".")
    if not dot:
        return UNKNOWN
    content_type = _TYPES.get(f".{extension.decode('ascii', 'replace').lower()}", UNKNOWN)
    return f"{content_type}; charset=utf-8" if content_type.startswith("text/") else content_type
