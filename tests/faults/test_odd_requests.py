"""Every URL, every method and many a header, while the daemon works, is dead, and has come back."""

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from lab import Lab
from server import Server, settings_of
from watched import Held, Raw, ResponseAborted, await_return, random_file

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "BREW")
HEADERS: Final = (
    "Range: bytes=0-0",
    "Range: bytes=-1",
    "Range: bytes=0-",
    "Range: bytes=5-1",
    "Range: bytes=99999999999999999999-",
    "Range: bytes=-99999999999999999999",
    "Range: bytes=0-0,2-3",
    "Range: bytes=-0",
    "Range: bytes=\xff",
    "Range: lines=1-2",
    "Range: bytes=" + "0-0," * 500,
    'If-Range: "x"\r\nRange: bytes=1-2',
    "If-Range: Wed, 21 Oct 2015 07:28:00 GMT\r\nRange: bytes=1-2",
    "If-None-Match: *",
    'If-None-Match: "',
    "If-None-Match: " + '"a", ' * 500,
    "If-Modified-Since: yesterday",
    "Accept-Encoding: gzip;q=nan, zstd;q=-1, *;q=1e999",
    "Accept-Encoding: identity;q=0, *;q=0",
    "Accept-Encoding: zstd",
    "Accept-Encoding: gzip",
    "Accept: text/html;q=x",
    "Content-Length: 0",
    "Content-Length: 5",
    "Content-Length: -1",
    "Content-Length: 99999999999999999999",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Expect: 100-continue",
    "Expect: 200-ok",
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    "Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13",
    "Host: other",
    "Host: <script>",
    "Host: ",
    "X-Forwarded-Host: \xe9",
    "Cookie: " + "x" * 5000,
    "Authorization: Basic \xff",
    "Authorization: Bearer x",
    "Connection: close",
    "X: " + "y" * 20_000,
    " folded: x",
    "name : x",
    "\x00: x",
)
# What a client's request may be told. Of the server's own faults only those that it has.
FINE: Final = frozenset({200, 206, 302, 304, 400, 401, 404, 405, 411, 413, 414, 416, 417, 431})


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        lab.closure = lab.build()
        lab.start_daemon()
        yield lab


@pytest.fixture
def server(daemon: Lab, tmp_path: Path) -> Iterator[Server]:
    settings: dict[str, Any] = settings_of(daemon, daemon.secret_key("key-1")) | {"workers": 1}
    with Server(tmp_path, daemon.env, settings) as server:
        yield server


def targets_of(server: Server, daemon: Lab) -> list[str]:
    top = daemon.closure.top
    narinfo = server.get(f"/{top.hash_part}.narinfo").body.decode()
    fields = dict(line.split(": ", 1) for line in narinfo.splitlines())
    assert server.get(f"/{fields['URL']}").status == 200
    absent = "0" * 32
    return [
        *("/", "/search?q=top", f"/path/{top.hash_part}", "/nix-cache-info", "/metrics", "/ready", "/health"),
        *(f"/{top.hash_part}.narinfo", f"/{top.hash_part}.narinfo?json", f"/{absent}.narinfo", "/x.narinfo"),
        *(f"/{top.hash_part}.ls", f"/{absent}.ls", f"/{fields['URL']}", f"/nar/{top.hash_part}.nar"),
        *(f"/nar/{absent}.nar", f"/nar/{absent}.nar.zst", "/nar/x", "/nar/.nar", f"/nar/{absent}.nar?hash={absent}"),
        *(f"/nar/{top.hash_part}.nar?hash=x&hash=y", f"/log/{daemon.closure.derivation}", f"/log/{absent}", "/log/x"),
        *(f"/realisations/sha256:{'0' * 64}!out.doi", "/realisations/x.doi", "/build-trace-v2/x/out.doi"),
        *(f"/build-trace-v2/{daemon.closure.derivation}/out.doi", f"/debuginfo/{'0' * 40}", "/debuginfo/x"),
        *(f"/serve/{top.hash_part}/foobar", f"/serve/{top.hash_part}/", f"/serve/{top.hash_part}", "/serve/x"),
        *("/%00", "/%ff.narinfo", "/..", "//", "/nar/..%2f..%2fetc%2fpasswd", "/" + "a" * 7000, "*", "http://x/health"),
        *("/?" + "&" * 1000, "/nar/%", "/\u00e9", "/health#fragment", "/version", "/search?q=%ff%00"),
        "/search?q=" + "a" * 3000,
    ]  # fmt: skip


def ask(server: Server, method: str, target: str, header: str, version: str = "1.1") -> int | None:
    """The status; None when the connection is closed without one."""
    lines = [f"{method} {target} HTTP/{version}", "Host: x", "Connection: close", *([header] if header else [])]
    with Raw(server.port) as client, contextlib.suppress(ResponseAborted):
        client.send("\r\n".join([*lines, "", ""]).encode("latin-1"))
        while (status := client.head()[0]) == 100:
            continue
        return status
    return None


def attack(server: Server, targets: list[str], fine: frozenset[int], headers: Sequence[str] = HEADERS) -> None:
    wrong = []
    requests = [
        *itertools.product(["GET"], targets, ["", *headers]),
        *itertools.product(METHODS[1:], targets, [""]),
        *itertools.product(["HEAD", "POST"], targets[:16], headers[::3]),
    ]
    for method, target, header in requests:
        status = ask(server, method, target, header)
        if status is not None and status not in fine:
            wrong.append((method, target[:60], header[:60], status))
    for version in ("1.0", "0.9", "2.0", "1.2", "x"):
        status = ask(server, "GET", "/health", "", version)
        if status is not None and status not in fine | {505}:
            wrong.append(("GET", version, "", status))
    assert not wrong
    assert "Traceback" not in server.output()
    assert "unforeseen" not in server.output()


def test_no_request_is_answered_with_a_fault_that_is_not_there(server: Server, daemon: Lab) -> None:
    targets = targets_of(server, daemon)
    worker = server.processes()[1]
    for target in targets[:20]:
        ask(server, "GET", target, "")
    before = Held.by(worker)
    attack(server, targets, FINE)
    assert "error:" not in server.output()
    await_return(worker, before, descriptors=4, threads=40)
    assert server.processes()[1] == worker


def test_while_the_daemon_is_dead_only_that_is_said(server: Server, daemon: Lab) -> None:
    targets = targets_of(server, daemon)
    daemon.stop_daemon()
    os.utime(daemon.real_store)
    try:
        attack(server, targets, FINE | {503}, HEADERS[::5])
        for target in ("/health", "/version", "/nix-cache-info", "/metrics"):
            assert server.get(target).status == 200
        assert server.get("/ready").status == 503
    finally:
        daemon.start_daemon()
    assert server.get(f"/nar/{daemon.closure.top.hash_part}.nar").status == 200
    assert server.get("/ready").status == 200


def test_while_files_are_missing_only_that_is_said(server: Server, daemon: Lab, tmp_path: Path) -> None:
    """The database says that a path is valid whose files are gone: that one alone is not here, and the log says why."""
    path = daemon.add(random_file(tmp_path / "vanishes", 1000))
    daemon.real(path).unlink()
    targets = (f"/nar/{path.hash_part}.nar", f"/{path.hash_part}.ls", f"/{path.hash_part}.narinfo")
    for target in (*targets, f"/serve/{path.hash_part}"):
        assert server.get(target).status == 404
    assert f"{path} is damaged: nothing of it" in server.output()
    assert "Traceback" not in server.output()
    attack(server, [f"/{daemon.closure.top.hash_part}.narinfo"], FINE)
