"""Addresses as Harmonia has them, sockets as systemd passes them, and one clear line when there is no listening."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harmonia_py.errors import ConfigError
from harmonia_py.server import listen
from harmonia_py.server.listen import Listener, TcpAddress, UnixAddress, parse_address

Open = Callable[..., list[Listener]]


@pytest.fixture
def open_listeners() -> Iterator[Open]:
    """`listen.open_listeners`, with the sockets closed in the end."""
    with ExitStack() as sockets:

        def opened(*addresses: str, **environment: str) -> list[Listener]:
            listeners = listen.open_listeners(list(addresses), environment)
            for listener in listeners:
                sockets.enter_context(listener.socket)
            return listeners

        yield opened


def refused(*addresses: str, **environment: str) -> str:
    with pytest.raises(ConfigError) as caught:
        listen.open_listeners(list(addresses), environment)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("[::]:5000", TcpAddress("::", 5000)),
        ("0.0.0.0:80", TcpAddress("0.0.0.0", 80)),
        ("127.0.0.1:0", TcpAddress("127.0.0.1", 0)),
        ("localhost:8080", TcpAddress("localhost", 8080)),
        ("cache.example.org:65535", TcpAddress("cache.example.org", 65535)),
        ("[::1]:5000", TcpAddress("::1", 5000)),
        ("[fe80::1%eth0]:5000", TcpAddress("fe80::1%eth0", 5000)),
        (":5000", TcpAddress("::", 5000)),
        ("unix:/run/harmonia.sock", UnixAddress(Path("/run/harmonia.sock"))),
        ("unix:///run/harmonia.sock", UnixAddress(Path("/run/harmonia.sock"))),
    ],
)
def test_every_form_of_address_is_read(text: str, address: TcpAddress | UnixAddress) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "5000", "[::]", "::1:5000", "host:", "host:65536", "host:99999999", "host:-1", "host:٣", "a b:1"),
        *("[::1:5000", "http://host:80", "host:5000\n", "[x]:1"),
        *("unix:", "unix:relative", "unix://relative", "unix:/a\0b"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    assert refused(text).startswith(f"bind: {text!r}: ")


def test_port_zero_lets_the_kernel_choose_and_the_url_says_what(open_listeners: Open) -> None:
    (listener,) = open_listeners("127.0.0.1:0")
    port = listener.socket.getsockname()[1]
    assert port > 0
    assert listener.url == f"http://127.0.0.1:{port}"
    with socket.create_connection(("127.0.0.1", port), timeout=10):
        pass


def test_every_interface_means_ipv4_and_ipv6(open_listeners: Open) -> None:
    (listener,) = open_listeners("[::]:0")
    port = listener.socket.getsockname()[1]
    assert listener.url == f"http://localhost:{port}"
    for host in ("127.0.0.1", "::1") if socket.has_dualstack_ipv6() else ("127.0.0.1",):
        with socket.create_connection((host, port), timeout=10):
            pass


def test_on_a_machine_without_ipv6_every_interface_means_ipv4(
    open_listeners: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.socket

    def without_ipv6(family: int = -1, kind: int = -1, protocol: int = -1, fileno: int | None = None) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, kind, protocol, fileno)

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", without_ipv6)
        listeners = open_listeners("[::]:0", ":0")
        for listener in listeners:
            assert listener.socket.family == socket.AF_INET
            assert listener.socket.getsockname()[0] == "0.0.0.0"
            assert listener.url.startswith("http://localhost:")
        # What was asked for by its IPv6 name is not quietly something else.
        assert refused("[::1]:0").startswith("bind: cannot listen on [::1]:0: ")


def test_a_name_that_stands_for_several_addresses_listens_on_each(
    open_listeners: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`localhost` is ::1 and 127.0.0.1 on most machines, and clients choose either."""
    infos = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: infos)
    hosts = [listener.socket.getsockname()[0] for listener in open_listeners("name:0")]
    assert hosts == ["127.0.0.1", "127.0.0.2"]


