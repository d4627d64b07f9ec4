"""Errors in a browser are pages; clients of Nix and curl keep the one line."""

import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Final

import pytest
from serving import ABSENT, PATH, FakeSource, Served
from teams import TeamServer, served_teams

from harmonia_py import errors
from harmonia_py.web.admission.clients import Clients
from harmonia_py.web.admission.rate_limit import RateLimiter, RateTable
from harmonia_py.web.http.errors import STATUSES
from harmonia_py.web.pages.error import WORDS, prefers_page
from harmonia_py.web.pages.templates import content_security_policy

FIREFOX: Final = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
CHROME: Final = {
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,"
    "application/signed-exchange;v=b3;q=0.7"
}


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with Served(FakeSource()) as served:
        yield served


@pytest.mark.parametrize("browser", [FIREFOX, CHROME], ids=["Firefox", "Chrome"])
async def test_a_browser_gets_a_page_that_says_what_the_status_means_and_what_to_do(
    served: Served, browser: dict[str, str]
) -> None:
    """The report: errors in a browser were bare text."""
    for target in (f"/{ABSENT}.narinfo", "/nothing/of/the/kind", f"/path/{ABSENT}"):
        answer = await served.get(target, browser)
        assert answer.status == 404
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Content-Security-Policy"] == content_security_policy()
        page = answer.body.decode()
        words = WORDS[HTTPStatus.NOT_FOUND]
        for text in ("<h1>Not Found</h1>", "404 Not Found", words.meaning, words.advice):
            assert text in page
        # The link leads to the first page, however deep the URL is.
        [link] = re.findall(r'<a href="([./]+)">To the first page', page)
        assert link.count("../") == target.count("/") - 1


@pytest.mark.parametrize(
    ("accept", "is_page"),
    [
        ("text/html", True),
        ("TEXT/HTML;q=0.9, text/plain;q=0.5", True),
        ("text/html, */*", True),
        ("*/*", False),
        ("", False),
        ("text/*", False),
        ("text/plain, text/html;q=0.5", False),
        ("text/html;q=0", False),
        ("text/htmlx", False),
        ("application/json, text/plain, */*", False),
        ("," * 9999 + "text/html", False),
    ],
)
def test_only_a_client_that_prefers_pages_gets_one(accept: str, is_page: bool) -> None:  # noqa: FBT001  # a table
    assert prefers_page(accept) is is_page


@pytest.mark.parametrize("headers", [{}, {"Accept": "*/*"}, {"Accept": "*/*", "User-Agent": "curl/8.5.0 Nix/2.26.3"}])
async def test_nix_and_curl_keep_the_one_line(served: Served, headers: dict[str, str]) -> None:
    for target in (f"/{ABSENT}.narinfo", "/nothing", "/build-trace-v2/x/...doi"):
        answer = await served.get(target, headers)
        assert answer.body == f"{HTTPStatus(answer.status).phrase}\n".encode()
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


async def test_a_head_of_an_error_has_the_headers_of_its_page(served: Served) -> None:
    page = await served.get(f"/{ABSENT}.narinfo", FIREFOX)
    head = await served.request("HEAD", f"/{ABSENT}.narinfo", FIREFOX)
    assert {**dict(head.headers), "Date": ""} == {**dict(page.headers), "Date": ""}
    assert int(head.headers["Content-Length"]) == len(page.body)


async def test_a_narinfo_that_is_absent_is_a_page_also_when_no_other_header_came(served: Served) -> None:
    """Requests for narinfos are answered before the framework parses them, and `Accept` was a harmless header there."""
    for _ in range(2):
        answer = await served.ask(f"/{ABSENT}.narinfo", "Accept: text/html")
        assert answer.headers["Content-Type"].startswith("text/html")
        answer = await served.ask(f"/{PATH.hash_part}.narinfo", "Accept: text/html")
        assert answer.headers["Content-Type"] == "text/x-nix-narinfo"


@pytest.mark.parametrize(
    "error",
    [
        errors.DaemonUnreachable("no daemon at /secret/socket"),
        errors.DaemonProtocolError("peer said /secret"),
        errors.StorageError("/secret: broken"),
        RuntimeError("/secret"),
    ],
)
async def test_a_page_says_nothing_of_the_machine(error: Exception) -> None:
    async with Served(FakeSource(error=error)) as served:
        answer = await served.get(f"/{PATH.hash_part}.ls", FIREFOX)
        page = answer.body.decode()
        assert answer.headers["Content-Type"].startswith("text/html")
        assert WORDS[HTTPStatus(answer.status)].meaning in page
        assert "secret" not in page
        if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
            assert f"Try again in {answer.headers['Retry-After']} seconds." in page


async def test_a_page_repeats_nothing_of_the_url(served: Served) -> None:
    """Whatever a link to this cache says would else be said in the name of the cache."""
    pages = [await served.get(target, FIREFOX) for target in ("/%3Cscript%3Ealert(1)", "/call-0900", "/nothing?at=all")]
    assert all(page.headers["Content-Type"].startswith("text/html") for page in pages)
    assert pages[0].body == pages[1].body == pages[2].body


async def test_a_client_that_asks_too_often_reads_for_how_long_to_wait() -> None:
    limiter = RateLimiter(RateTable(), rate=1, burst=1)
    async with Served(FakeSource(), clients=Clients(limiter=limiter)) as served:
        answers = [await served.get("/", FIREFOX) for _ in range(3)]
        assert answers[-1].status == 429
        assert WORDS[HTTPStatus.TOO_MANY_REQUESTS].meaning in answers[-1].body.decode()
        assert b"Try again in 1 second." in answers[-1].body


async def test_the_pages_of_a_private_cache_say_the_same_for_what_exists_and_what_does_not() -> None:
    async with served_teams() as teams:
        await _check_private(teams)


async def _check_private(teams: TeamServer) -> None:
    def told(body: bytes) -> bytes:
        return re.sub(rb'(?:\.\./)+|"\./"', b"ROOT", body)

    below = ("nix-cache-info", f"{PATH.hash_part}.narinfo", f"{ABSENT}.narinfo", f"path/{PATH.hash_part}")
    pages = {path: [await teams.get(f"/{name}/{path}", FIREFOX) for name in ("team", "no-such")] for path in below}
    for private, absent in pages.values():
        assert private.status == absent.status == 401
        assert private.body == absent.body
        assert private.headers["WWW-Authenticate"] == absent.headers["WWW-Authenticate"]
        assert b"netrc-file" in private.body
    assert len({told(private.body) for private, _ in pages.values()}) == 1
    token = {**FIREFOX, "Authorization": "Bearer stranger"}
    for path in below:
        private, absent = [await teams.get(f"/{name}/{path}", token) for name in ("team", "nope")]
        assert private.status == absent.status == 403
        assert private.body == absent.body.replace(b"nope", b"team")
    # A client that may read learns that a path is absent, in the words that are said of any other URL.
    reader = {**FIREFOX, "Authorization": "Bearer reader"}
    there, nothing = [await teams.get(f"/team/{path}", reader) for path in (f"{ABSENT}.narinfo", "no-such")]
    assert there.status == nothing.status == 404
    assert there.body == nothing.body


def test_every_error_of_a_reader_has_words_of_its_own() -> None:
    reading = {statuses.reading for kind, statuses in STATUSES.items() if not issubclass(kind, errors.PushRefused)}
    # A push needs PUT, and browsers send none.
    reading -= {HTTPStatus(409), HTTPStatus(411), HTTPStatus(413)}
    assert reading <= WORDS.keys()
