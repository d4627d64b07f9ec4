"""Requests to `/serve` that are made to leave a store path, to write into a page, or to write headers."""

import itertools
import random
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
from plain_store import Answer, PlainStore
from trees import File, Folder, Link

SECRET = b"the secret of this machine"

# Every way to write `..`, a slash and a backslash that some server once took for one.
DOTS = [
    "..",
    "%2e%2e",
    "%2E.",
    ".%2e",
    "%252e%252e",
    "%c0%ae%c0%ae",
    "%uff0e%uff0e",
    "..%00",
    "..;",
    "...",
    "....//",
    "%2e%2e%20",
]
SLASHES = ["/", "%2f", "%2F", "%252f", "%5c", "\\", "%c0%af", "//", "/./", "%2f%2f", "%00/"]


@pytest.fixture
def store(tmp_path: Path) -> PlainStore:
    (tmp_path / "secret").write_bytes(SECRET)
    store = PlainStore(tmp_path)
    (store.real / "stray").write_bytes(SECRET)
    return store


def reveals(answer: Answer, store: PlainStore) -> bool:
    text = answer.body + str(answer.headers).encode("utf-8", "surrogateescape")
    return SECRET in text or b"root:" in text or str(store.real.parent).encode() in text or b"Traceback" in text


async def test_no_spelling_of_dots_and_slashes_leaves_a_store_path(store: PlainStore) -> None:
    path = store.add("site", Folder({b"dir": Folder({b"file": File(b"harmless")})}))
    base = f"/serve/{path.hash_part}"
    async with store.site() as site:
        for dots, slash in itertools.product(DOTS, SLASHES):
            up = f"{dots}{slash}"
            for target in (
                f"{base}/{up}stray",
                f"{base}/{up * 2}secret",
                f"{base}/dir/{up * 3}secret",
                f"{base}{slash}{up * 12}etc{slash}passwd",
                f"/serve/{up * 12}etc/passwd",
            ):
                answer = await site.get(target)
                assert answer.status in (400, 404), target
                assert not reveals(answer, store), target


PLACES = (
    *("/etc/passwd", "//etc/passwd", "%2fetc%2fpasswd", "dir%2ffile", "dir%5cfile", "dir\\file"),
    *("dir/file%00", "dir/file%00.txt", "dir/fil%65%00", "dir/./file", "dir/%2e/file", "dir//file", "./dir/file"),
    *("dir/file/", "dir/file/.", "dir/../dir/file", "~root", "%zz", "%", "%" * 100, "dir/file;x", "dir/file%3fx"),
    *("d*r/file", "DIR/FILE", "file:///etc/passwd", "a/" * 3000),
)


@pytest.mark.parametrize("place", PLACES, ids=range(len(PLACES)))
async def test_only_the_name_itself_names_a_file(store: PlainStore, place: str) -> None:
    path = store.add("site", Folder({b"dir": Folder({b"file": File(b"harmless")})}))
    async with store.site() as site:
        answer = await site.get(f"/serve/{path.hash_part}/{place}")
        assert answer.status in (400, 404)
        assert not reveals(answer, store)
        assert (await site.get(f"/serve/{path.hash_part}/d%69r/fil%65?query#")).body == b"harmless"


async def test_a_request_line_of_the_absolute_form_is_the_same_file(store: PlainStore) -> None:
    path = store.add("site", Folder({b"file": File(b"harmless")}))
    async with store.site() as site:
        assert (await site.get(f"http://other.example/serve/{path.hash_part}/file")).body == b"harmless"
        for target in (
            f"http://other.example/serve/{path.hash_part}/../stray",
            f"http://other.example/../serve/{path.hash_part}/%2e%2e/stray",
            f"//serve/{path.hash_part}/file",
            f"http://other.example//serve/{path.hash_part}/file",
        ):
            answer = await site.get(target)
            assert answer.status in (400, 404), target
            assert not reveals(answer, store)


EVIL = [
    b'"><script>alert(1)<\\script>',
    b"'><img src=x onerror=alert(1)>",
    b"<script>alert(1)<\\script>",
    b"javascript:alert(1)",
    b"JaVaScRiPt:alert(1)",
    b"data:text;html,<script>alert(1)<\\script>",
    b"&lt;script&gt;",
    b"{{ 7 * 7 }}{% raw %}",
    b"\r\nSet-Cookie: evil=1\r\n\r\n<script>",
    b"\x01\x1b[31m",
    b"\xff<script>\xfe",
    "\u202egpj.exe".encode(),
    b"<title><script>",
    b"<style><script>",
    b"\\\\evil.example",
    b" ",
    b"%2e%2e%2f",
    b"%0d%0aSet-Cookie: a",
    b"?q=1#frag",
    b"https:evil.example",
]


