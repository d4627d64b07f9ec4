import json
from html import unescape
from pathlib import Path

import pytest
from plain_store import PlainStore, Site
from trees import File, Folder, Link

from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import StorePath
from harmonia_py.web.pages.directory import read_contents
from harmonia_py.web.pages.path import MAX_SHOWN


@pytest.fixture
def store(tmp_path: Path) -> PlainStore:
    return PlainStore(tmp_path)


async def page_of(site: Site, path: StorePath) -> str:
    answer = await site.get(f"/path/{path.hash_part}")
    assert answer.status == 200
    return answer.body.decode()


async def test_it_says_what_there_is_to_know(store: PlainStore) -> None:
    derivation = store.add("hello.drv", File(b"Derive()"))
    library = store.add("libc", File(b"x" * 2000))
    hello = store.add(
        "hello", Folder({b"bin": Folder({b"hello": File(b"#!", True)})}), references=(library,), deriver=derivation
    )
    user = store.add("user", File(), references=(hello,))
    key = SecretKey.generate("cache-1")
    async with store.site(secret_keys=[key]) as site:
        page = unescape(await page_of(site, hello))
    info = store.infos[hello.hash_part]
    closure = info.nar_size + store.infos[library.hash_part].nar_size
    assert store.full(hello).decode() in page
    assert f"nix-store --realise {store.full(hello).decode()} \\\n  --option extra-substituters http://" in page
    assert f"--option extra-trusted-public-keys {key.public_key}<" in page
    assert "nix copy" not in page, "an experimental command, which Nix as it comes refuses"
    assert f'title="{info.nar_size:,} bytes"' in page
    assert f'title="{closure:,} bytes"' in page
    assert "<dt>Paths in the closure</dt><dd>2</dd>" in page
    assert str(info.nar_hash) in page
    assert all(f'href="../path/{path.hash_part}"' in page for path in (derivation, library, user))
    assert '<code>cache-1</code> <span class="tag">this cache</span>' in page
    assert f'href="../serve/{hello.hash_part}/bin/hello"' in page
    assert f'href="../{hello.hash_part}.narinfo"' in page
    assert f'href="../{hello.hash_part}.ls"' in page
    assert f'href="../nar/{info.nar_hash.nix32}.nar?hash={hello.hash_part}"' in page


async def test_its_links_lead_somewhere(store: PlainStore) -> None:
    path = store.add("site", Folder({b"a b?#%.txt": File(b"found"), b"d": Folder({b"e": File(b"too")})}))
    async with store.site() as site:
        page = unescape(await page_of(site, path))
        for href, body in (("a%20b%3F%23%25.txt", b"found"), ("d/e", b"too")):
            target = f"/serve/{path.hash_part}/{href}"
            assert f'href="..{target}"' in page
            assert (await site.get(target)).body == body


async def test_names_of_files_are_escaped(store: PlainStore) -> None:
    hostile = b"<img src=x onerror=alert(1)>\"'&"
    path = store.add("evil", Folder({hostile: File(), b"link": Link(b"<script>alert(2)"), b"\xff\n": File()}))
    async with store.site() as site:
        page = await page_of(site, path)
    assert "<img" not in page
    assert page.count("<script>") == 1
    assert "\\xff" in page


async def test_a_deriver_that_is_not_here_is_no_link(store: PlainStore) -> None:
    gone = StorePath.parse(f"{'1' * 32}-gone.drv")
    path = store.add("orphan", File(), deriver=gone)
    async with store.site() as site:
        page = await page_of(site, path)
    assert f"path/{gone.hash_part}" not in page
    assert "not here" in page


async def test_the_log_is_linked_when_there_is_one(store: PlainStore) -> None:
    derivation = StorePath.parse(f"{'1' * 32}-built.drv")
    path = store.add("built", File(), deriver=derivation)
    async with store.site() as site:
        assert "Build log" not in await page_of(site, path)
        log = store.real / "log" / "drvs" / derivation[:2] / derivation[2:]
        log.parent.mkdir(parents=True)
        log.write_text("it was built")
        assert f'href="../log/{derivation}"' in await page_of(site, path)
        assert (await site.get(f"/log/{derivation}")).body == b"it was built"


@pytest.mark.parametrize("tree", [File(), File(b"x", True), Link(b"/dangling"), Folder({})])
async def test_any_kind_of_path_has_a_page(store: PlainStore, tree: File | Link | Folder) -> None:
    path = store.add("thing", tree)
    async with store.site(show_files=False) as site:
        page = await page_of(site, path)
    assert "/serve/" not in page
    assert "nobody" in page


async def test_what_everything_refers_to_shows_some(store: PlainStore) -> None:
    libc = store.add("libc", File())
    for number in range(MAX_SHOWN + 5):
        store.add(f"user-{number}", File(), references=(libc,))
    async with store.site() as site:
        page = await page_of(site, libc)
    assert page.count('class="path-link"') == MAX_SHOWN
    assert "and 5 more" in page


async def test_what_is_not_a_valid_path_has_no_page(store: PlainStore) -> None:
    invalid = store.add("invalid", File(), valid=False)
    async with store.site() as site:
        for target in (invalid.hash_part, "1" * 32, "short", "E" * 32, "%2e%2e", f"{invalid}"):
            answer = await site.get(f"/path/{target}")
            assert (answer.status, answer.body) == (404, b"Not Found\n"), target


def listing(entries: dict[str, object]) -> bytes:
    return json.dumps({"version": 1, "root": {"type": "directory", "entries": entries}}).encode()


def test_a_directory_is_as_large_as_what_is_in_it() -> None:
    file = {"type": "regular", "size": 10, "narOffset": 0}
    root = read_contents(listing({"d": {"type": "directory", "entries": {"a": file, "b": file}}, "c": file}))
    assert (root.size, root.files) == (30, 3)
    assert [(child.name, child.size, child.files) for child in root.children] == [("d", 20, 2), ("c", 10, 1)]


def test_a_large_tree_is_cut_deep_down_first_and_says_what_is_missing() -> None:
    file = {"type": "regular", "size": 1, "narOffset": 0}
    files = {f"file-{number}": file for number in range(50)}
    root = read_contents(
        listing({name: {"type": "directory", "entries": files} for name in "abc"}), max_rows=60, max_entries=40
    )
    assert [child.name for child in root.children] == ["a", "b", "c"]
    assert [(len(child.children), child.hidden) for child in root.children] == [(40, 10), (17, 33), (0, 50)]
    assert root.size == 150


def test_a_name_that_may_stand_for_other_bytes_is_no_link() -> None:
    root = read_contents(listing({"\\xff": {"type": "regular", "size": 1, "narOffset": 0}}))
    assert root.children[0].href is None
