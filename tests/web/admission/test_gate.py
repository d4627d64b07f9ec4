"""Who has no token gets nothing from a cache that is not public, and learns nothing of what is in it."""

import base64
from collections.abc import AsyncIterator

import pytest
from serving import ABSENT, LOG_NAME, PATH, Answer, FakeSource, Served, read_answer
from waiting import eventually

from harmonia_py.cache.caches import Caches
from harmonia_py.cache.tokens import TokenHash, Tokens
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.web.state import ServingSettings

# The same in every process that runs these tests.
TOKEN = "QvNWOmg4P1n9SjMIkb_xk_56zlPrVMDCp3YWRb07BcQ"
LINE = TokenHash.parse(f"laptop:{Hash.of(TOKEN.encode())}")
COMPRESSED_NAR = f"/{NarUrl(PATH.hash_part, Hash.of(b'n' * 100), 'zstd')}"
SOURCE_NAR = f"/nar/{Hash.of(b'n' * 100).nix32}.nar?hash={PATH.hash_part}"
NARINFO = f"/{PATH.hash_part}.narinfo"
TARGETS = [
    *("/", "/nix-cache-info", NARINFO, SOURCE_NAR, f"/{PATH.hash_part}.ls", f"/log/{LOG_NAME}", "/version", "/metrics"),
    COMPRESSED_NAR,
    *("/ready", "/search?q=hello", f"/path/{PATH.hash_part}", f"/serve/{PATH.hash_part}/", "/debuginfo/" + "a" * 40),
    *(f"/{ABSENT}.narinfo", "/nothing", "/health/x", "//health", "/nar/..%2fhealth", f"/nar/{ABSENT}.nar"),
]


def basic(password: str, user: str = "") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


WRONG = [
    *("Bearer wrong", "Bearer", "Bearer ", TOKEN, f"Token {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"),
    *(f"Bearer {TOKEN.swapcase()}", basic("wrong"), basic("", TOKEN), "Basic !!!", "Basic", "", "Bearer " + "x" * 4000),
    f"Bearer {LINE}",
    f"Bearer {LINE.digest.base16}",
    f"Basic {base64.b64encode(TOKEN.encode()).decode()}",
    f"Basic {base64.b64encode(b':' + bytes([255])).decode()}",
]
RIGHT = [
    f"Bearer {TOKEN}",
    f"bearer  {TOKEN} ",
    basic(TOKEN),
    basic(TOKEN, "anybody"),
    basic(TOKEN).replace("B", "b", 1),
]


@pytest.fixture
def source() -> FakeSource:
    return FakeSource()


@pytest.fixture
async def served(source: FakeSource) -> AsyncIterator[Served]:
    async with Served(source, tokens=Tokens([TokenHash.generate("other")[1], LINE])) as served:
        yield served


def told(answer: Answer) -> tuple[int, bytes, dict[str, str]]:
    """Everything that a client could learn from."""
    return answer.status, answer.body, {name: value for name, value in answer.headers.items() if name != "Date"}


async def test_every_url_says_the_same_to_who_has_no_token(served: Served, source: FakeSource) -> None:
    answers = [told(await served.get(target)) for target in TARGETS]
    for answer in answers:
        assert answer == answers[0]
    status, body, headers = answers[0]
    assert (status, body) == (401, b"Unauthorized\n")
    assert headers["Cache-Control"] == "no-store"
    assert headers["WWW-Authenticate"].startswith("Basic realm=")
    assert source.asked == []


async def test_nor_does_another_method_tell_anything(served: Served, source: FakeSource) -> None:
    for method in ("HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
        answers = {served_target: await served.request(method, served_target) for served_target in TARGETS}
        assert {answer.status for answer in answers.values()} == {401}
        assert all(answer.headers["Allow"] is None for answer in answers.values())
    assert source.asked == []


async def test_the_health_of_the_process_is_everybodys(served: Served) -> None:
    assert (await served.get("/health")).status == 200


@pytest.mark.parametrize("authorization", RIGHT)
async def test_a_token_opens_everything(served: Served, authorization: str) -> None:
    for target in (NARINFO, SOURCE_NAR, "/nix-cache-info", "/health", "/version"):
        assert (await served.get(target, {"Authorization": authorization})).status == 200
    assert (await served.get("/nothing", {"Authorization": authorization})).status == 404


@pytest.mark.parametrize("authorization", WRONG)
async def test_a_wrong_token_is_wrong_everywhere(served: Served, source: FakeSource, authorization: str) -> None:
    for target in (NARINFO, "/nothing", "/health"):
        assert (await served.get(target, {"Authorization": authorization})).status == 401
    assert source.asked == []


async def test_of_two_tokens_not_one_is_taken(served: Served) -> None:
    request = f"GET {NARINFO} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    answer = await served.send(f"{request}Authorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_an_answer_that_is_ready_is_ready_for_who_has_a_token_alone(served: Served, source: FakeSource) -> None:
    token = f"Authorization: {basic(TOKEN)}"
    assert (await served.ask(NARINFO, token)).status == 200
    asked = len(source.asked)
    assert (await served.ask(NARINFO, token)).status == 200
    assert len(source.asked) == asked, "it was not ready"
    for lines in ([], ["Authorization: Bearer wrong"], [f"Authorization: {basic('wrong')}"], [token, token]):
        assert (await served.ask(NARINFO, *lines)).status == 401
    assert (await served.ask(NARINFO, f"authorization:   Bearer {TOKEN}   ")).status == 200
    assert len(source.asked) == asked


async def test_a_token_that_is_taken_away_opens_nothing_any_more(served: Served) -> None:
    token = f"Authorization: Bearer {TOKEN}"
    assert [(await served.ask(NARINFO, token)).status for _ in range(3)] == [200] * 3
    reader, writer = await served.connect()
    try:
        request = f"GET {NARINFO} HTTP/1.1\r\nHost: localhost\r\n{token}\r\n\r\n".encode()
        writer.write(request)
        assert (await read_answer(reader)).status == 200
        served.serving.replace(Caches(served.cache, public=False), ServingSettings(authenticators=[Tokens([])]))
        # On a connection that was let in before, too.
        writer.write(request)
        assert (await read_answer(reader)).status == 401
    finally:
        writer.close()


async def test_a_cache_that_becomes_private_gives_no_ready_answer(source: FakeSource) -> None:
    async with Served(source) as served:
        assert [(await served.ask(NARINFO)).status for _ in range(3)] == [200] * 3
        served.serving.replace(Caches(served.cache, public=False), ServingSettings(authenticators=[Tokens([LINE])]))
        assert (await served.ask(NARINFO)).status == 401


async def test_what_is_no_http_tells_nothing_either(served: Served, source: FakeSource) -> None:
    for request in (
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\r\n\r\n",
        f"GET {NARINFO} HTTP/1.1\r\n: x\r\n\r\n".encode(),
    ):
        answer = await served.send(request)
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 505 "))
    await eventually(lambda: not source.asked)


async def test_a_public_cache_does_not_mind_a_token(source: FakeSource) -> None:
    async with Served(source) as served:
        assert (await served.get(NARINFO, {"Authorization": "Bearer whatever"})).status == 200
