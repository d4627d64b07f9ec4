"""Uploads by the API of Attic that lie, forge or flood. Its own server prints what it was sent into narinfos."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path as FilePath
from typing import Any, Final

import pytest
from attic_client import Answer, AtticClient, Path, make_token, of_pushed, secret_base64
from pushed_paths import GLIBC, HELLO, PATH, REFERENCE, STORE, pushed
from pushing import TEAM, PushServer, pushed_to
from trees import File
from waiting import eventually

from harmonia_py.attic.token_key import TokenKey
from harmonia_py.attic.tokens import AtticTokens
from harmonia_py.catalog.caches import CacheSettings
from harmonia_py.nix.store_path import StorePath

TOKEN: Final = make_token("mallory", {"team": {"r": 1, "w": 1}})
READER: Final = make_token("reader", {"team": {"r": 1}})
PATH_OF_GLIBC: Final = of_pushed(GLIBC)
INJECTIONS: Final = ["\nSig: forged:AAAA", "\r\nURL: http://mallory", "\0", "\u2028URL: x", " URL:", "/../x", "\x1b[2J"]


@pytest.fixture
async def server(tmp_path: FilePath) -> AsyncIterator[PushServer]:
    tokens = AtticTokens(TokenKey.parse_hs256_secret(secret_base64()))
    async with pushed_to(tmp_path, STORE, CacheSettings(max_nar_size=1024 * 1024), attic=tokens) as server:
        yield server


async def ask(server: PushServer, method: str, *arguments: Any, token: str | None = TOKEN, **options: Any) -> Answer:
    client = AtticClient(f"http://127.0.0.1:{server.port}", token)
    answer: Answer = await asyncio.to_thread(getattr(client, method), *arguments, **options)
    return answer


async def assert_nothing_is_kept(server: PushServer, path: StorePath = REFERENCE) -> None:
    answer = await server.get(f"/{path.hash_part}.narinfo", token=READER)
    assert answer.status == 404
    known = await server.catalog.objects.size(None)
    assert (known.objects, known.waiting, known.incoming_size) == (0, 0, 0)
    assert growing(server) == []


def growing(server: PushServer) -> list[FilePath]:
    """The files of uploads that are under way."""
    return [file for file in (server.directory / "growing").iterdir() if file.is_file()]


async def refused(server: PushServer, path: Path, *words: str) -> str:
    answer = await ask(server, "upload", TEAM, path)
    assert answer.status == 400, answer.body
    for word in words:
        assert word in answer.error
    assert "\n" not in answer.json["message"]
    await assert_nothing_is_kept(server)
    return answer.error


@pytest.mark.parametrize(
    ("field", "injected"),
    [
        (field, injected)
        for field in ("store_path", "store_path_hash", "references", "sigs", "deriver", "ca", "nar_hash")
        for injected in INJECTIONS
        if (field, injected) != ("sigs", "/../x")  # a word that is no signature is left out: see `test_attic_api`
    ],
    ids=repr,
)
async def test_lines_forged_through_a_field(server: PushServer, field: str, injected: str) -> None:
    """A line break in a field became a line of the narinfo: another URL, another signature."""
    description = PATH_OF_GLIBC.description(TEAM)
    good = {
        "references": [str(PATH)],
        "sigs": ["key:" + "A" * 86 + "=="],
        "deriver": f"{REFERENCE}.drv",
        "ca": "fixed:sha256:" + "0" * 52,
    }
    value = good.get(field, description[field])
    description[field] = [f"{value[0]}{injected}"] if isinstance(value, list) else f"{value}{injected}"
    text = json.dumps(description).encode()
    headers = {"X-Attic-Nar-Info-Preamble-Size": str(len(text))}
    answer = await ask(server, "send", headers, [text, PATH_OF_GLIBC.nar])
    assert answer.status == 400, answer.body
    assert field in answer.error
    await assert_nothing_is_kept(server)


async def test_a_nar_of_another_hash(server: PushServer) -> None:
    """`Bad NAR Hash or Size` helps nobody: both values are said."""
    other = f"sha256:{'0' * 64}"
    message = await refused(server, PATH_OF_GLIBC.claiming(nar_hash=other), "NarHash")
    assert str(GLIBC.claim.path_info.nar_hash) in message


@pytest.mark.parametrize("size", [1, len(GLIBC.data) - 1, len(GLIBC.data) + 1, 1024 * 1024])
async def test_a_nar_of_another_size(server: PushServer, size: int) -> None:
    await refused(server, PATH_OF_GLIBC.claiming(nar_size=size), "NarSize", str(size))


@pytest.mark.parametrize("size", [0, -1, 2**63, 2**64])
async def test_a_size_that_no_nar_has(server: PushServer, size: int) -> None:
    answer = await ask(server, "upload", TEAM, PATH_OF_GLIBC.claiming(nar_size=size))
    assert answer.status == 400
    await assert_nothing_is_kept(server)


async def test_a_nar_that_is_too_large_is_refused_before_its_bytes(server: PushServer) -> None:
    answer = await ask(server, "send", {"X-Attic-Nar-Info": json.dumps(described(nar_size=2 * 1024 * 1024))}, endless())
    assert (answer.status, answer.json["error"]) == (413, "RequestError")
    await assert_nothing_is_kept(server)


async def test_a_body_without_an_end(server: PushServer) -> None:
    """The server hashes as it reads: without a bound on what is read it would do so for ever."""
    answer = await ask(server, "send", {"X-Attic-Nar-Info": json.dumps(described())}, endless())
    assert answer.status == 400
    assert "longer than its NarSize" in answer.error
    await assert_nothing_is_kept(server)


async def test_what_is_no_nar(server: PushServer) -> None:
    bytes_ = b"garbage" * 100
    claimed = pushed(REFERENCE, File(b"x"))
    path = of_pushed(claimed).claiming(nar=bytes_, nar_size=len(bytes_))
    await refused(server, path)
    for data in (GLIBC.data + bytes(8), GLIBC.data[:-8], b""):
        await refused(server, PATH_OF_GLIBC.claiming(nar=data))


async def test_the_hash_part_of_another_path(server: PushServer) -> None:
    text = json.dumps(described(store_path_hash=PATH.hash_part))
    answer = await ask(server, "send", {"X-Attic-Nar-Info": text}, [GLIBC.data])
    assert (answer.status, "store_path_hash" in answer.error) == (400, True)
    await assert_nothing_is_kept(server)


@pytest.mark.parametrize(
    "store_path",
    ["/gnu/store/" + REFERENCE, REFERENCE, f"/nix/store/../etc/{REFERENCE}", "/nix/store/", "", "/etc/passwd"],
)
async def test_a_path_outside_of_the_store(server: PushServer, store_path: str) -> None:
    text = json.dumps(described(store_path=store_path))
    answer = await ask(server, "send", {"X-Attic-Nar-Info": text}, [GLIBC.data])
    assert (answer.status, "store_path" in answer.error) == (400, True)


async def test_a_content_address_that_is_not_so(server: PushServer) -> None:
    await refused(server, PATH_OF_GLIBC.claiming(ca="fixed:r:sha256:" + "0" * 52))


async def test_a_reference_that_is_not_in_the_nar(server: PushServer) -> None:
    await refused(server, PATH_OF_GLIBC.claiming(references=(PATH,)), "References")


async def test_a_reference_that_is_left_out(server: PushServer) -> None:
    """A closure that lacks it would be substituted, and not run."""
    assert (await ask(server, "upload", TEAM, PATH_OF_GLIBC)).status == 200
    answer = await ask(server, "upload", TEAM, of_pushed(HELLO).claiming(references=()))
    assert answer.status == 400
    assert "left out" in answer.error


async def test_signatures_without_number(server: PushServer) -> None:
    many = tuple(f"key-{number}:{'A' * 86}==" for number in range(101))
    await refused(server, PATH_OF_GLIBC.claiming(sigs=many), "sigs")


async def test_a_cache_named_in_the_body_that_the_token_is_not_for(server: PushServer) -> None:
    for name in ("other", "nope", "../team", "team\n", "", "*", "te*m", "default"):
        text = json.dumps(described(cache=name)).encode()
        for headers, parts in (
            ({"X-Attic-Nar-Info-Preamble-Size": str(len(text))}, [text, GLIBC.data]),
            ({"X-Attic-Nar-Info": text.decode()}, [GLIBC.data]),
        ):
            answer = await ask(server, "send", headers, parts)
            assert answer.status in (400, 401), answer.body
    await assert_nothing_is_kept(server)


@pytest.mark.parametrize(
    "size", ["", "-1", "+1", "1e3", "0x10", "1_000", "\u0661", "9" * 4000, "1048577", "12 34", "1.0"]
)
async def test_a_preamble_of_a_size_that_is_none(server: PushServer, size: str) -> None:
    headers = {"X-Attic-Nar-Info-Preamble-Size": size}
    with contextlib.suppress(UnicodeEncodeError):
        answer = await ask(server, "send", headers, endless())
        assert answer.status == 400, answer.body
        assert answer.json["error"] == "RequestError"


async def test_a_preamble_that_is_not_all_there(server: PushServer) -> None:
    text = json.dumps(described()).encode()
    answer = await ask(server, "send", {"X-Attic-Nar-Info-Preamble-Size": "1000000"}, [text])
    assert (answer.status, "doesn't match specified size" in answer.error) == (400, True)
    for data in (b"", b"[]", b"{", b"null", b'{"cache":"team"}', b"\xff" * 9, b"[" * 100_000):
        headers = {"X-Attic-Nar-Info-Preamble-Size": str(len(data))}
        answer = await ask(server, "send", headers, [data, GLIBC.data])
        assert (answer.status, answer.json["error"]) == (400, "RequestError")


async def test_the_preamble_counts_beside_the_header(server: PushServer) -> None:
    """A proxy that looks at the header must not be told another cache than the server believes: theirs is the order."""
    text = json.dumps(described()).encode()
    headers = {
        "X-Attic-Nar-Info-Preamble-Size": str(len(text)),
        "X-Attic-Nar-Info": json.dumps(described(cache="other")),
    }
    assert (await ask(server, "send", headers, [text, GLIBC.data])).status == 200
    answer = await ask(server, "send", {}, [GLIBC.data])
    assert (answer.status, answer.error) == (400, "RequestError: General request error: X-Attic-Nar-Info must be set")


async def test_a_megabyte_is_not_read_for_a_client_that_may_push_nothing(server: PushServer) -> None:
    for token, refusal in (
        (None, (401, "Unauthorized")),
        (READER, (403, "AccessError")),
        (make_token("x", {"team": {"w": 1}}, exp=1), (401, "Unauthorized")),
        (make_token("x", {"t": {"w": 1}}, key=b"k" * 32), (401, "Unauthorized")),
    ):
        answer = await ask(server, "send", {"X-Attic-Nar-Info-Preamble-Size": "1000000"}, endless(), token=token)
        assert (answer.status, answer.json["error"]) == refusal


@pytest.mark.default_backing
async def test_an_upload_that_is_cut(server: PushServer) -> None:
    text = json.dumps(described())
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    lines = [
        "PUT /_api/v1/upload-path HTTP/1.1",
        "Host: x",
        f"Authorization: bearer {TOKEN}",
        f"X-Attic-Nar-Info: {text}",
    ]
    writer.write("\r\n".join([*lines, "Transfer-Encoding: chunked", "", ""]).encode())
    half = GLIBC.data[: len(GLIBC.data) // 2]
    writer.write(f"{len(half):x}\r\n".encode() + half + b"\r\n")
    await writer.drain()
    await eventually(lambda: growing(server))
    writer.close()
    await eventually(lambda: not growing(server))
    await assert_nothing_is_kept(server)


def described(**fields: Any) -> dict[str, Any]:
    return PATH_OF_GLIBC.description(TEAM) | fields


def endless() -> Any:
    """A body of more than a client may send, given up by the one that reads it."""
    return (bytes(64 * 1024) for _ in range(10_000))
