"""A proxy between a client that pushes and the server: it counts what is sent, and cuts connections when it is told to.

with PushingProxy(server.port) as proxy:
    proxy.url
    proxy.sent                          # bytes of bodies and headers that clients have sent so far
    proxy.cut_after = 1_000_000         # cut the connection over which the byte after so many comes; None for never
    proxy.wait_for(bytes)               # return when so many have been sent
    proxy.hold_after = 1_000_000        # send nothing on after so many
    proxy.go_on()                       # until this is called
"""

import contextlib
import select
import socket
import threading
import time
from typing import Final, Self

_BLOCK: Final = 1 << 16
_TIME_LIMIT: Final = 60.0


class PushingProxy:
    def __init__(self, port: int, *, bytes_per_second: int | None = None) -> None:
        self.sent = 0
        self.cuts = 0
        self.cut_after: int | None = None
        self.hold_after: int | None = None
        self._rate = bytes_per_second
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        # As much as a network holds: what is in here when a connection is cut is lost.
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BLOCK)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._lock = threading.Condition()
        self._ended = False

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self.go_on()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(_TIME_LIMIT)

    def lead_to(self, port: int) -> None:
        """Where new connections lead."""
        self._port = port

    def wait_for(self, sent: int) -> None:
        with self._lock:
            assert self._lock.wait_for(lambda: self.sent >= sent, _TIME_LIMIT), self.sent

    def go_on(self) -> None:
        with self._lock:
            self.hold_after = None
            self._lock.notify_all()

    def _accept(self) -> None:
        while not self._ended:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(("127.0.0.1", self._port)) as server:
            while not self._ended:
                readable, _, _ = select.select([client, server], [], [], 0.1)
                for one in readable:
                    data = one.recv(_BLOCK)
                    if not data or (one is client and self._count(len(data))):
                        return
                    (server if one is client else client).sendall(data)

    def _count(self, size: int) -> bool:
        """Whether this is where to cut."""
        with self._lock:
            self.sent += size
            self._lock.notify_all()
            self._lock.wait_for(lambda: self.hold_after is None or self.sent < self.hold_after, _TIME_LIMIT)
            cut = self.cut_after is not None and self.sent >= self.cut_after
            if cut:
                self.cut_after = None
                self.cuts += 1
        if self._rate is not None:
            time.sleep(size / self._rate)
        return cut
