import asyncio
import random
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes, urljoin

import pytest
from plain_store import PlainStore
from trees import File, Folder, Link

PAGE = File(b"<h1>A site</h1>")
SITE = Folder(
    {
        b"index.html": PAGE,
        b"style.css": File(b"h1 { color: red }"),
        b"plain": Folder({b"b.txt": File(b"second"), b"a.txt": File(b"first"), b"run": File(b"#!/bin/sh", True)}),
        b"empty": Folder({}),
        b"to-plain": Link(b"plain"),
        b"to-a": Link(b"plain/a.txt"),
        b"dangling": Link(b"nowhere"),
    }
)


class Links(HTMLParser):
    """The `href` of every link, and all of the text."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.hrefs: list[str] = []
        self.texts: list[str] = []
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hrefs += [value for name, value in attrs if tag == "a" and name == "href" and value is not None]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture
def store(tmp_path: Path) -> PlainStore:
    return PlainStore(tmp_path)


async def test_a_file_comes_with_its_type_and_validators(store: PlainStore) -> None:
    path = store.add("site", SITE)
    async with store.site() as site:
        answer = await site.get(f"/serve/{path.hash_part}/style.css")
    assert (answer.status, answer.body) == (200, b"h1 { color: red }")
    assert answer.headers["Content-Type"] == "text/css; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Length"] == "17"
    assert answer.headers["ETag"].startswith('"')


async def test_no_file_may_run_scripts_or_act_in_the_name_of_the_cache(store: PlainStore) -> None:
    path = store.add("site", SITE)
    async with store.site() as site:
        for place in ("", "index.html", "plain/a.txt"):
            policy = (await site.get(f"/serve/{path.hash_part}/{place}")).headers["Content-Security-Policy"]
            directives = [directive.split() for directive in policy.split(";")]
            assert ["default-src", "'none'"] in directives
            assert ["form-action", "'none'"] in directives
            assert not any(directive[0].startswith("script") for directive in directives)
            sandbox = next(directive for directive in directives if directive[0] == "sandbox")
            assert not {"allow-scripts", "allow-same-origin", "allow-forms"} & set(sandbox)


async def test_head_has_the_headers_of_get(store: PlainStore) -> None:
    path = store.add("site", SITE)
    async with store.site() as site:
        for target in ("", "/", "/plain", "/plain/", "/plain/a.txt", "/nothing"):
            got = await site.get(f"/serve/{path.hash_part}{target}")
            head = await site.request("HEAD", f"/serve/{path.hash_part}{target}")
            assert head.body == b""
            assert head.status == got.status
            assert set(head.headers.items()) - {("Date", head.headers["Date"])} == set(got.headers.items()) - {
                ("Date", got.headers["Date"])
            }


async def test_ranges_and_conditions_work_on_files(store: PlainStore) -> None:
    path = store.add("big", File(bytes(range(256)) * 1024))
    target = f"/serve/{path.hash_part}"
    async with store.site() as site:
        whole = await site.get(target)
        part = await site.get(target, Range="bytes=1000-1003")
        tail = await site.get(target, Range="bytes=-100000")
        beyond = await site.get(target, Range="bytes=999999-")
        other = await site.get(target, Range="bytes=0-1", If_Range='"other"')
        known = await site.get(target, If_None_Match=whole.headers["ETag"])
    assert whole.body == bytes(range(256)) * 1024
    assert (part.status, part.body, part.headers["Content-Range"]) == (
        206,
        b"\xe8\xe9\xea\xeb",
        "bytes 1000-1003/262144",
    )
    assert (tail.status, tail.body) == (206, whole.body[-100000:])
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, "bytes */262144")
    assert (other.status, other.body) == (200, whole.body)
    assert (known.status, known.body) == (304, b"")


async def test_an_etag_is_that_of_the_file_wherever_a_link_to_it_stands(store: PlainStore) -> None:
    path = store.add("site", SITE)
    async with store.site() as site:
        a = await site.get(f"/serve/{path.hash_part}/plain/a.txt")
        link = await site.get(f"/serve/{path.hash_part}/to-a")
        b = await site.get(f"/serve/{path.hash_part}/plain/b.txt")
    assert a.headers["ETag"] == link.headers["ETag"] != b.headers["ETag"]
    assert link.body == b"first"


@pytest.mark.parametrize("place", ["", "/plain", "/to-plain"])
async def test_a_directory_without_a_slash_redirects_to_one_with_it(store: PlainStore, place: str) -> None:
    path = store.add("site", SITE)
    target = f"/serve/{path.hash_part}{place}"
    async with store.site() as site:
        answer = await site.get(target)
        assert answer.status == 302
        assert urljoin(f"http://cache.example{target}", answer.headers["Location"]) == f"http://cache.example{target}/"
        assert (await site.get(f"{target}/")).status == 200


async def test_a_directory_is_its_index_if_there_is_one(store: PlainStore) -> None:
    path = store.add("site", SITE)
    async with store.site() as site:
        answer = await site.get(f"/serve/{path.hash_part}/")
    assert answer.body == PAGE.contents
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"


async def test_an_index_may_be_a_link_and_a_directory_of_that_name_is_none(store: PlainStore) -> None:
    linked = store.add("linked", Folder({b"index.html": Link(b"home"), b"home": PAGE}))
    nested = store.add("nested", Folder({b"index.html": Folder({})}))
    async with store.site() as site:
        answer = await site.get(f"/serve/{linked.hash_part}/")
        listing = await site.get(f"/serve/{nested.hash_part}/")
    assert answer.body == PAGE.contents
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "index.html/" in Links(listing.body).hrefs


async def test_a_directory_without_an_index_is_a_sorted_list_of_links_that_work(store: PlainStore) -> None:
    path = store.add("tree", Folder({b"sub": SITE, b"z": File(), b"B": File(), b"a": File()}))
    target = f"/serve/{path.hash_part}/"
    async with store.site() as site:
        top = Links((await site.get(target)).body)
        inner = await site.get(f"{target}sub/plain/")
        entries = [
            href for href in top.hrefs if "/" not in href.rstrip("/") and href.rstrip("/") not in ("", ".", "..")
        ]
        # Bytes decide the order, as in a NAR.
        assert [entry for entry in entries if not entry.startswith("#")] == ["B", "a", "sub/", "z"]
        for href in ("sub/", "z"):
            assert (await site.get(urljoin(target, href))).status == 200
        parent = urljoin(f"{target}sub/plain/", "../")
        assert "../" in Links(inner.body).hrefs
        assert (await site.get(parent)).body == PAGE.contents
    assert "../" not in top.hrefs
    for text in ("a.txt", "b.txt", "run", "executable", "5 bytes"):
        assert any(text in found for found in Links(inner.body).texts)


async def test_a_store_path_that_is_a_file_is_that_file(store: PlainStore) -> None:
    path = store.add("notes.txt", File(b"notes"))
    async with store.site() as site:
        answer = await site.get(f"/serve/{path.hash_part}")
        assert (answer.status, answer.body) == (200, b"notes")
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        slash = await site.get(f"/serve/{path.hash_part}/")
        assert (slash.status, slash.headers["Location"]) == (302, f"../{path.hash_part}")
        spelt = "".join(f"%{ord(character):02x}" for character in path.hash_part)
        assert (await site.get(f"/serve/{spelt}")).body == b"notes"


async def test_a_file_is_no_directory(store: PlainStore) -> None:
    path = store.add("site", SITE)
    async with store.site() as site:
        for place in ("index.html/", "index.html/x", "to-a/", "dangling", "dangling/", "nothing", "plain//a.txt", "//"):
            assert (await site.get(f"/serve/{path.hash_part}/{place}")).status == 404, place


async def test_only_valid_paths_are_shown(store: PlainStore) -> None:
    path = store.add("hidden", SITE, valid=False)
    async with store.site() as site:
        for target in (path.hash_part, f"{path.hash_part}/", path, "0" * 32, "x", "", f"{'e' * 32}/"):
            assert (await site.get(f"/serve/{target}")).status == 404, target


async def test_what_is_malformed_never_reaches_the_store(store: PlainStore) -> None:
    async with store.site() as site:
        for target in ("x/", "e" * 32, "0" * 31, "%30" * 33, "0" * 33):
            await site.get(f"/serve/{target}")
    assert store.asked == []


async def test_names_of_any_bytes_are_listed_and_found(store: PlainStore) -> None:
    names = [b"\xff\xfe", "ä ö".encode(), b"50%", b"a?b#c", b"a:b", b"\\", b"new\nline", b"a&b;c", b"'", b'"', b"+"]
    path = store.add("odd", Folder({name: File(name) for name in names} | {b"d\xe9": Folder({b"x": File(b"in")})}))
    target = f"/serve/{path.hash_part}/"
    async with store.site() as site:
        links = Links((await site.get(target)).body)
        bodies = {
            unquote_to_bytes(href): (await site.get(urljoin(target, href))).body
            for href in links.hrefs
            if unquote_to_bytes(href) in names
        }
        assert bodies == {name: name for name in names}
        redirect = await site.get(f"{target}d%e9")
        assert (redirect.status, redirect.headers["Location"]) == (302, "d%E9/")
        assert (await site.get(f"{target}d%E9/x")).body == b"in"


async def test_only_a_name_decides_the_type(store: PlainStore) -> None:
    types = {
        b"a.HTML": "text/html; charset=utf-8",
        b"a.svg": "image/svg+xml",
        b"a.js": "text/javascript; charset=utf-8",
        b"a.tar.gz": "application/gzip",
        b"a.woff2": "font/woff2",
        b".html": "application/octet-stream",
        b"html": "application/octet-stream",
        b"data:text,a": "application/octet-stream",
        b"a.\xff": "application/octet-stream",
    }
    path = store.add("types", Folder({name: File(b"<script>alert(1)</script>") for name in types}))
    async with store.site() as site:
        for name, content_type in types.items():
            encoded = "".join(f"%{byte:02x}" for byte in name)
            answer = await site.get(f"/serve/{path.hash_part}/{encoded}")
            assert answer.headers["Content-Type"] == content_type, name
            assert "Content-Encoding" not in answer.headers


async def test_a_huge_directory_is_cut_and_says_so(store: PlainStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harmonia_py.store.files.walk.MAX_ENTRIES", 10)
    path = store.add("many", Folder({b"f%04d" % number: File() for number in range(1200)}))
    async with store.site() as site:
        page = Links((await site.get(f"/serve/{path.hash_part}/")).body)
    assert sum(href.startswith("f0") for href in page.hrefs) == 10
    assert any("1,190 more" in text for text in page.texts)


async def test_it_can_be_switched_off(store: PlainStore) -> None:
    path = store.add("site", SITE)
    async with store.site(show_files=False) as site:
        for place in ("", "/", "/index.html"):
            assert (await site.get(f"/serve/{path.hash_part}{place}")).status == 404


async def test_a_file_that_is_deleted_while_it_is_sent_arrives_whole(store: PlainStore) -> None:
    size = 40_000_000  # more than sockets hold
    path = store.add("big", Folder({b"f": File(b"x" * size)}))
    async with store.site() as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(f"GET /serve/{path.hash_part}/f HTTP/1.1\r\nHost: c\r\nConnection: close\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        (store.real / path / "f").unlink()
        body = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert body == b"x" * size


async def test_clients_that_leave_midway_leave_no_open_files(store: PlainStore) -> None:
    path = store.add("big", Folder({b"f": File(b"x" * 4_000_000)}))
    request = f"GET /serve/{path.hash_part}/f HTTP/1.1\r\nHost: c\r\n\r\n".encode()
    async with store.site() as site:
        await site.get(f"/serve/{path.hash_part}/f")

        def opened() -> int:
            return sum(path in link for link in map(_target, Path("/proc/self/fd").iterdir()))

        for _ in range(100):
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            writer.write(request)
            if random.random() < 0.5:
                await reader.readexactly(10)
            writer.transport.abort()
        async with asyncio.timeout(20):
            while opened():  # noqa: ASYNC110  # the kernel has no event for it
                await asyncio.sleep(0.01)


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""
