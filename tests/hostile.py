"""A client that means harm, as a process of its own: `python hostile.py PORT ATTACK… -- TARGET…`, until its input ends.

All its connections come from one address, 127.66.6.6. It prints a line when every attack has had its first round, and
at the end how many connections it had. It stands for another machine, so what it computes itself must not slow down the
server: it drives its sockets without a framework, and has the lowest priority.

The targets are `listing`, `page`, `incompressible`, `zeros`, `fresh` (several: NARs that are not compressed yet), each
as NAME=PATH.
"""

import os
import select
import socket
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

ADDRESS: Final = "127.66.6.6"
# For a connection, and for what it sends: the server's queue may be full.
_TIME_LIMIT: Final = 2.0
# A round begins so long after the one before it began, or when that has ended.
_ROUND_SECONDS: Final = 0.5
_HOLD_SECONDS: Final = 5.0

Targets = dict[str, list[str]]


def get(target: str, method: str = "GET", headers: str = "") -> bytes:
    """A request."""
    return f"{method} {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode()


class Hostile:
    """Its connections to the server at `port`, and what it asks for.

    Attributes:
        made: connections that the server has taken.
    """

    def __init__(self, port: int, targets: Targets) -> None:
        self.made = 0
        self._port = port
        self._targets = targets

    def _connect(self, data: bytes) -> socket.socket | None:
        """A connection on which `data` has been sent; None when the server does not take it."""
        sock = socket.socket()
        try:
            sock.settimeout(_TIME_LIMIT)
            sock.bind((ADDRESS, 0))
            sock.connect(("127.0.0.1", self._port))
            sock.sendall(data)
        except OSError:
            sock.close()
            return None
        self.made += 1
        return sock

    def _send(self, requests: Iterable[bytes]) -> None:
        """Send each request on a connection of its own, and close it at once."""
        for request in requests:
            sock = self._connect(request)
            if sock is not None:
                sock.close()

    def _hold(self, data: bytes, count: int) -> list[socket.socket]:
        """`count` connections on which `data` was sent, and which are never read from."""
        held = (self._connect(data) for _ in range(count))
        return [sock for sock in held if sock is not None]

    def _read(self, data: bytes, count: int) -> None:
        """Send `data` on `count` connections, and read all of the answers."""
        open_ = {sock.fileno(): sock for sock in self._hold(data, count)}
        buffer = bytearray(256 * 1024)
        with select.epoll() as poll:
            for descriptor in open_:
                poll.register(descriptor, select.EPOLLIN)
            while open_:
                for descriptor, _ in poll.poll():
                    count = 0
                    with suppress(OSError):
                        count = open_[descriptor].recv_into(buffer)
                    if not count:
                        open_.pop(descriptor).close()

    def listings(self) -> None:
        """300 requests for a listing of many files, whose clients are gone at once."""
        (listing,), (page,) = self._targets["listing"], self._targets["page"]
        requests = [get(listing, "HEAD"), get(listing), get(page), get(page, "HEAD")]
        self._send(requests[number % 4] for number in range(300))

    def coders(self) -> None:
        """300 downloads that are to be coded, and are not read."""
        held = self._hold(get(self._targets["incompressible"][0], headers="Accept-Encoding: zstd\r\n"), 300)
        time.sleep(_HOLD_SECONDS)
        close(held)

    def compressions(self) -> None:
        """60 HEADs of files that would have to be compressed first, and as many downloads that end at once."""
        fresh = self._targets["fresh"]
        self._send(get(fresh[number % len(fresh)], method) for number in range(60) for method in ("HEAD", "GET"))

    def turns(self) -> None:
        """64 downloads of which nothing is left when they are coded, so that no socket is ever full."""
        request = get(self._targets["zeros"][0], headers="Accept-Encoding: zstd\r\nConnection: close\r\n")
        self._read(request, 64)

    def connections(self) -> None:
        """4,096 connections that never say anything."""
        held = self._hold(b"", 4096)
        time.sleep(_HOLD_SECONDS)
        close(held)

    def headers(self) -> None:
        """Headers that never end, and searches that find much or nothing."""
        held = self._hold(b"GET / HTTP/1.1\r\nX: ", 200)
        for sock in held:
            with suppress(OSError):
                sock.sendall(b"x")
        searches = [get(f"/search?q={query}") for query in ("a", "e+o", "zzzzzz", "0")]
        self._send(searches[number % 4] for number in range(200))
        time.sleep(1)
        close(held)


ATTACKS: Final = ("listings", "coders", "compressions", "turns", "connections", "headers")


def close(sockets: Iterable[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def attack(hostile: Hostile, name: str, begun: threading.Event) -> None:
    """Attack in rounds, for ever."""
    round_ = getattr(hostile, name)
    while True:
        began = time.monotonic()
        round_()
        begun.set()
        time.sleep(max(0.0, began + _ROUND_SECONDS - time.monotonic()))


def give_way() -> None:
    """Take the processor only when nothing else wants it."""
    os.nice(19)
    # The kernel may share processors out among sessions first (sched(7), "The autogroup feature"): among those this
    # process comes last, too. It was started with a session of its own.
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text("19")


def main() -> None:
    """Attack until the end of the input."""
    port, *rest = sys.argv[1:]
    end = rest.index("--")
    targets: Targets = defaultdict(list)
    for argument in rest[end + 1 :]:
        name, _, target = argument.partition("=")
        targets[name].append(target)
    give_way()
    hostile = [Hostile(int(port), targets) for _ in rest[:end]]
    events = [threading.Event() for _ in hostile]
    for arguments in zip(hostile, rest[:end], events, strict=True):
        threading.Thread(target=attack, args=arguments, daemon=True).start()
    deadline = time.monotonic() + 1.0  # the first round of some lasts; that it has begun is enough
    for event in events:
        event.wait(max(0.0, deadline - time.monotonic()))
    print("attacking", flush=True)
    sys.stdin.buffer.read()
    print(sum(one.made for one in hostile), flush=True)


if __name__ == "__main__":
    main()
