import socket
from html import unescape
from pathlib import Path

import pytest
from plain_store import PlainStore, Site
from teams import served_teams
from trees import File

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.caches import Caches
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import StoreDir
from harmonia_py.web.server import serve
from harmonia_py.web.state import Serving

ATTACKS = [
    '"><script>alert(1)</script>',
    "evil.example/path",
    "evil.example?x",
    "user@evil.example",
    "evil.example'; rm -rf ~; '",
    "${builtins.exec}",
    "$(reboot)",
    "a b",
    "évil.example",
    "[::1",
    "x" * 300,
    "host:port",
    "host:123456",
    "..evil",
]


@pytest.fixture
def store(tmp_path: Path) -> PlainStore:
    return PlainStore(tmp_path)


async def home(site: Site, **headers: str) -> str:
    answer = await site.get("/", **headers)
    assert answer.status == 200
    return answer.body.decode()


async def test_the_blocks_have_the_key_and_the_address_that_the_visitor_used(store: PlainStore) -> None:
    keys = [SecretKey.generate("one-1"), SecretKey.generate("two-1")]
    async with store.site(secret_keys=keys) as site:
        page = unescape(await home(site, Host="nix.example:8080"))
    public = [str(key.public_key) for key in keys]
    assert "extra-substituters = http://nix.example:8080\n" in page
    assert f"extra-trusted-public-keys = {public[0]} {public[1]}" in page
    assert f'  trusted-public-keys = [\n    "{public[0]}"\n    "{public[1]}"\n  ];' in page
    assert 'nixConfig = {\n  extra-substituters = [\n    "http://nix.example:8080"\n  ];' in page
    command = f"nix-store --realise {store.store_dir}/… \\\n  --option extra-substituters http://nix.example:8080"
    assert command in page
    # An experimental command, which Nix as it comes refuses.
    assert "nix copy" not in page


@pytest.mark.parametrize(
    ("proto", "scheme"), [("https", "https"), ("HTTP", "http"), ("javascript", "http"), ("https, http", "http")]
)
async def test_the_scheme_is_that_of_the_proxy_when_it_is_one(store: PlainStore, proto: str, scheme: str) -> None:
    async with store.site() as site:
        page = await home(site, Host="nix.example", X_Forwarded_Proto=proto)
    assert f"extra-substituters = {scheme}://nix.example<" in page


@pytest.mark.parametrize("host", ["nix.example", "NIX.example.", "10.0.0.1:5000", "[fe80::1]:5000", "my_cache"])
async def test_any_name_or_address_may_be_the_host(store: PlainStore, host: str) -> None:
    async with store.site() as site:
        assert f"http://{host.lower()}" in await home(site, Host=host)


