"""The body of an answer of an upstream, read by the event loop or by a thread, and counted."""

import aiohttp

from harmonia_py.errors import UpstreamError, UpstreamProtocolError, UpstreamUnreachable
from harmonia_py.mirror.upstream import Take
from harmonia_py.mirror.upstream_metrics import UpstreamMetrics
from harmonia_py.runtime.socket_tap import ReceiveError, SocketTap, tap


class BodyReader:
    """Reads a response, counts what comes, and gives its connection back at the end."""

    def __init__(self, response: aiohttp.ClientResponse, stall_timeout: float, metrics: UpstreamMetrics) -> None:
        self._response = response
        self._stall_timeout = stall_timeout
        self._metrics = metrics
        self._read = 0
        self._tap: UpstreamTap | None = None

    async def read(self) -> bytes:
        """The next bytes; none at the end. Raises UpstreamError."""
        try:
            data = await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            failure = translated(error)
            self._metrics.failed(failure)
            raise failure from error
        self._read += len(data)
        self._metrics.received_bytes.add(len(data))
        return data

    def tap(self) -> "UpstreamTap | None":
        """A way for a thread to take the rest; None where the framework has to read it."""
        left = (self._response.content_length or 0) - self._read
        found = tap(self._response, left, self._stall_timeout)
        self._tap = None if found is None else UpstreamTap(found, self._metrics)
        return self._tap

    def close(self) -> None:
        """Give the connection back, or cut it where there is more to come."""
        if self._tap is not None:
            self._tap.close()
        self._response.close()


class UpstreamTap:
    """A `Tap`. What threads have taken is counted by the event loop, which alone changes figures."""

    def __init__(self, tap: SocketTap, metrics: UpstreamMetrics) -> None:
        self._tap = tap
        self._metrics = metrics
        self._counted = 0
        self._error: UpstreamError | None = None

    def run(self, take: Take) -> bool:
        """As in `Tap`."""
        try:
            return self._tap.run(take)
        except ReceiveError as error:
            self._error = UpstreamUnreachable(str(error))
            raise self._error from error
        except UpstreamError as error:  # what `take` says of the bytes
            self._error = error
            raise

    async def wait(self) -> None:
        """As in `Tap`."""
        self._count()
        try:
            await self._tap.wait()
        except ReceiveError as error:
            failure = UpstreamUnreachable(str(error))
            self._metrics.failed(failure)
            raise failure from error

    def close(self) -> None:
        """As in `Tap`."""
        self._count()
        self._tap.close()

    def _count(self) -> None:
        taken = self._tap.taken
        self._metrics.received_bytes.add(taken - self._counted)
        self._counted = taken
        if self._error is not None:
            self._metrics.failed(self._error)
            self._error = None


def translated(error: Exception) -> UpstreamUnreachable | UpstreamProtocolError:
    """What an error of the framework says of the upstream."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return UpstreamUnreachable(f"its certificate is not trusted: {error}")
    if isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError, OSError)):
        return UpstreamUnreachable(f"no connection: {error or type(error).__name__}")
    return UpstreamProtocolError(f"no HTTP: {error}")
