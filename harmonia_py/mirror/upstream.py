"""The port `Upstream`: another binary cache, as the mirror sees it. It hands out bytes; what they mean is decided here.

An upstream answers three things: something, `None` for "it is not here", or an `UpstreamError` when it cannot tell.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol, Self

from msgspec import Struct

from harmonia_py.errors import UpstreamProtocolError
from harmonia_py.mirror.upstream_metrics import UpstreamMetrics
from harmonia_py.nix.signing import PublicKey

Take = Callable[[memoryview], None]
"""Takes bytes, in memory that is used again when it returns."""


class Tap(Protocol):
    """The rest of a body for threads: what comes fast is not worth a way through the event loop for each portion."""

    def run(self, take: Take) -> bool:
        """Hand over what has arrived, and never wait; False when that was the end. A thread calls it.

        Raises:
            UpstreamUnreachable: the connection was cut.
        """

    async def wait(self) -> None:
        """Until there may be more.

        Raises:
            UpstreamUnreachable: nothing came for too long.
        """


def _no_tap() -> Tap | None:
    return None


class Body(Struct, frozen=True, kw_only=True):
    """The body of an upstream's answer, not yet read. A context manager: leaving it gives the connection back.

    Attributes:
        size: number of bytes of the whole file, when the upstream said it.
        start: the first byte that `read` gives; 0 also when a later one was asked for and the upstream cannot do that.
        validator: equal for equal bytes; None when the upstream gave none that is strong.
        encoding: `Content-Encoding`, when there is one.
        max_age: seconds that the upstream allows its answer to be believed, when it says so.
        read: the next bytes; none at the end. It raises `UpstreamUnreachable` when the connection is cut before.
        tap: everything that `read` has not given, for threads; None when it goes on with `read`.
        close: called once, and not while a thread is inside the tap.
    """

    size: int | None
    start: int
    validator: str | None
    encoding: str | None
    max_age: float | None
    read: Callable[[], Awaitable[bytes]]
    close: Callable[[], None]
    tap: Callable[[], Tap | None] = _no_tap

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Resume(Struct, frozen=True):
    """The place to go on with a file of which the first `start` bytes are here; `validator` is that of those bytes."""

    start: int
    validator: str | None


class Upstream(Protocol):
    """Another binary cache.

    Attributes:
        name: as it is configured.
        priority: a smaller number is asked first.
        public_keys: whose signatures are good on its narinfos.
        metrics: what it answers is counted there by itself. `Upstreams` decides whether it is asked and whether it is
            trusted, and counts that.
    """

    name: str
    priority: int
    public_keys: tuple[PublicKey, ...]
    metrics: UpstreamMetrics

    async def open(self, url: str, resume: Resume | None = None) -> Body | None:
        """The body at `url`, relative to the cache or absolute; None when there is nothing.

        Raises:
            UpstreamUnreachable: it does not answer, or not in time, or says that it cannot for now.
            UpstreamProtocolError: its answer makes no sense, or would lead where an upstream must not lead.
        """


async def read_document(body: Body, max_size: int) -> bytes:
    """All of a body that is small.

    Raises:
        UpstreamProtocolError: it is longer than `max_size`, shorter than was promised, or encoded.
        UpstreamUnreachable: the connection was cut.
    """
    if body.encoding is not None:
        raise UpstreamProtocolError("an answer has a Content-Encoding that was not asked for")
    parts, size = [], 0
    while data := await body.read():
        size += len(data)
        if size > max_size:
            raise UpstreamProtocolError("an answer is far too long")
        parts.append(data)
    return b"".join(parts)