@pytest.mark.parametrize("host", ATTACKS)
async def test_an_odd_host_is_not_printed(store: PlainStore, host: str) -> None:
    async with store.site(base_url="https://cache.example/") as site:
        answer = await site.raw("GET", f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    # The framework may refuse it before us.
    assert answer.status in (200, 400)
    assert host.encode() not in answer.body
    assert b"alert(1)" not in answer.body
    if answer.status == 200:
        assert b"extra-substituters = https://cache.example<" in answer.body


async def test_without_a_host_the_configured_address_is_printed(store: PlainStore) -> None:
    async with store.site(base_url="https://cache.example/nix/") as site:
        answer = await site.raw("GET", b"GET / HTTP/1.0\r\n\r\n")
    assert b"extra-substituters = https://cache.example/nix<" in answer.body


async def test_a_loopback_host_gives_way_to_the_configured_address(store: PlainStore) -> None:
    async with store.site(base_url="https://cache.example") as site:
        for host in ("localhost:5000", "127.0.0.1", "[::1]:80"):
            assert "https://cache.example" in await home(site, Host=host)
    async with store.site() as site:
        assert "http://localhost:5000" in await home(site, Host="localhost:5000")


async def test_a_cache_without_a_key_says_so(store: PlainStore) -> None:
    async with store.site() as site:
        page = await home(site)
    assert "has no key of its own" in page
    assert "trusted-public-keys" not in page


async def test_a_cache_without_a_store_has_its_pages() -> None:
    store_dir = StoreDir.parse("/nix/store")
    cache = BinaryCache(cache_info=CacheInfo(store_dir, want_mass_query=True, priority=30), sources=[], secret_keys=[])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with serve(
            Serving(Caches(cache)),
            [listener],
            access_log=None,
            shutdown_timeout=1.0,
        ):
            site = Site(listener.getsockname()[1])
            assert "no store to serve" in await home(site)
            assert b"no store to search" in (await site.get("/search?q=a")).body
            assert (await site.get(f"/path/{'1' * 32}")).status == 404


async def test_it_counts_the_store_paths(store: PlainStore) -> None:
    async with store.site() as site:
        store.add("one", File())
        store.add("two", File())
        page = await home(site)
    assert "<dt>Store paths</dt><dd>2</dd>" in page


async def test_it_is_there_when_the_store_cannot_be_asked(store: PlainStore) -> None:
    async with store.site() as site:
        store.real.rmdir()
        assert "<dt>Priority</dt>" in await home(site)


async def test_a_page_is_not_to_be_framed_sniffed_or_kept_by_others(store: PlainStore) -> None:
    async with store.site() as site:
        answer = await site.get("/")
        head = await site.request("HEAD", "/")
        again = await site.get("/", If_None_Match=answer.headers["ETag"])
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert {*head.headers.items()} - {("Date", head.headers["Date"])} == {*answer.headers.items()} - {
        ("Date", answer.headers["Date"])
    }
    assert again.status == 304


async def test_a_mirror_names_the_caches_that_it_mirrors() -> None:
    store_dir = StoreDir.parse("/nix/store")
    cache = BinaryCache(cache_info=CacheInfo(store_dir, want_mass_query=True, priority=30), sources=[], secret_keys=[])
    caches = Caches(cache, upstreams=["cache.nixos.org", "<b>other"])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with serve(Serving(caches), [listener], access_log=None, shutdown_timeout=1.0):
            page = await home(Site(listener.getsockname()[1]))
    assert "<dt>Mirrors</dt><dd>cache.nixos.org, &lt;b&gt;other</dd>" in page
    assert "no store to serve" not in page


async def test_a_mirror_that_does_not_sign_gives_the_keys_of_what_it_mirrors() -> None:
    """The page said that there is no key, so clients that did as it says refused every path."""
    store_dir = StoreDir.parse("/nix/store")
    key, own = SecretKey.generate("up-1"), SecretKey.generate("own-1")
    for keys, told in (([], key), ([own], own)):
        info = CacheInfo(store_dir, want_mass_query=True, priority=30)
        cache = BinaryCache(cache_info=info, sources=[], secret_keys=keys)
        caches = Caches(cache, upstreams=["up"], upstream_keys=[key.public_key])
        with socket.create_server(("127.0.0.1", 0)) as listener:
            async with serve(Serving(caches), [listener], access_log=None, shutdown_timeout=1.0):
                page = unescape(await home(Site(listener.getsockname()[1])))
        assert f"extra-trusted-public-keys = {told.public_key}<" in page
        assert page.count("up-1:") == (0 if keys else page.count(str(told.public_key)))


async def test_a_cache_that_is_not_public_tells_of_netrc(store: PlainStore) -> None:
    """Clients that did as its page says got 401."""
    async with served_teams() as served:
        answer = await served.get("/team/", {"Authorization": "Bearer reader"})
    assert answer.status == 200
    assert b"machine localhost login nix password TOKEN" in answer.body
    assert b"netrc-file" in answer.body
    async with store.site() as site:
        assert "netrc" not in await home(site)


async def test_a_cache_that_mirrors_nothing_does_not_mention_it(store: PlainStore) -> None:
    async with store.site() as site:
        assert "Mirrors" not in await home(site)
