"""The HTTP client: what an upstream may say, and where it may not lead."""

import asyncio
import base64
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fault_upstream import FaultUpstream, body, hang, status

from harmonia_py.errors import ConfigError, UpstreamError, UpstreamProtocolError, UpstreamUnreachable
from harmonia_py.mirror.upstream import Resume, read_document
from harmonia_py.upstream.addresses import is_public, parse_address
from harmonia_py.upstream.client import HttpUpstream, Place
from harmonia_py.upstream.credentials import read_authorization


@pytest.fixture
async def server() -> AsyncIterator[FaultUpstream]:
    async with FaultUpstream() as server:
        yield server


@asynccontextmanager
async def client_of(place: Place) -> AsyncIterator[HttpUpstream]:
    async with HttpUpstream(place, name="up", priority=1, public_keys=()) as client:
        yield client


async def get(client: HttpUpstream, url: str) -> bytes | None:
    found = await client.open(url)
    if found is None:
        return None
    with found:
        return await read_document(found, 1000)


class TestRedirects:
    async def test_they_are_followed_also_to_another_host_and_relative_ones(self, server: FaultUpstream) -> None:
        server.answers["/a/x"] = status(302, Location="y?q=%2F")
        server.answers["/a/y?q=%2F"] = status(307, Location=f"http://localhost:{server.port}/z")
        server.answers["/z"] = body(b"here")
        async with client_of(Place(url=f"{server.url}/a")) as client:
            assert await get(client, "x") == b"here"

    @pytest.mark.parametrize(
        "location",
        ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x/", "http://", "//", "http://[::1", "javascript:1", ""],
    )
    async def test_they_stay_on_http(self, server: FaultUpstream, location: str) -> None:
        server.answers["/x"] = status(302, Location=location)
        async with client_of(Place(url=server.url)) as client:
            with pytest.raises(UpstreamError):
                await client.open("x")

    async def test_a_loop_ends(self, server: FaultUpstream) -> None:
        server.answers["/x"] = status(302, Location="/x")
        async with client_of(Place(url=server.url)) as client:
            with pytest.raises(UpstreamProtocolError, match="too many redirects"):
                await client.open("x")
        assert len(server.requests) == 11

    @pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y"])
    async def test_the_url_of_a_nar_stays_on_http_as_well(self, server: FaultUpstream, url: str) -> None:
        async with client_of(Place(url=server.url)) as client:
            with pytest.raises(UpstreamProtocolError):
                await client.open(url)


