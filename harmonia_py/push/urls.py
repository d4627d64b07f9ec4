"""The URLs below `/push`: the kind and name of what a client pushes, and the run that it belongs to.

Nix remembers for 30 days which paths a store URL has, and takes its own unsigned narinfos for those of a cache. So the
URL to push to is another than the one to substitute from, and a segment behind it, `/push/<run>/…`, makes a URL of
which the client remembers nothing.
"""

import re
from enum import Enum
from typing import Final, Self

from msgspec import Struct

from harmonia_py.errors import FormatError

# Run ids, branches and commits of a CI.
_RUN: Final = re.compile(r"[^/\x00-\x1f\x7f]{1,200}")


class PushKind(Enum):
    """The kinds of what a client pushes; the value is the folder of the URL, or its suffix.

    A kind more also needs a line in `_SUFFIXES` or `_kind_of` here, and in the table `WAYS` of `web/nix/push.py`.
    """

    CACHE_INFO = "nix-cache-info"
    NARINFO = ".narinfo"
    LISTING = ".ls"
    NAR = "nar"
    LOG = "log"
    DEBUG_FILE = "debuginfo"
    REALISATION = "realisations"
    BUILD_TRACE = "build-trace-v2"


_SUFFIXES: Final = (PushKind.NARINFO, PushKind.LISTING)
_FOLDERS: Final = {kind.value: kind for kind in PushKind if kind not in (PushKind.CACHE_INFO, *_SUFFIXES)}
_DOI: Final = ".doi"


class PushUrl(Struct, frozen=True):
    """The URL of something that is pushed.

    Attributes:
        kind: of what is pushed.
        name: the last part of the URL, without folder and suffix; of a build trace `<derivation>^<output>`.
        run: the segment behind `/push`; empty when there is none.
    """

    kind: PushKind
    name: str
    run: str = ""

    @classmethod
    def parse(cls, path: str) -> Self:
        """Read what follows `push/`.

        Raises:
            FormatError: nothing that Nix would push.
        """
        *before, last = path.split("/")
        kind, name, depth = _kind_of(before, last)
        run = before[: len(before) - depth]
        if len(run) > 1 or any(_RUN.fullmatch(segment) is None for segment in run):
            raise FormatError("the URL to push to is /push, or /push/ and one more segment")
        return cls(kind, name, *run)


def _kind_of(before: list[str], last: str) -> tuple[PushKind, str, int]:
    """The kind, the name, and how many of the segments `before` belong to it."""
    if last == PushKind.CACHE_INFO.value:
        return PushKind.CACHE_INFO, "", 0
    for kind in _SUFFIXES:
        if last.endswith(kind.value):
            return kind, last.removesuffix(kind.value), 0
    if before[-2:-1] == [PushKind.BUILD_TRACE.value] and last.endswith(_DOI):
        return PushKind.BUILD_TRACE, f"{before[-1]}^{last.removesuffix(_DOI)}", 2
    folder = _FOLDERS.get(before[-1]) if before else None
    if folder in (PushKind.NAR, PushKind.LOG, PushKind.DEBUG_FILE):
        return folder, last, 1
    if folder is PushKind.REALISATION and last.endswith(_DOI):
        return folder, last.removesuffix(_DOI), 1
    raise FormatError("nothing that Nix pushes is called like this")