async def test_names_do_not_become_markup(store: PlainStore) -> None:
    entries = {name: Folder({b"inner": File()}) for name in EVIL}
    links = {b"l%d" % number: Link(name) for number, name in enumerate(EVIL)}
    path = store.add("evil", Folder({**entries, **links}))
    base = f"/serve/{path.hash_part}/"
    async with store.site() as site:
        page = await site.get(base)
        pages = [page] + [await site.get(f"{base}{_encoded(name)}/") for name in EVIL]
    for answer in pages:
        assert answer.status == 200
        assert b"inner" in answer.body or answer is page
        # The page has a script of its own, and nothing that a name brought along.
        assert answer.body.count(b"<script") == 1
        assert answer.body.lower().count(b"<img") == 0
        assert b'href="javascript:' not in answer.body.lower()
        assert b'href="data:text' not in answer.body.lower()
        assert b"\x1b" not in answer.body
        assert "\u202e".encode() not in answer.body
        assert "Set-Cookie" not in answer.headers
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


async def test_names_are_no_templates(store: PlainStore) -> None:
    path = store.add("evil", Folder({b"{{ 7 * 7 }}": Folder({b"{% raw %}": File()})}))
    async with store.site() as site:
        page = await site.get(f"/serve/{path.hash_part}/%7b%7b%207%20*%207%20%7d%7d/")
    assert page.body.count(b"{{ 7 * 7 }}") >= 2
    assert b">{% raw %}<" in page.body


async def test_redirects_stay_on_this_host_and_in_one_header(store: PlainStore) -> None:
    path = store.add("evil", Folder({name: Folder({}) for name in [*EVIL, b"\\evil.example", b"@evil.example"]}))
    async with store.site() as site:
        for name in (*EVIL, b"\\evil.example", b"@evil.example"):
            target = f"/serve/{path.hash_part}/{_encoded(name)}"
            for headers in (
                {},
                {"Host": "evil.example"},
                {"X_Forwarded_Host": "evil.example", "X_Forwarded_Prefix": "//evil"},
            ):
                answer = await site.get(target, **headers)
                assert answer.status == 302, name
                location = answer.headers["Location"]
                assert location.isascii()
                assert location.isprintable()
                assert location.endswith("/")
                assert location.count("/") == 1
                split = urlsplit(urljoin(f"http://cache.example{target}", location))
                assert (split.scheme, split.netloc, split.query, split.fragment) == ("http", "cache.example", "", "")
                assert split.path.startswith(f"/serve/{path.hash_part}/")
                assert "Set-Cookie" not in answer.headers


async def test_a_host_header_does_not_become_markup(store: PlainStore) -> None:
    path = store.add("evil", Folder({b"a": File()}))
    attacks = ['"><script>alert(1)</script>', "evil.example/<script>", "a'onload='x", "javascript:x", "\xff", "a b"]
    async with store.site() as site:
        for attack in attacks:
            for headers in ({"Host": attack}, {"X_Forwarded_Host": attack}, {"X_Forwarded_Proto": attack}):
                answer = await site.get(f"/serve/{path.hash_part}/", **headers)
                assert answer.status in (200, 400)
                if answer.status == 200:
                    assert answer.body.count(b"<script") == 1
                    assert attack.encode("latin-1") not in answer.body


async def test_no_answer_names_a_place_on_the_machine(store: PlainStore) -> None:
    path = store.add("site", Folder({b"d": Folder({b"f": File(b"f")}), b"l": Link(b"/etc/passwd")}))
    gone = store.add("gone", Folder({}))
    (store.real / gone).rmdir()
    async with store.site() as site:
        for target in (
            "",
            "/",
            "/d",
            "/d/",
            "/d/f",
            "/l",
            "/none",
            "/d/f/g",
            "/..",
            f"/{'x' * 300}",
            f"/{'x/' * 2000}",
        ):
            for hash_part in (path.hash_part, gone.hash_part, "0" * 32):
                answer = await site.get(f"/serve/{hash_part}{target}")
                assert answer.status in (200, 302, 404), target
                assert not reveals(answer, store), target


async def test_methods_that_write_are_refused(store: PlainStore) -> None:
    path = store.add("site", Folder({b"f": File(b"f")}))
    async with store.site() as site:
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"):
            answer = await site.request(method, f"/serve/{path.hash_part}/f")
            assert answer.status == 405
            assert set(answer.headers["Allow"].split(",")) == {"GET", "HEAD"}


async def test_files_of_the_store_can_be_framed_and_read_by_no_other_site(store: PlainStore) -> None:
    path = store.add("site", Folder({b"f.html": File(b"<p>")}))
    async with store.site() as site:
        answer = await site.get(f"/serve/{path.hash_part}/f.html", Origin="https://evil.example")
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


def _encoded(name: bytes) -> str:
    return "".join(f"%{byte:02x}" for byte in name)


async def test_no_target_made_of_pieces_of_attacks_is_answered_with_more_than_a_refusal(store: PlainStore) -> None:
    path = store.add("site", Folder({b"dir": Folder({b"file": File(b"harmless")}), b"up": Link(b"../../secret")}))
    names = ["dir", "file", "up", "secret", "stray", str(path), path.hash_part]
    pieces = [*DOTS, *SLASHES, *names, "?", "#", "%", "\xff"]
    generator = random.Random(1)
    statuses = set()
    async with store.site() as site:
        for _ in range(1000):
            target = "".join(generator.choices(pieces, k=generator.randint(1, 12)))
            answer = await site.get(f"/serve/{path.hash_part}/{target}".encode("latin-1"))
            statuses.add(answer.status)
            assert not reveals(answer, store), target
    assert statuses <= {200, 302, 400, 404}
    assert 404 in statuses
