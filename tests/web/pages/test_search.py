import asyncio
import itertools
import re
from html import unescape
from pathlib import Path
from urllib.parse import quote, urljoin

import pytest
from msgspec.structs import replace
from plain_store import PlainStore
from trees import File

from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart
from harmonia_py.web.pages import search
from harmonia_py.web.pages.search import MAX_RESULTS


@pytest.fixture
def store(tmp_path: Path) -> PlainStore:
    return PlainStore(tmp_path)


async def test_paths_are_found_by_name(store: PlainStore) -> None:
    zlib, other = store.add("zlib-1.3", File()), store.add("glibc", File())
    async with store.site() as site:
        page = (await site.get("/search?q=ZLIB")).body.decode()
    assert f'href="./path/{zlib.hash_part}"' in page
    assert other.hash_part not in page
    assert "1 store path<" in page


async def test_paths_are_found_by_the_beginning_of_their_hash(store: PlainStore) -> None:
    zlib = store.add("zlib-1.3", File())
    async with store.site() as site:
        page = (await site.get(f"/search?q={zlib[:5]}")).body.decode()
    assert f'href="./path/{zlib.hash_part}"' in page


async def test_whatever_names_one_path_leads_to_its_page(store: PlainStore) -> None:
    zlib = store.add("zlib-1.3", File())
    full = store.full(zlib).decode()
    async with store.site() as site:
        for query in (zlib.hash_part, zlib, full, f" {full}/lib/libz.so ", f"{zlib.hash_part}.narinfo"):
            answer = await site.get(f"/search?q={quote(query)}")
            assert (answer.status, answer.headers["Location"]) == (302, f"./path/{zlib.hash_part}"), query


async def test_a_hash_that_is_not_here_is_not_found(store: PlainStore) -> None:
    async with store.site() as site:
        answer = await site.get(f"/search?q={'1' * 32}")
    assert answer.status == 200
    assert b"No store path here" in answer.body


@pytest.mark.parametrize("query", ["", "?q=", "?q=%20", "?other=1"])
async def test_an_empty_query_shows_how_to_search(store: PlainStore, query: str) -> None:
    store.add("zlib", File())
    async with store.site() as site:
        answer = await site.get(f"/search{query}")
    assert answer.status == 200
    assert b"zlib" not in answer.body


@pytest.mark.parametrize(
    "query", ['"><script>alert(1)</script>', "'&<", "%00", "%ff%fe", "%0d%0aX:y", "%5cn", "x" * 5000]
)
async def test_what_was_searched_comes_back_escaped(store: PlainStore, query: str) -> None:
    async with store.site() as site:
        answer = await site.get(f"/search?q={quote(query, safe='%')}")
    assert answer.status == 200
    assert b"alert(1)</script>" not in answer.body
    assert answer.body.count(b"<script>") == 1
    assert "X" not in answer.headers


async def test_results_come_in_pages_that_lead_to_each_other(store: PlainStore) -> None:
    """Of more results than one page holds the others could not be seen at all."""
    paths = {store.add(f"glibc-{number}", File()).hash_part for number in range(2 * MAX_RESULTS + 3)}
    seen: list[list[str]] = []
    target = "/search?q=gl%49bc"
    async with store.site() as site:
        while target:
            page = (await site.get(target)).body.decode()
            seen.append(re.findall(r'href="\./path/([^"]+)"', page))
            following = re.search(r'href="([^"]+)" rel="next"', page)
            target = urljoin(target, unescape(following[1])) if following is not None else ""
        assert (await site.get("/search?q=glibc&page=3")).body.count(b'rel="next"') == 0
        for odd in ("0", "-1", "x", "99999999999", "1.5", "%C2%B2", ""):
            answer = await site.get(f"/search?q=glibc&page={odd}")
            assert (answer.status, answer.body.count(b'class="path-link"')) == (200, MAX_RESULTS)
        assert b"None among those" in (await site.get("/search?q=glibc&page=9")).body
    assert [len(page) for page in seen] == [MAX_RESULTS, MAX_RESULTS, 3]
    assert sorted(itertools.chain(*seen)) == sorted(paths)


async def test_results_have_sizes_and_dates(store: PlainStore) -> None:
    path = store.add("zlib", File(b"x" * 5000))
    store.infos[path.hash_part] = replace(store.infos[path.hash_part], registration_time=1_700_000_000)
    store.add("zlib-old", File())
    async with store.site() as site:
        page = (await site.get("/search?q=zlib")).body.decode()
    assert page.count('title="5,112 bytes"') == 1
    assert page.count('datetime="2023-11-14T22:13:20+00:00"') == page.count("<time ") == 1


async def test_a_store_that_is_slow_holds_up_no_results(store: PlainStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_DETAILS_SECONDS", 0.05)
    for number in range(3):
        store.add(f"zlib-{number}", File())

    async def path_info(_hash_part: HashPart) -> PathInfo | None:
        await asyncio.sleep(60)
        return None

    monkeypatch.setattr(store, "path_info", path_info)
    async with store.site() as site, asyncio.timeout(20):
        page = (await site.get("/search?q=zlib")).body.decode()
    assert page.count('class="path-link"') == 3