class TestServerSideRequestForgery:
    @pytest.mark.parametrize(
        "text",
        [
            "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
            "224.0.0.1", "::1", "::", "fe80::1", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::",
            "2001:0:4136:e378:8000:63bf:f5ff:fffe", "ff02::1",
        ],
    )  # fmt: skip
    def test_addresses_inside_are_known_in_every_disguise(self, text: str) -> None:
        address = parse_address(text)
        assert address is not None
        assert not is_public(address)

    @pytest.mark.parametrize("text", ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101"])
    def test_addresses_outside_are_free(self, text: str) -> None:
        address = parse_address(text)
        assert address is not None
        assert is_public(address)

    @pytest.mark.parametrize(
        "host", ["localhost", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]"]
    )
    async def test_an_upstream_outside_cannot_lead_inside(self, server: FaultUpstream, host: str) -> None:
        """The upstream's own host is taken for a public one; it leads to a server of this machine."""
        async with client_of(Place(url="http://cache.example.org")) as client:
            with pytest.raises(UpstreamError):
                await client.open(f"http://{host}:{server.port}/secret")
        assert server.requests == []

    @pytest.fixture
    def resolver(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A name server for which every name is this machine."""
        inner = socket.getaddrinfo

        def getaddrinfo(host: str | None, *args: Any, **kwargs: Any) -> Any:
            return inner("127.0.0.1", *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    @pytest.mark.usefixtures("resolver")
    async def test_its_own_name_opens_nothing_when_its_record_becomes_a_private_one(
        self, server: FaultUpstream
    ) -> None:
        """One private record of the upstream's own name and it counted as inside, for good: its logs and listings were
        whatever a server of this network had at such a URL, and its redirects led anywhere."""
        async with client_of(Place(url=f"http://cache.example.org:{server.port}")) as client:
            with pytest.raises(UpstreamUnreachable, match="local_network"):
                await client.open("log/x")
            with pytest.raises(UpstreamError):
                await client.open(f"http://127.0.0.1:{server.port}/secret")
        assert server.requests == []

    @pytest.mark.usefixtures("resolver")
    @pytest.mark.parametrize("host", ["cache", "cache.internal", "CACHE.Lan.", "a.b.home.arpa", "localhost"])
    async def test_a_name_that_no_public_server_can_have_is_inside(self, server: FaultUpstream, host: str) -> None:
        server.default = body(b"here")
        async with client_of(Place(url=f"http://{host}:{server.port}")) as client:
            assert await get(client, "x") == b"here"
            assert await get(client, f"http://127.0.0.1:{server.port}/y") == b"here"

    @pytest.mark.usefixtures("resolver")
    async def test_a_setting_says_that_a_public_name_is_inside_and_that_a_private_one_is_not(
        self, server: FaultUpstream
    ) -> None:
        server.default = body(b"here")
        async with client_of(Place(url=f"http://cache.example.org:{server.port}", local_network=True)) as client:
            assert await get(client, "x") == b"here"
        async with client_of(Place(url=f"http://cache.internal:{server.port}", local_network=False)) as client:
            with pytest.raises(UpstreamUnreachable):
                await client.open("x")

    @pytest.mark.usefixtures("resolver")
    async def test_a_proxy_inside_is_used_and_lets_nothing_else_in(
        self, server: FaultUpstream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", f"http://proxy.example.org:{server.port}")
        monkeypatch.setenv("no_proxy", "other.example.org")
        server.default = body(b"here")
        async with client_of(Place(url="http://cache.example.org")) as client:
            assert await get(client, "x") == b"here"
            with pytest.raises(UpstreamError):
                await client.open(f"http://other.example.org:{server.port}/secret")
        assert [request.path for request in server.requests] == ["http://cache.example.org/x"]

    async def test_an_upstream_inside_may_lead_inside(self, server: FaultUpstream) -> None:
        server.answers["/x"] = status(302, Location=f"http://127.0.0.1:{server.port}/y")
        server.answers["/y"] = body(b"here")
        async with client_of(Place(url=f"http://localhost:{server.port}")) as client:
            assert await get(client, "x") == b"here"


class TestAnswers:
    @pytest.mark.parametrize("code", [404, 403, 410])
    async def test_what_says_not_here(self, server: FaultUpstream, code: int) -> None:
        server.answers["/x"] = status(code, b"body")
        async with client_of(Place(url=server.url)) as client:
            assert await client.open("x") is None

    @pytest.mark.parametrize("code", [500, 502, 503, 504, 429, 408, 599])
    async def test_what_says_not_now(self, server: FaultUpstream, code: int) -> None:
        server.answers["/x"] = status(code, Retry_After="7")
        async with client_of(Place(url=server.url)) as client:
            with pytest.raises(UpstreamUnreachable) as caught:
                await client.open("x")
        assert caught.value.retry_after == 7

    @pytest.mark.parametrize("code", [400, 401, 407, 201, 204, 206, 304, 418])
    async def test_what_makes_no_sense(self, server: FaultUpstream, code: int) -> None:
        server.answers["/x"] = status(code)
        async with client_of(Place(url=server.url)) as client:
            with pytest.raises(UpstreamProtocolError):
                await client.open("x")

    async def test_nobody_there_and_nobody_who_speaks(self, server: FaultUpstream) -> None:
        server.answers["/x"] = lambda connection: connection.send(b"SSH-2.0-x\r\n\r\n")
        server.answers["/hang"] = hang
        async with client_of(Place(url=server.url, stall_timeout=0.2)) as client:
            with pytest.raises(UpstreamError):
                await client.open("x")
            with pytest.raises(UpstreamUnreachable):
                await client.open("hang")
            await server.stop()
            with pytest.raises(UpstreamUnreachable):
                await client.open("x")

    async def test_no_answer_is_asked_for_encoded_and_cookies_are_nobodys_business(self, server: FaultUpstream) -> None:
        server.answers["/x"] = body(b"x", Set_Cookie="a=b")
        async with client_of(Place(url=server.url)) as client:
            await get(client, "x")
            await get(client, "x")
        headers = server.requests[-1].headers
        assert headers["accept-encoding"] == "identity"
        assert "cookie" not in headers

    async def test_a_document_that_is_too_long_is_not_read_to_its_end(self, server: FaultUpstream) -> None:
        server.answers["/x"] = body(b"x" * 1001)
        async with client_of(Place(url=server.url)) as client:
            with pytest.raises(UpstreamProtocolError):
                await get(client, "x")

    async def test_a_part_says_where_it_begins(self, server: FaultUpstream) -> None:
        server.answers["/x"] = status(206, b"cd", Content_Range="bytes 2-3/4", ETag='"v"')
        async with client_of(Place(url=server.url)) as client:
            found = await client.open("x", Resume(2, '"v"'))
            assert found is not None
            with found:
                assert (found.start, found.size, found.validator) == (2, 4, '"v"')
        assert (server.requests[0].headers["range"], server.requests[0].headers["if-range"]) == ("bytes=2-", '"v"')


class TestCredentials:
    async def test_they_go_to_the_upstream_itself_and_nowhere_else(self, server: FaultUpstream) -> None:
        async with FaultUpstream() as other:
            server.answers["/x"] = status(302, Location=f"{other.url}/x")
            other.answers["/x"] = body(b"here")
            async with client_of(Place(url=server.url, authorization="Bearer secret")) as client:
                assert await get(client, "x") == b"here"
            assert server.requests[0].headers["authorization"] == "Bearer secret"
            assert "authorization" not in other.requests[0].headers

    def test_a_netrc_is_read_as_nix_reads_it(self, tmp_path: Path) -> None:
        file = tmp_path / "netrc"
        file.write_text("machine cache.example.org login me password s3cret\n")
        expected = "Basic " + base64.b64encode(b"me:s3cret").decode()
        assert read_authorization("cache.example.org", file, None) == expected
        assert read_authorization("other.example.org", file, None) is None

    def test_a_token_is_read_from_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "token"
        file.write_text("abc.def\n")
        assert read_authorization("x", None, file) == "Bearer abc.def"

    @pytest.mark.parametrize("data", [b"", b"\n", b"a\nb", b"\xff"])
    def test_what_is_no_token_is_said_with_the_name_of_the_file(self, tmp_path: Path, data: bytes) -> None:
        file = tmp_path / "token"
        file.write_bytes(data)
        with pytest.raises(ConfigError, match=str(file)):
            read_authorization("x", None, file)

    def test_a_file_that_is_not_there_is_said(self, tmp_path: Path) -> None:
        for files in ((tmp_path / "none", None), (None, tmp_path / "none")):
            with pytest.raises(ConfigError, match="none"):
                read_authorization("x", *files)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run(
        [*command, "-keyout", key, "-out", certificate, "-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True,
        capture_output=True,
        timeout=30,
    )
    return certificate, key


async def test_an_authority_of_its_own_vouches_for_an_upstream(certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nhere")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        trusting = ssl.create_default_context(cafile=certificate[0])
        async with client_of(Place(url=url, tls=trusting)) as client:
            assert await get(client, "x") == b"here"
        async with client_of(Place(url=url)) as client:
            with pytest.raises(UpstreamUnreachable, match="certificate"):
                await client.open("x")


async def test_a_proxy_is_used_as_the_environment_says(server: FaultUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers["http://cache.example.org/x"] = body(b"through")
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "localhost")
    async with client_of(Place(url="http://cache.example.org")) as client:
        assert await get(client, "x") == b"through"
