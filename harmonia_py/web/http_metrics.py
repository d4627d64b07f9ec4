"""The metrics of requests, and of the bytes that are sent."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

from aiohttp import web

from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter, Histogram, Metrics

# The route of URLs that are none of ours, and of methods and requests that the framework turns down.
OTHER: Final = "other"
# Before the name of a route of a cache that is not the one at `/`.
NAMED: Final = "named:"
NARINFO: Final = "narinfo"
NAR: Final = "nar"

_FAULTS: Final = (500, 502, 503)
_DOCUMENT: Final = (200, 304, 404, *_FAULTS)
_DOWNLOAD: Final = (200, 206, 304, 404, 416, *_FAULTS)
_PUSH: Final = (200, 400, 403, 409, 413, 422)
_SESSION: Final = (200, 400, 403, 410, *_FAULTS)
_METHODS: Final = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
# The gate answers requests to any route with these; a refused HEAD is rare enough to begin its series when it comes.
_REFUSALS: Final = (401, 429)

# The statuses that each route answers with; their series are there from the start. A status that is not in this table
# is counted as well, from its first time on.
STATUSES: Final[Mapping[str, tuple[int, ...]]] = {
    "home": (200, *_FAULTS),
    "search": (200, 404, *_FAULTS),
    "path": (200, 404, *_FAULTS),
    "nix-cache-info": (200, 304),
    "narinfo": _DOCUMENT,
    "nar": (302, *_DOWNLOAD),
    "ls": _DOWNLOAD,
    "log": _DOWNLOAD,
    "realisations": _DOCUMENT,
    "build-trace-v2": (400, *_DOCUMENT),
    "debuginfo": _DOCUMENT,
    "serve": (302, *_DOWNLOAD),
    "ready": (200, 500, 503),
    "health": (200,),
    "version": (200,),
    "metrics": (200, 500),
    "push-cache-info": (200, 304),
    "push": _DOCUMENT,
    "put": _PUSH,
    "pins": _DOCUMENT,
    "pin": (302, *_DOCUMENT),
    "put-pin": _PUSH,
    "delete-pin": (200, 403, 404),
    "delete": (200, 403, 404, 409),
    "standing": (200, 404, *_FAULTS),
    "promote": (200, 400, 403, 409, 413, 422),
    "capabilities": (200,),
    "token": (200, 400, 401, 403, 404, 502),
    "cache": (200,),
    "sessions": (200, 403, 422),
    "session": _SESSION,
    "session-missing": _SESSION,
    "session-nar": (*_PUSH, 410),
    "session-part": (*_PUSH, 410),
    "session-upload": (*_PUSH, 410),
    "session-upload-parts": (*_PUSH, 404, 410),
    "session-bases": _SESSION,
    "session-chunks": _SESSION,
    "session-recipe": (*_PUSH, 410),
    "session-publish": _SESSION,
    "session-finish": _SESSION,
    "attic-config": (200, 400, 401, 403, 404),
    "attic-info": (200, 401, 403, 404),
    "attic-missing": (200, 400, 401, 403, 404),
    "attic-upload": (200, 400, 401, 403, 404, 413),
}
METHODS_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "put": ("PUT",),
    "put-pin": ("PUT",),
    "delete-pin": ("DELETE",),
    "delete": ("DELETE",),
    "promote": ("POST",),
    "token": ("POST",),
    "sessions": ("POST",),
    "session": ("GET", "DELETE"),
    "session-missing": ("POST",),
    "session-nar": ("PUT",),
    "session-part": ("GET", "PATCH", "POST"),
    "session-upload": ("GET", "POST"),
    "session-upload-parts": ("GET", "POST", "PUT", "DELETE"),
    "session-bases": ("POST",),
    "session-chunks": ("POST",),
    "session-recipe": ("GET", "POST"),
    "session-publish": ("POST",),
    "session-finish": ("POST",),
    "attic-config": ("GET", "POST", "PATCH", "DELETE"),
    "attic-missing": ("POST",),
    "attic-upload": ("PUT",),
}
"""The methods that change something."""
READING: Final = ("GET", "HEAD")
_OTHER_STATUSES: Final = (400, 404, 405, 408, 414, 431, 500, 505)

DOWNLOADS: Final = frozenset({"nar", "ls", "log", "serve"})
_KINDS_OF_NAR: Final = ("nar", "nar.zst", "nar.xz", "nar.other")

# Why a download was cut.
CLIENT: Final = "client"
SOURCE: Final = "source"
SHUTDOWN: Final = "shutdown"
FAULT: Final = "fault"


@cache
def requests_from_the_start() -> Mapping[str, Sequence[float]]:
    """The figures of the kinds of requests that are on `/metrics` before the first of them: six hundred zeros.

    A worker has no series of a kind that it never answered: they would take a third of its start, and 300 KB.
    """
    labels = [
        (method, path, status)
        for path, statuses in STATUSES.items()
        for method in METHODS_OF.get(path, READING)
        for status in statuses
    ]
    labels += [(method, OTHER, status) for method in (*_METHODS, OTHER) for status in _OTHER_STATUSES]
    labels += [("GET", path, status) for path in (*STATUSES, OTHER) for status in _REFUSALS]
    family = families.http.HTTP_REQUEST_DURATION
    zeros = (0.0,) * family.cells
    return {family.series(method, path, str(status)): zeros for method, path, status in labels}


class HttpMetrics:
    """The metrics of one worker's HTTP.

    Attributes:
        connections: of clients, open.
        in_flight: downloads that are being sent.
        aborted: downloads cut before their end, by the reason.
        ready_narinfos, absent_narinfos, ready_nars: answers given before the framework parses the request, and how long
            they took.
        narinfo_bytes, compressed_nar_bytes: bytes of them.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._requests: dict[tuple[str, str, int], Histogram] = {}
        self._first_bytes = {path: metrics.histogram(families.http.HTTP_FIRST_BYTE, path) for path in sorted(DOWNLOADS)}
        kinds = [*_KINDS_OF_NAR, *(path for path in STATUSES if path != "nar"), OTHER]
        self._sent = {kind: metrics.counter(families.http.HTTP_SENT_BYTES, kind) for kind in kinds}
        self.connections = metrics.gauge(families.http.HTTP_CONNECTIONS)
        self.in_flight = metrics.gauge(families.http.TRANSFERS_IN_FLIGHT)
        self.aborted = {
            reason: metrics.counter(families.http.TRANSFERS_ABORTED, reason)
            for reason in (CLIENT, SOURCE, SHUTDOWN, FAULT)
        }
        self.ready_narinfos = self._of("GET", "narinfo", 200)
        self.absent_narinfos = self._of("GET", "narinfo", 404)
        self.narinfo_bytes = self._sent["narinfo"]
        self.ready_nars = self._of("GET", "nar", 200)
        self.compressed_nar_bytes = self._sent["nar.zst"]

    def answered(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count one request to the route `path`, however it ended."""
        self._of(method if method in _METHODS else OTHER, path, status).observe(seconds)

    def began(self, path: str, seconds: float) -> None:
        """Count one download from the route `path`, whose first byte took `seconds` to be there."""
        self._first_bytes[path].observe(seconds)

    def sent(self, kind: str) -> Counter:
        """The bytes sent of one kind, as `kind_of` tells it."""
        return self._sent[kind]

    def _of(self, method: str, path: str, status: int) -> Histogram:
        key = (method, path, status)
        known = self._requests.get(key)
        if known is None:
            family = families.http.HTTP_REQUEST_DURATION
            known = self._requests[key] = self._metrics.histogram(family, method, path, str(status))
        return known


class Sending:
    """A download while it is being sent: bytes are counted as they leave, not when the last has left.

    Attributes:
        sent: bytes that have left, without headers.
        first_byte: when the first was there to be sent, by `time.perf_counter`.
    """

    __slots__ = ("_counter", "first_byte", "sent")

    def __init__(self, counter: Counter) -> None:
        self.sent = 0
        self.first_byte: float | None = None
        self._counter = counter

    def note(self, sent: int) -> None:
        """Take down how many bytes have left in all."""
        self._counter.add(sent - self.sent)
        self.sent = sent


def path_of(request: web.BaseRequest) -> str:
    """The name of the route that `request` is for, which labels it."""
    # Bytes that are no HTTP have no route. A request that the router turns down has one without a name.
    match_info = getattr(request, "_match_info", None)
    name: str | None = match_info.route.name if match_info is not None else None
    name = None if name is None else name.removeprefix(NAMED)
    return name if name is not None and name in STATUSES else OTHER


def kind_of(url: str, path: str) -> str:
    """The kind of bytes, as a label, that are sent for a URL, which is one of the route `path`."""
    if path != NAR:
        return path
    kind = "nar" + url.rpartition(".nar")[2]
    return kind if kind in _KINDS_OF_NAR else "nar.other"
