import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks import BenchmarkError
from benchmarks.client import Address, Connection, drain_all, first_bytes, get_each


@contextmanager
def answering(response: bytes, piece: int) -> Iterator[Address]:
    """Answers every request on every connection with the same bytes, in pieces of a size."""

    def serve(connection: socket.socket) -> None:
        with connection:
            while connection.recv(4096):
                for start in range(0, len(response), piece):
                    connection.sendall(response[start : start + piece])

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threads.append(threading.Thread(target=serve, args=(connection,)))
            threads[-1].start()

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join(30)
    for thread in threads:
        thread.join(30)


def chunked(*chunks: bytes) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body


PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + bytes(70_000)


@pytest.mark.parametrize("piece", [7, 4096, 1 << 20])
def test_a_body_with_a_content_length_is_read_to_its_end(piece: int) -> None:
    with answering(PLAIN, piece) as address, Connection(address) as connection:
        assert len(connection.get("/a")) == 70_000
        assert connection.drain("/b") == 70_000


@pytest.mark.parametrize("piece", [1, 3, 4096, 1 << 20])
def test_a_chunked_body_is_read_to_its_end_wherever_the_pieces_are_cut(piece: int) -> None:
    with answering(chunked(b"\n" * 40, b"b", bytes(3000)), piece) as address, Connection(address) as connection:
        assert connection.drain("/a") == 3041
        assert connection.drain("/b") == 3041


def test_every_target_is_downloaded_once() -> None:
    with answering(PLAIN, 1 << 20) as address:
        seconds, size = drain_all(address, ["/a"] * 10, 4)
        assert size == 700_000
        assert seconds > 0
        assert get_each(address, ["/a", "/b"]) > 0


def test_an_answer_other_than_200_stops_the_benchmark() -> None:
    with (
        answering(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 4096) as address,
        pytest.raises(BenchmarkError, match="404"),
    ):
        drain_all(address, ["/a"] * 10, 2)


def test_the_time_to_a_first_byte_is_taken_of_each_and_the_rest_is_read() -> None:
    with answering(PLAIN, 100) as address:
        seconds = first_bytes(address, ["/a", "/b", "/c"])
    assert len(seconds) == 3
    assert all(0 < each < 10 for each in seconds)
