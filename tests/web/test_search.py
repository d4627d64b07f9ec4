from pathlib import Path
from urllib.parse import quote

import pytest
from plain_store import PlainStore
from trees import File

from harmonia_py.web.search import MAX_RESULTS


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


async def test_there_is_an_end_to_the_results(store: PlainStore) -> None:
    for number in range(MAX_RESULTS + 1):
        store.add(f"glibc-{number}", File())
    async with store.site() as site:
        page = (await site.get("/search?q=glibc")).body.decode()
    assert page.count('class="path-link"') == MAX_RESULTS
    assert f"The first {MAX_RESULTS} store paths" in page
