"""Every URL, method and header, as the contract says; what is odd goes over a raw socket."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from serving import ABSENT, DRV_OUTPUT, LOG_NAME, PATH, FakeSource, Served, read_answer
from waiting import eventually

from harmonia_py import errors
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.signing import SecretKey
from harmonia_py.web.http.errors import STATUSES, status_of

NAR = f"/nar/{Hash.of(b'n' * 100).nix32}.nar?hash={PATH.hash_part}"
TARGETS = [
    "/nix-cache-info",
    f"/{PATH.hash_part}.narinfo",
    NAR,
    f"/nar/{PATH.hash_part}-{Hash.of(b'n' * 100).nix32}.nar",
    f"/nar/{PATH.hash_part}.nar",
    f"/{PATH.hash_part}.ls",
    f"/log/{LOG_NAME}",
    f"/log/{LOG_NAME.hash_part}",
    f"/realisations/{DRV_OUTPUT}.doi",
    "/health",
    "/version",
]


@pytest.fixture
def source() -> FakeSource:
    return FakeSource()


@pytest.fixture
async def served(source: FakeSource) -> AsyncIterator[Served]:
    async with Served(source) as served:
        yield served


def comparable(headers: Any) -> dict[str, str]:
    """RFC 9110, section 9.3.2: HEAD may leave out what is known only while the content is made."""
    return {name: value for name, value in headers.items() if name not in {"Date", "Transfer-Encoding"}}


@pytest.mark.parametrize("target", TARGETS)
async def test_head_has_the_headers_of_get(served: Served, source: FakeSource, target: str) -> None:
    get = await served.get(target)
    head = await served.request("HEAD", target)
    assert (get.status, head.status, head.body) == (200, 200, b"")
    assert get.body
    assert comparable(head.headers) == comparable(get.headers)
    assert source.opened == source.closed


@pytest.mark.parametrize("target", [f"/{ABSENT}.narinfo", "/nothing", f"/nar/{ABSENT}.nar"])
async def test_head_of_what_is_absent_has_the_headers_of_get(served: Served, target: str) -> None:
    get, head = await served.get(target), await served.request("HEAD", target)
    assert (get.status, head.status) == (404, 404)
    assert comparable(head.headers) == comparable(get.headers)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_other_methods_are_not_allowed_and_the_answer_says_which_are(
    served: Served, source: FakeSource, method: str, target: str
) -> None:
    answer = await served.request(method, target, {"Content-Length": "0"})
    assert answer.status == 405
    assert {word.strip() for word in answer.headers["Allow"].split(",")} == {"GET", "HEAD"}
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.body == b"Method Not Allowed\n"
    assert source.asked == []


@pytest.mark.parametrize(
    "target",
    [
        "/unknown",
        "/nar/",
        "/nar",
        "/log/",
        f"/{PATH.hash_part}",
        f"/{PATH.hash_part}.narinfo/",
        f"/{PATH.hash_part.upper()}.narinfo",
        f"/{PATH.hash_part}x.narinfo",
        f"/{PATH.hash_part[:-1]}.narinfo",
        f"/{PATH.hash_part[:-1]}e.narinfo",
        f"/{PATH.hash_part[:-1]}%2f.narinfo",
        f"/{PATH}.narinfo",
        "/%00.narinfo",
        "/%ff.narinfo",
        "/..%2f..%2fetc%2fpasswd.narinfo",
        "/nar/..%2f..%2fetc%2fpasswd",
        "/nar/../../etc/passwd",
        "/nar/%2e%2e/%2e%2e/etc/passwd",
        "/nar/..%5c..%5cetc",
        f"/nar/{PATH.hash_part}.nar.unknown",
        f"/nar/{PATH.hash_part}.nar%00",
        "/nar/x.nar?hash=../../etc/passwd",
        "/log/..%2f..%2fetc%2fpasswd",
        "/log/%2e%2e",
        f"/log/{LOG_NAME}%0a",
        "/realisations/x.doi",
        "/realisations/sha256:..!out.doi",
        f"/realisations/{DRV_OUTPUT}%2fx.doi",
        "/realisations/..%2fx.doi",
    ],
)
async def test_what_is_malformed_is_absent_and_nobody_is_asked(served: Served, source: FakeSource, target: str) -> None:
    answer = await served.get(target)
    assert (answer.status, answer.body) == (404, b"Not Found\n")
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert source.asked == []


@pytest.mark.parametrize(
    "target",
    [
        f"/{ABSENT}.narinfo",
        f"/{ABSENT}.ls",
        f"/nar/{ABSENT}.nar",
        f"/nar/{PATH.hash_part}-{Hash.of(b'other').nix32}.nar",
        f"/nar/{Hash.of(b'other').nix32}.nar?hash={PATH.hash_part}",
        f"/log/{ABSENT}",
        f"/log/{PATH}",
        f"/realisations/sha256:{'00' * 32}!out.doi",
    ],
)
async def test_what_is_absent_is_404(served: Served, source: FakeSource, target: str) -> None:
    answer = await served.get(target)
    assert (answer.status, answer.body) == (404, b"Not Found\n")
    assert answer.headers["Cache-Control"] == "no-store"
    assert len(source.asked) >= 1


async def test_what_each_answer_says_of_itself(served: Served) -> None:
    expected = {
        "/nix-cache-info": ("text/x-nix-cache-info", None),
        f"/{PATH.hash_part}.narinfo": ("text/x-nix-narinfo", "max-age=86400"),
        NAR: ("application/x-nix-archive", "public, max-age=31536000, immutable"),
        f"/{PATH.hash_part}.ls": ("application/json", None),
        f"/realisations/{DRV_OUTPUT}.doi": ("application/json", None),
        f"/log/{LOG_NAME}": ("text/plain; charset=utf-8", None),
        "/health": ("text/plain; charset=utf-8", None),
    }
    for target, (content_type, cache_control) in expected.items():
        headers = (await served.get(target)).headers
        assert headers["Content-Type"] == content_type
        assert cache_control is None or headers["Cache-Control"] == cache_control
        assert headers["Server"] == "harmonia-py"
        assert headers["Date"]
        assert "immutable" not in headers["Cache-Control"] or target == NAR


async def test_cache_info_is_the_configuration_and_asks_nobody(served: Served, source: FakeSource) -> None:
    source.error = errors.DaemonUnreachable("down")
    answer = await served.get("/nix-cache-info")
    assert answer.body == b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n"


async def test_a_narinfo_has_the_link_to_its_nar_and_a_signature_of_each_key(source: FakeSource) -> None:
    keys = [SecretKey.generate("b-1"), SecretKey.generate("a-1")]
    async with Served(source, secret_keys=keys) as served:
        answer = await served.get(f"/{PATH.hash_part}.narinfo")
    assert f"/{answer.headers['Nix-Link']}" == NAR
    lines = answer.body.decode().splitlines()
    assert [line.split(":")[1] for line in lines if line.startswith("Sig: ")] == [" a-1", " b-1"]
    assert "References: " in lines


async def test_no_answer_says_what_it_is_made_with(served: Served) -> None:
    raw = [
        await served.send(request)
        for request in (
            b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            b"GET /nothing HTTP/1.0\r\n\r\n",
            b"nonsense\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        )
    ]
    for answer in raw:
        assert answer.startswith((b"HTTP/1.1 ", b"HTTP/1.0 "))
        lower = answer.lower()
        assert b"python/" not in lower
        assert b"aiohttp" not in lower
        assert b"traceback" not in lower
        assert b"message:" not in lower


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x\r\nContent-Length: 3\r\n\r\nabc",
        b"GET /\x1b[31m HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_answered_with_the_status_alone(served: Served, request_: bytes) -> None:
    answer = await served.send(request_)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400 Bad Request", b"HTTP/1.0 400 Bad Request"))
    assert body == b"Bad Request\n"
    assert b"cache-control: no-store" in head.lower()
    assert b"server: harmonia-py\r\n" in head.lower() + b"\r\n"


LEAVES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.HarmoniaError) and not kind.__subclasses__()
]


@pytest.mark.parametrize("kind", [*LEAVES, ValueError, OSError, TimeoutError])
async def test_every_error_has_its_status_and_tells_the_client_nothing(
    served: Served, source: FakeSource, kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    source.error = kind("/secret/path of the machine")
    for target in (f"/{PATH.hash_part}.narinfo", NAR, f"/{PATH.hash_part}.ls", f"/log/{LOG_NAME}"):
        answer = await served.get(target)
        assert answer.status == status_of(source.error)
        assert answer.headers["Cache-Control"] == "no-store"
        assert b"secret" not in answer.body
        assert "secret" not in str(answer.headers)
        assert (answer.headers["Retry-After"] is not None) == (answer.status == 503)
    # The log gets what the client does not.
    assert ("/secret/path" in caplog.text) == (status_of(source.error) >= 500)


def test_the_table_names_every_leaf_of_the_tree_or_what_it_is_derived_from() -> None:
    assert LEAVES
    for leaf in LEAVES:
        assert any(kind in STATUSES for kind in leaf.__mro__), leaf
    assert status_of(errors.DaemonUnreachable("")) == 503
    assert status_of(errors.DaemonProtocolError("")) == 502
    assert status_of(errors.DaemonRefused("")) == 500
    assert status_of(errors.FormatError("")) == 404
    assert status_of(KeyError("")) == 500


def test_every_error_outside_the_tree_refines_one_that_has_a_status_or_is_caught_before_there_is_an_answer() -> None:
    package = Path(errors.__file__).parent
    tree = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.HarmoniaError)]
    without_status = {kind.__name__ for kind in tree if not any(base in STATUSES for base in kind.__mro__)}
    outside = set()
    for file in package.rglob("*.py"):
        # What ends the program meets no client.
        if file.relative_to(package).parts[0] not in {"commands", "server", "errors.py"}:
            classes = re.findall(r"^class (\w+)\((\w+)\):", file.read_text(), re.MULTILINE)
            outside |= {name for name, base in classes if base in without_status}
    caught = {"BeingDeleted", "CacheExists", "KeyExists", "TokenExists", "TooManyTokens"}
    # Those with a private name are caught in the module that raises them.
    assert {name for name in outside if not name.startswith("_")} == caught


class TestConditionals:
    @pytest.mark.parametrize("target", [t for t in TARGETS if t not in ("/health", "/version")])
    async def test_who_has_it_already_gets_304_and_nothing_is_read(
        self, served: Served, source: FakeSource, target: str
    ) -> None:
        first = await served.get(target)
        etag = first.headers["ETag"]
        assert re.fullmatch(r'"[^"]+"', etag)
        opened = source.opened
        for value in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            for method in ("GET", "HEAD"):
                answer = await served.request(method, target, {"If-None-Match": value})
                assert (answer.status, answer.body) == (304, b"")
                assert answer.headers["ETag"] == etag
                assert answer.headers["Cache-Control"] == first.headers["Cache-Control"]
        assert source.opened == opened
        for value in ('"other"', etag.strip('"'), '""', ""):
            assert (await served.get(target, {"If-None-Match": value})).status == 200

    async def test_the_header_may_stand_twice(self, served: Served) -> None:
        etag = (await served.get(NAR)).headers["ETag"]
        headers = f'If-None-Match: "a"\r\nIf-None-Match: {etag}\r\nConnection: close'
        answer = await served.send(f"GET {NAR} HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 304 ")

    async def test_not_modified_wins_over_a_range(self, served: Served) -> None:
        etag = (await served.get(NAR)).headers["ETag"]
        assert (await served.get(NAR, {"If-None-Match": etag, "Range": "bytes=0-1"})).status == 304


BODY = bytes(range(100))
RANGES = [
    ("bytes=0-", 0, 100),
    ("bytes=0-0", 0, 1),
    ("bytes=10-19", 10, 20),
    ("bytes=99-", 99, 100),
    ("bytes=99-99", 99, 100),
    ("bytes=50-100", 50, 100),
    ("bytes=50-99999999999999999999999999", 50, 100),
    ("bytes=-1", 99, 100),
    ("bytes=-100", 0, 100),
    ("bytes=-101", 0, 100),
    ("bytes=-99999999999999999999999999", 0, 100),
    ("bytes=" + "0" * 5000 + "1-2", 1, 3),
    ("Bytes=3-4", 3, 5),
]
IGNORED = ["bytes=0-1,3-4", "bytes=0-1, -1", "lines=0-1", "bytes", "bytes=", "bytes=-", "bytes=2-1", "bytes=a-b", "0-1"]
UNSATISFIABLE = [
    "bytes=100-",
    "bytes=100-200",
    "bytes=-0",
    "bytes=99999999999999999999999999-",
    "bytes=" + "9" * 5000 + "-",
]


class TestRanges:
    @pytest.fixture
    def source(self) -> FakeSource:
        return FakeSource(nar_bytes=BODY)

    @pytest.fixture
    def target(self) -> str:
        return f"/nar/{PATH.hash_part}.nar"

    @pytest.mark.parametrize(("header", "start", "stop"), RANGES)
    async def test_one_range_is_answered_with_its_bytes(
        self, served: Served, target: str, header: str, start: int, stop: int
    ) -> None:
        answer = await served.get(target, {"Range": header})
        assert (answer.status, answer.body) == (206, BODY[start:stop])
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/100"
        assert answer.headers["Content-Length"] == str(stop - start)
        assert answer.headers["ETag"]

    @pytest.mark.parametrize("header", IGNORED)
    async def test_what_is_not_one_range_of_bytes_is_ignored(self, served: Served, target: str, header: str) -> None:
        answer = await served.get(target, {"Range": header})
        assert (answer.status, answer.body) == (200, BODY)
        assert "Content-Range" not in answer.headers

    @pytest.mark.parametrize("header", UNSATISFIABLE)
    async def test_what_lies_beyond_the_end_cannot_be_had(self, served: Served, target: str, header: str) -> None:
        answer = await served.get(target, {"Range": header})
        assert answer.status == 416
        assert answer.headers["Content-Range"] == "bytes */100"
        assert answer.headers["Cache-Control"] == "no-store"

    @pytest.mark.parametrize("header", ["bytes=0-9", "bytes=500-"])
    async def test_head_knows_no_ranges(self, served: Served, target: str, header: str) -> None:
        """RFC 9110, section 14.2: a server must ignore Range in anything but a GET."""
        answer = await served.request("HEAD", target, {"Range": header})
        assert answer.status == 200
        assert answer.headers["Content-Length"] == "100"

    async def test_if_range_sends_all_when_the_bytes_are_others_now(self, served: Served, target: str) -> None:
        etag = (await served.get(target)).headers["ETag"]
        for value, status in (
            (etag, 206),
            ('"other"', 200),
            (f"W/{etag}", 200),
            ("Wed, 21 Oct 2015 07:28:00 GMT", 200),
            ("", 200),
        ):
            answer = await served.get(target, {"Range": "bytes=0-9", "If-Range": value})
            assert answer.status == status, value

    async def test_an_empty_file_has_no_range(self, served: Served, source: FakeSource, target: str) -> None:
        source.nar_bytes = b""
        assert (await served.get(target)).body == b""
        for header in ("bytes=0-", "bytes=-1"):
            answer = await served.get(target, {"Range": header})
            assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */0")

    async def test_what_has_no_size_yet_has_no_ranges(self, served: Served, source: FakeSource, target: str) -> None:
        source.unknown_size = True
        answer = await served.get(target, {"Range": "bytes=0-9"})
        assert (answer.status, answer.body) == (200, BODY)
        assert "Accept-Ranges" not in answer.headers

    async def test_every_download_is_released_once(self, served: Served, source: FakeSource, target: str) -> None:
        headers = [{}, {"Range": "bytes=1-2"}, {"Range": "bytes=100-"}, {"If-None-Match": "*"}]
        for one in headers:
            await served.get(target, one)
            await served.request("HEAD", target, one)
        await eventually(lambda: source.closed == source.opened)
        assert source.released == 2 * len(headers)


class TestHttp10:
    async def test_a_known_size_is_said_and_the_connection_closes(self, served: Served) -> None:
        answer = await served.send(f"GET {NAR} HTTP/1.0\r\n\r\n".encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"Content-Length: 100" in head
        assert body == b"n" * 100

    async def test_an_unknown_size_ends_with_the_connection_and_without_chunks(
        self, served: Served, source: FakeSource
    ) -> None:
        source.unknown_size = True
        for extra in ("", "Connection: keep-alive\r\n"):
            answer = await served.send(f"GET {NAR} HTTP/1.0\r\n{extra}\r\n".encode())
            head, _, body = answer.partition(b"\r\n\r\n")
            assert b"Transfer-Encoding" not in head
            assert b"keep-alive" not in head
            assert body == b"n" * 100


class TestAccessLog:
    async def test_a_plain_line_says_who_what_status_and_how_many_bytes(self, served: Served) -> None:
        raw = await served.send(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        (line,) = served.access_lines()
        assert re.fullmatch(rf'info: 127\.0\.0\.1 "GET /health" 200 {len(raw)} \d+\.\dms', line)

    @pytest.mark.parametrize("size", [100, 64 * 1024 + 1, 5_000_000])
    @pytest.mark.parametrize("unknown_size", [False, True])
    async def test_the_bytes_of_a_download_are_counted_however_they_were_sent(
        self, size: int, *, unknown_size: bool
    ) -> None:
        source = FakeSource(nar_bytes=b"n" * size, unknown_size=unknown_size)
        async with Served(source, json_lines=True) as served:
            raw = await served.send(
                f"GET /nar/{PATH.hash_part}.nar HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
            )
            (line,) = served.access_lines()
        entry = json.loads(line)
        assert entry["bytes"] == len(raw) > size
        assert (entry["client"], entry["method"], entry["status"]) == ("127.0.0.1", "GET", 200)
        assert entry["path"] == f"/nar/{PATH.hash_part}.nar"

    async def test_a_download_that_is_cut_is_logged_with_what_was_sent(self) -> None:
        def pieces(_start: int, _stop: int | None) -> Any:
            yield b"n" * 100_000
            raise errors.StorePathChanged("shorter")

        source = FakeSource(nar_bytes=b"n" * 1_000_000, pieces=pieces)
        async with Served(source, json_lines=True) as served:
            reader, writer = await served.connect()
            writer.write(f"GET /nar/{PATH.hash_part}.nar HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            with pytest.raises((EOFError, ConnectionError)):
                await read_answer(reader)
            writer.close()
            await eventually(served.access_lines)
            entry = json.loads(served.access_lines()[0])
        assert 100_000 < entry["bytes"] < 101_000
        assert entry["status"] == 200

    async def test_what_a_client_sends_stays_on_one_line(self, served: Served) -> None:
        await served.get('/%0a%1b%22"é')
        await served.send(b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        lines = served.access_lines()
        assert len(lines) == 2
        for line in lines:
            assert line.isascii()
            assert line.isprintable()
