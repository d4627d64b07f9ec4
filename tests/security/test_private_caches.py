"""A cache that is not public gives away nothing to those that may not read it: no path, no name, not even that it is.

Each attack by its name.
"""

import asyncio
import base64
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import pytest
from serving import ABSENT, LOG_NAME, PATH, Answer, read_answer
from teams import TeamServer, advance, served_teams

from harmonia_py.cache.cache_name import RESERVED
from harmonia_py.cache.usage import CacheUsage
from harmonia_py.metrics.cache_labels import names_in

NARINFO: Final = f"{PATH.hash_part}.narinfo"
BELOW: Final = [
    *("", "nix-cache-info", NARINFO, f"{ABSENT}.narinfo", f"nar/{PATH.hash_part}.nar", f"nar/{ABSENT}.nar"),
    *(f"{PATH.hash_part}.ls", f"log/{LOG_NAME}", f"path/{PATH.hash_part}", f"serve/{PATH.hash_part}/"),
    *("search?q=a", "debuginfo/" + "a" * 40),
]


@pytest.fixture
async def served() -> AsyncIterator[TeamServer]:
    async with served_teams() as served:
        yield served


def told(answer: Answer) -> tuple[int, bytes, dict[str, str]]:
    """Everything that somebody could learn from."""
    return answer.status, answer.body, {name: value for name, value in answer.headers.items() if name != "Date"}


def asked_of_caches(served: TeamServer) -> list[str]:
    return [question for source in served.teams.sources.values() for question in source.asked]


async def test_guessing_by_status_and_text(served: TeamServer) -> None:
    """A cache that is private, with or without the path, and one that is not there at all."""
    answers = [told(await served.get(f"/{name}/{path}")) for name in ("team", "other", "no-such") for path in BELOW]
    answers += [told(await served.get(f"/{name}")) for name in ("team", "other", "no-such")]
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][:2] == (401, b"Unauthorized\n")
    for method in ("HEAD", "OPTIONS", "TRACE"):
        statuses = {told(await served.request(method, f"/{name}/{NARINFO}"))[0] for name in ("team", "no-such")}
        assert len(statuses) == 1, method
    assert asked_of_caches(served) == served.teams.made == []


async def test_a_proxy_keeps_no_nar_of_it_for_others(served: TeamServer) -> None:
    """NARs were `public`: a cache in front could give one that a token had opened to clients without any."""
    answer = await served.get(f"/team/nar/{PATH.hash_part}.nar", {"Authorization": "Bearer reader"})
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "private, max-age=31536000, immutable")


async def test_guessing_by_status_and_text_with_a_token_for_another_cache(served: TeamServer) -> None:
    token = {"Authorization": "Bearer stranger"}
    for path in BELOW:
        team, absent = [await served.get(f"/{name}/{path}", token) for name in ("team", "nope")]
        assert team.status == absent.status == 403
        assert team.body == absent.body.replace(b"nope", b"team")
    assert team.body == b"Forbidden: the token stranger does not allow to read the cache team\n"
    assert asked_of_caches(served) == []


async def test_reading_its_name_in_the_metrics(served: TeamServer) -> None:
    """Anybody may read the metrics of a server whose cache at / is public."""
    for name in ("open", "team", "other", "default"):
        CacheUsage.on(served.metrics, name).found.add()

    async def named(token: str | None) -> set[str]:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        answer = await served.get("/metrics", headers)
        assert answer.status == 200
        return names_in(answer.body.decode().splitlines())

    assert await named(None) == {"default", "open"}
    assert await named("reader") == {"default", "open", "team"}
    assert await named("admin") == {"default", "open", "team", "other"}


async def test_reading_its_name_while_nobody_can_tell_what_is_public(served: TeamServer) -> None:
    CacheUsage.on(served.metrics, "team").found.add()
    CacheUsage.on(served.metrics, "open").found.add()
    served.teams.broken = True
    answer = await served.get("/metrics")
    assert (answer.status, names_in(answer.body.decode().splitlines())) == (200, set())


async def test_guessing_by_writing(served: TeamServer) -> None:
    """405 says that there is such a URL; it says so for every name."""
    for token in ({}, {"Authorization": "Bearer stranger"}):
        answers = [await served.request("PUT", f"/{name}/{NARINFO}", token) for name in ("team", "no-such")]
        assert told(answers[0]) == told(answers[1])


