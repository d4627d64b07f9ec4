"""The same attacks on every URL: places outside the store, markup that comes back, words of the machine."""

import itertools
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest
from plain_store import Answer, PlainStore, Site
from trees import File, Folder

SECRET = b"the secret of this machine"
DOTS = ("..", "%2e%2e", ".%2e", "%252e%252e", "%c0%ae%c0%ae", "..%00", "..;")
# Of the URLs: thousands of requests are for several processes of a test run.
_PARTS = 6
SLASHES = ("/", "%2f", "%252f", "%5c", "\\", "//", "%2f%2f")
MARKUP = ("<script>alert(1)</script>", "'\"><img src=x onerror=alert(1)>", "{{ 7 * 7 }}", "javascript:alert(1)")


@pytest.fixture
def store(tmp_path: Path) -> PlainStore:
    (tmp_path / "secret").write_bytes(SECRET)
    store = PlainStore(tmp_path)
    (store.real / "stray").write_bytes(SECRET)
    (store.real / "stray.drv").write_bytes(SECRET)
    return store


@pytest.fixture
async def site(store: PlainStore) -> AsyncIterator[Site]:
    store.add("site", Folder({b"file": File(b"harmless")}))
    async with store.site() as site:
        yield site


def patterns(store: PlainStore) -> list[str]:
    """Every URL that takes something from the client, with a brace for what it takes."""
    ((path, info), *_) = store.infos.items()
    derivation = f"{'a' * 32}-x.drv"
    return [
        *("/{}", "/{}.narinfo", "/{}.narinfo?json", "/{}.ls", "/nar/{}", "/nar/{}.nar", "/nar/{}.nar.zst"),
        *(
            f"/nar/{info.nar_hash.nix32}.nar?hash={{}}",
            f"/nar/{path}-{{}}.nar",
            "/log/{}",
            "/log/{}.drv",
            f"/log/{path}-{{}}",
        ),
        *("/realisations/{}.doi", "/realisations/{}!out.doi", f"/realisations/sha256:{'0' * 64}!{{}}.doi"),
        *("/build-trace-v2/{}/out.doi", f"/build-trace-v2/{derivation}/{{}}.doi", "/debuginfo/{}", "/path/{}"),
        *(
            "/debuginfo/{}.debug",
            "/serve/{}",
            f"/serve/{path}/{{}}",
            "/search?q={}",
            "/metrics/{}",
            "/nix-cache-info/{}",
        ),
    ]


def assert_reveals_nothing(answer: Answer, store: PlainStore, target: str) -> None:
    text = answer.body + str(answer.headers).encode("utf-8", "surrogateescape")
    for word in (SECRET, b"root:", b"Traceback", b"Error:", b"aiohttp", b"errno", b".py"):
        assert word not in text, (target, word)
    # Pages say what was searched for, and name the store directory that narinfos have as well.
    assert answer.status == 200 or str(store.real.parent).encode() not in text, target


def outside() -> Iterator[str]:
    """What leads out of the store, if anything does."""
    for slash in SLASHES:
        yield f"{slash}etc{slash}passwd"
        for up in (f"{dots}{slash}" for dots in DOTS):
            yield from (f"{up}stray", f"{up * 2}secret", f"{up * 12}etc{slash}passwd")


@pytest.mark.parametrize("part", range(_PARTS))
async def test_no_spelling_of_dots_and_slashes_leads_anywhere(site: Site, store: PlainStore, part: int) -> None:
    for pattern, place in itertools.product(patterns(store)[part::_PARTS], outside()):
        target = pattern.format(place)
        answer = await site.get(target)
        # A search finds nothing of that name; a path before `?` is known already.
        fine = {200, 302} if target.startswith("/search?") else set()
        assert answer.status in {400, 404} | fine, target
        assert_reveals_nothing(answer, store, target)


@pytest.mark.parametrize("markup", MARKUP)
async def test_what_a_client_sends_never_comes_back_as_markup(site: Site, store: PlainStore, markup: str) -> None:
    quoted = markup.replace(" ", "%20").replace("<", "%3c").replace('"', "%22")
    for pattern in patterns(store):
        for sent in (quoted, markup.replace(" ", "+")):
            answer = await site.get(pattern.format(sent))
            assert answer.status in {200, 302, 400, 404}
            assert answer.headers["X-Content-Type-Options"] == "nosniff" or b"<" not in answer.body
            if answer.status >= 400:
                assert answer.body in {b"Not Found\n", b"Bad Request\n"}
            assert_is_no_markup(answer, markup)


NAMES = ("Host", "X_Forwarded_Host", "X_Forwarded_Proto", "X_Forwarded_Prefix", "Referer", "User_Agent", "Forwarded")
VALUES = ("<script>alert(1)</script>", "a'\"><img src=x>", "evil.example/<b>", "a\tb")
HEADERS: tuple[Mapping[str, str], ...] = tuple({name: value} for name in NAMES for value in VALUES)


async def test_what_stands_in_headers_never_comes_back_as_markup(site: Site, store: PlainStore) -> None:
    (path, *_) = store.infos
    for target in ("/", "/search?q=site", f"/path/{path}", f"/serve/{path}/", f"/serve/{path}", "/metrics", "/nothing"):
        for headers in HEADERS:
            answer = await site.request("GET", target, headers)
            assert answer.status in {200, 302, 400, 404}
            for value in headers.values():
                assert_is_no_markup(answer, value)


def assert_is_no_markup(answer: Answer, markup: str) -> None:
    html = "html" in answer.headers["Content-Type"]
    if html or answer.status >= 400:
        assert "<" not in markup or markup.encode() not in answer.body
        # A page has one script, its own.
        assert answer.body.count(b"<script") == (1 if html else 0)
        assert b"<img" not in answer.body
        assert b'href="javascript:' not in answer.body
    assert markup not in str(answer.headers)
    if html:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