def test_addresses_of_a_name_that_this_machine_lacks_do_not_matter_while_one_is_left(
    open_listeners: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/etc/hosts says that localhost is ::1, and IPv6 is switched off."""
    infos = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: infos)
    hosts = [listener.socket.getsockname()[0] for listener in open_listeners("name:0")]
    assert hosts == ["127.0.0.1"]


def test_several_addresses_are_several_listeners_in_their_order(open_listeners: Open, tmp_path: Path) -> None:
    path = tmp_path / "run" / "socket"
    listeners = open_listeners("127.0.0.1:0", f"unix:{path}")
    assert [listener.socket.family for listener in listeners] == [socket.AF_INET, socket.AF_UNIX]
    assert listeners[1].url == f"unix:{path}"


def test_a_port_that_is_taken_is_one_clear_line(open_listeners: Open) -> None:
    (listener,) = open_listeners("127.0.0.1:0")
    port = listener.socket.getsockname()[1]
    assert refused(f"127.0.0.1:{port}") == f"bind: cannot listen on 127.0.0.1:{port}: Address already in use"


def test_an_address_of_another_machine_or_of_nobody_is_one_clear_line() -> None:
    assert refused("192.0.2.1:5000") == "bind: cannot listen on 192.0.2.1:5000: Cannot assign requested address"
    assert refused("name.invalid:5000").startswith("bind: cannot listen on name.invalid:5000: ")


def test_no_listener_is_left_open_when_a_later_one_fails(open_listeners: Open) -> None:
    """`filterwarnings = error` turns an unclosed socket into a failure; and the port is free again."""
    (taken,) = open_listeners("127.0.0.1:0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    refused(f"127.0.0.1:{port}", f"127.0.0.1:{taken.socket.getsockname()[1]}")
    open_listeners(f"127.0.0.1:{port}")


class TestUnixSockets:
    def test_who_reaches_its_directory_may_connect(self, open_listeners: Open, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        open_listeners(f"unix:{path}")
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))

    def test_one_that_a_crash_left_behind_is_replaced(self, open_listeners: Open, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        with socket.socket(socket.AF_UNIX) as crashed:
            crashed.bind(str(path))
        open_listeners(f"unix:{path}")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))

    def test_one_that_somebody_listens_on_is_left_alone(self, open_listeners: Open, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        open_listeners(f"unix:{path}")
        assert refused(f"unix:{path}") == f"bind: cannot listen on unix:{path}: Address already in use"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))

    @pytest.mark.parametrize("kind", ["file", "directory", "link"])
    def test_what_is_no_socket_is_left_alone(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "socket"
        if kind == "file":
            path.write_text("precious")
        elif kind == "directory":
            path.mkdir()
        else:
            path.symlink_to(tmp_path)
        assert refused(f"unix:{path}").startswith(f"bind: cannot listen on unix:{path}: ")
        assert path.is_symlink() == (kind == "link")
        assert kind != "file" or path.read_text() == "precious"

    def test_a_name_that_is_too_long_is_one_clear_line(self, tmp_path: Path) -> None:
        path = tmp_path / ("x" * 200)
        assert refused(f"unix:{path}") == f"bind: cannot listen on unix:{path}: AF_UNIX path too long"


_TAKES_PASSED_SOCKETS = """
import os, sys
given = int(sys.argv[1])
if given != 3:
    os.dup2(given, 3)
    os.close(given)
from harmonia_py.server import listen
os.environ.update({name: value.replace("PID", str(os.getpid())) for name, value in os.environ.items()})
try:
    for listener in listen.open_listeners(["127.0.0.1:0"], os.environ):
        sock = listener.socket
        print(sock.getsockname()[1], sock.getblocking(), sock.get_inheritable())
except listen.ConfigError as error:
    print(error)
"""


class TestSocketsOfSystemd:
    @pytest.fixture
    def listening(self) -> Iterator[socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            yield sock

    @staticmethod
    def take(sock: socket.socket | int, **environment: str) -> list[str]:
        """What a process says that is started with `sock` as descriptor 3."""
        fd = sock if isinstance(sock, int) else sock.fileno()
        command = [sys.executable, "-c", _TAKES_PASSED_SOCKETS, str(fd)]
        done = subprocess.run(
            command, env=os.environ | environment, pass_fds=[fd], capture_output=True, text=True, check=True, timeout=30
        )
        return done.stdout.splitlines()

    @pytest.mark.parametrize("environment", [{}, {"LISTEN_PID": "PID"}])
    def test_they_take_precedence_over_bind(self, listening: socket.socket, environment: dict[str, str]) -> None:
        port = listening.getsockname()[1]
        assert self.take(listening, LISTEN_FDS="1", **environment) == [f"{port} False False"]

    @pytest.mark.parametrize(
        "environment", [{"LISTEN_FDS": "1", "LISTEN_PID": "1"}, {"LISTEN_FDS": "0"}, {"LISTEN_FDS": "x"}, {}]
    )
    def test_those_for_another_process_are_not_taken(
        self, listening: socket.socket, environment: dict[str, str]
    ) -> None:
        (line,) = self.take(listening, **environment)
        assert not line.startswith(str(listening.getsockname()[1]))

    def test_a_descriptor_that_is_missing_or_no_socket_is_one_clear_line(self, listening: socket.socket) -> None:
        assert self.take(listening, LISTEN_FDS="90") == ["LISTEN_FDS: there is no descriptor 4"]
        with Path("/dev/null").open() as null:
            assert self.take(null.fileno(), LISTEN_FDS="1") == ["LISTEN_FDS: descriptor 3 is no socket"]

    def test_a_socket_that_does_not_listen_is_one_clear_line(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
            datagram.bind(("127.0.0.1", 0))
            assert self.take(datagram, LISTEN_FDS="1") == ["LISTEN_FDS: descriptor 3 does not listen for connections"]