@contextmanager
def functions_called() -> Iterator[Counter[str]]:
    """How many times each function of the program is called meanwhile, in this thread."""
    called: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_globals.get("__name__", "").startswith("harmonia_py."):
            called[frame.f_code.co_qualname] += 1

    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(None)


async def test_guessing_by_time(served: TeamServer) -> None:
    """What is done for a private cache and for one that is not there is the same, so it takes as long."""
    called: dict[str, list[Counter[str]]] = {"team": [], "no-such": []}
    reader, writer = await served.connect()
    for _ in range(21):
        for name, requests in called.items():
            with functions_called() as functions:
                writer.write(f"GET /{name}/{NARINFO} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                assert (await read_answer(reader)).status == 401
            requests.append(functions)
    writer.close()
    there, absent = [statistics.median(one.total() for one in requests) for requests in called.values()]
    # A look into a source, a signature or the making of a cache would be more than this.
    assert abs(there - absent) < 0.25 * max(there, absent), (there, absent)
    assert asked_of_caches(served) == served.teams.made == []
    # Each name was looked up once, whether it is one or not.
    assert served.teams.asked == ["team", "no-such"]


@pytest.mark.parametrize(
    "authorization",
    [
        *("Bearer reader", "bearer reader", "BEARER   reader  "),
        *("Basic " + base64.b64encode(f"{login}:reader".encode()).decode() for login in ("", "nix", "a@b", "é")),
    ],
)
async def test_a_token_is_taken_in_every_way_in_which_clients_send_it(served: TeamServer, authorization: str) -> None:
    """The official client of Attic writes the scheme in lower case; a netrc may have any login or none."""
    assert (await served.get(f"/team/{NARINFO}", {"Authorization": authorization})).status == 200


@pytest.mark.parametrize(
    "lines",
    [
        ["Authorization: Bearer reader", "Authorization: Bearer reader"],
        ["Authorization: Bearer reader", "Authorization: Bearer stranger"],
        ["Authorization: Bearer stranger", "authorization: Bearer reader"],
        ["Authorization: Bearer reader, Bearer reader"],
        ["Authorization: Bearer\treader"],
        ["Authorization: Digest reader"],
        ["Authorization: reader"],
        ["Authorization: Basic cmVhZGVy"],
        ["Authorization: Bearer reader\r\n reader"],
        ["X-Authorization: Bearer reader"],
        ["Proxy-Authorization: Bearer reader"],
        ["Cookie: Authorization=Bearer reader"],
    ],
)
async def test_header_tricks(served: TeamServer, lines: list[str]) -> None:
    """A proxy may have read another one of two headers than the one that is read here."""
    assert (await served.ask(f"/team/{NARINFO}", "Authorization: Bearer reader")).status == 200
    asked = asked_of_caches(served)
    assert (await served.ask(f"/team/{NARINFO}", *lines)).status in (400, 401)
    assert asked_of_caches(served) == asked


async def test_a_ready_answer_for_another_token(served: TeamServer) -> None:
    """It lies ready for those that may have it; header lines that came before say nothing of another cache."""
    reader, stranger = "Authorization: Bearer reader", "Authorization: Bearer stranger"
    for _ in range(2):
        assert (await served.ask(f"/team/{NARINFO}", reader)).status == 200
        assert (await served.ask(f"/other/{NARINFO}", stranger)).status == 200
        assert (await served.ask(f"/{NARINFO}", stranger)).status == 200
    for target, token in (("team", stranger), ("other", reader)):
        for path in (NARINFO, f"{ABSENT}.narinfo", f"nar/{PATH.hash_part}.nar"):
            assert (await served.ask(f"/{target}/{path}", token)).status == 403
            assert (await served.ask(f"/{target}/{path}")).status == 401


async def test_a_revoked_token_on_an_open_connection(served: TeamServer) -> None:
    """It is closed at the next request, in front of answers that are ready as well."""
    request = f"GET /team/{NARINFO} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer reader\r\n\r\n".encode()
    reader, writer = await served.connect()
    for _ in range(3):
        writer.write(request)
        assert (await read_answer(reader)).status == 200
    served.tokens.revoke("reader")
    writer.write(request)
    answer = await read_answer(reader)
    writer.close()
    assert (answer.status, answer.body) == (401, b"Unauthorized: the token reader was revoked; ask for another one\n")
    assert (await served.ask(f"/{NARINFO}", "Authorization: Bearer reader")).status == 401, "wrong anywhere"


async def test_an_expired_token_on_an_open_connection(served: TeamServer) -> None:
    served.tokens.expire("reader", at=time.time() + 2.0)
    request = f"GET /team/{NARINFO} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer reader\r\n\r\n".encode()
    reader, writer = await served.connect()
    writer.write(request)
    assert (await read_answer(reader)).status == 200
    statuses: list[int] = []
    deadline = time.monotonic() + 30
    while 401 not in statuses and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
        writer.write(request)
        statuses.append((await read_answer(reader)).status)
    writer.close()
    assert statuses[-1] == 401
    refusal = await served.ask(f"/team/{NARINFO}", "Authorization: Bearer reader")
    assert refusal.body == b"Unauthorized: the token reader has expired; ask for another one\n"
    assert set(statuses[:-1]) <= {200}


async def test_a_cache_that_becomes_private(served: TeamServer) -> None:
    reader, writer = await served.connect()
    request = f"GET /open/{NARINFO} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    for _ in range(3):
        writer.write(request)
        assert (await read_answer(reader)).status == 200
    served.teams.public = {"open": False}
    advance(served.generation)
    writer.write(request)
    assert (await read_answer(reader)).status == 401
    writer.close()


async def test_a_foreign_password_opens_nothing_and_closes_nothing(served: TeamServer) -> None:
    """A netrc names a machine, not a service: the password of another server comes along."""
    foreign = {"Authorization": "Bearer some.thing.else"}
    assert (await served.get(f"/open/{NARINFO}", foreign)).status == 200
    assert (await served.get(f"/team/{NARINFO}", foreign)).status == 401


@pytest.mark.parametrize(
    "path",
    [
        *("/team%2F" + NARINFO, "/team%2f..%2fteam/" + NARINFO, "/open/..%2fteam/" + NARINFO, "/open%2f..%2fteam/"),
        *("/open/../team/" + NARINFO, "/./team/" + NARINFO, "//team/" + NARINFO, "/team//" + NARINFO),
        *("/te%00am/" + NARINFO, "/team%20/" + NARINFO, "/%2e%2e/team/" + NARINFO, "/..;/team/" + NARINFO),
        *("/team\\" + NARINFO, "/TEAM/" + NARINFO, "/team;x/" + NARINFO, "/team./" + NARINFO),
        *("/open/nar/../../team/" + NARINFO, "/open/nar/..%2f..%2fteam%2f" + NARINFO, "/team%252f" + NARINFO),
    ],
)
async def test_names_as_path_tricks(served: TeamServer, path: str) -> None:
    for lines in ([], ["Authorization: Bearer stranger"]):
        answer = await served.ask(path, *lines)
        assert answer.status in (400, 401, 403, 404)
        assert b"StorePath" not in answer.body
    assert "team" not in served.teams.made
    assert served.teams.sources.get("team") is None or served.teams.sources["team"].asked == []


async def test_a_name_in_another_spelling_is_the_same_cache(served: TeamServer) -> None:
    """Percent-encoded letters are letters: they lead to the same cache, through the same gate."""
    for path in (f"/%74eam/{NARINFO}", f"/tea%6D/{NARINFO}"):
        assert (await served.ask(path)).status == 401
        assert (await served.ask(path, "Authorization: Bearer stranger")).status == 403
        for _ in range(2):
            assert (await served.ask(path, "Authorization: Bearer reader")).status == 200
        assert (await served.ask(path, "Authorization: Bearer stranger")).status == 403
        assert (await served.ask(path)).status == 401


@pytest.mark.parametrize("name", sorted(RESERVED))
async def test_names_that_are_first_segments_of_other_urls(served: TeamServer, name: str) -> None:
    """Such a cache is never looked up, by whatever is declared."""
    served.teams.public = {name: False}
    advance(served.generation)
    for path in BELOW:
        answer = await served.get(f"/{name}/{path}", {"Authorization": "Bearer admin"})
        # 422: nothing is pushed to the cache at `/`, which is what is below `/push`.
        assert answer.status in (200, 302, 404, 400, *([422] if name == "push" else []))
    assert served.teams.asked == served.teams.made == []


async def test_a_private_cache_is_not_named_by_what_is_public(served: TeamServer) -> None:
    assert (await served.get(f"/team/{NARINFO}", {"Authorization": "Bearer reader"})).status == 200
    for path in ("/", "/metrics", "/ready", "/version", "/health", "/search", "/open/", "/open/search"):
        body = (await served.get(path, {"Accept-Encoding": "identity"})).body
        assert b"/team" not in body, path
        assert b'"team"' not in body, path
