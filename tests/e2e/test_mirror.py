"""One cache in front of others: real upstreams, the real server, stock Nix clients."""

import json
import time
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from lab import Keys, Lab
from nginx import Nginx
from realising import assert_has_the_closure, realise
from server import Server, settings_of

from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import StorePath


def mirror_settings(lab: Lab, upstream_url: str, upstream_key: str, *keys: Keys, **mirror: Any) -> dict[str, Any]:
    """A server without a store of its own, in front of one upstream."""
    return settings_of(lab, *keys) | {
        "daemon_socket": str(lab.root / "nowhere.socket"),
        "real_nix_store": str(lab.root / "nowhere" / "store"),
        "upstream": [{"url": upstream_url, "name": "up", "public_keys": [upstream_key]}],
        "mirror": mirror,
    }


def narinfo_of(server: Server, lab: Lab, store_path: StorePath) -> tuple[NarInfo, str]:
    answer = server.get(f"/{store_path.hash_part}.narinfo")
    assert answer.status == 200
    return NarInfo.parse(answer.body, lab.store_dir), answer.headers["X-Harmonia-Source"]


def until_kept(server: Server, lab: Lab, store_path: StorePath) -> NarInfo:
    """The narinfo once the NAR is kept, which is soon after its last byte left."""
    deadline = time.monotonic() + 30
    while True:
        narinfo, source = narinfo_of(server, lab, store_path)
        if source == "kept":
            return narinfo
        assert time.monotonic() < deadline, source
        time.sleep(0.05)


@pytest.fixture
def upstream_key(lab: Lab) -> Keys:
    return lab.secret_key("upstream-1")


@pytest.fixture
def our_key(lab: Lab) -> Keys:
    return lab.secret_key("ours-1")


MakeCache = Callable[..., Path]


@pytest.fixture
def make_cache(lab: Lab, upstream_key: Keys, tmp_path: Path) -> MakeCache:
    """A `file://` cache with the small closure."""

    def make(compression: str = "xz") -> Path:
        directory = tmp_path / f"cache-{compression}"
        url = f"file://{directory}?compression={compression}&secret-key={upstream_key.secret_file}&write-nar-listing=1"
        lab.nix("copy", "--to", url, lab.full(lab.closure.top))
        return directory

    return make


@pytest.fixture(
    params=["xz", "zstd", pytest.param("none", marks=pytest.mark.slow), pytest.param("bzip2", marks=pytest.mark.slow)]
)
def nginx(request: pytest.FixtureRequest, make_cache: MakeCache, tmp_path: Path) -> Iterator[Nginx]:
    with Nginx(tmp_path, make_cache(request.param)) as upstream:
        yield upstream


def test_a_closure_comes_through_and_the_second_time_without_the_upstream(
    lab: Lab, nginx: Nginx, upstream_key: Keys, our_key: Keys, tmp_path: Path
) -> None:
    top = lab.full(lab.closure.top)
    settings = mirror_settings(lab, nginx.url, upstream_key.public, our_key)
    with Server(tmp_path, lab.env, settings) as server:
        first = lab.client("first")
        realise(first, server.url, upstream_key.public, top)
        assert_has_the_closure(first, lab)
        for store_path in (lab.closure.top, lab.closure.input2, lab.closure.input0):
            info = until_kept(server, lab, store_path).path_info
            message = info.fingerprint(lab.store_dir)
            for key in (upstream_key, our_key):
                assert any(PublicKey.parse(key.public).verify(message, one) for one in info.signatures)
        asked = nginx.requests()
        assert len([line for line in asked if "/nar/" in line]) == 3
        assert not [line for line in asked if not line.startswith("GET ")]
        nginx.stop()
        second = lab.client("second")
        realise(second, server.url, our_key.public, top)
        assert_has_the_closure(second, lab)
    # Started anew, it has nothing but its disk.
    with Server(tmp_path, lab.env, settings) as server:
        third = lab.client("third")
        realise(third, server.url, our_key.public, top)
        assert_has_the_closure(third, lab)
    assert nginx.requests() == asked


def content_addressed(lab: Lab, root: Path) -> list[str]:
    """A path of every kind that Nix 2.8 makes, as full paths."""
    (root / "file").write_bytes(b"hello" * 10_000)
    (root / "tree").mkdir()
    (root / "tree" / "program").write_bytes(b"#!/bin/sh\n")
    (root / "tree" / "program").chmod(0o755)
    added = [
        lab.nix_store("--add-fixed", *recursive, algorithm, str(root / name)).strip()
        for recursive, name in (((), "file"), (("--recursive",), "tree"))
        for algorithm in ("md5", "sha1", "sha256", "sha512")
    ]
    expression = 'builtins.toFile "b" "see ${builtins.toFile "a" "hello"}"'
    text: str = json.loads(lab.nix("eval", "--impure", "--json", "--expr", expression))
    return [*added, text, lab.full(lab.build_ca().top)]


def test_what_nobody_has_signed_comes_through_when_its_contents_prove_it(
    lab: Lab, upstream_key: Keys, our_key: Keys, tmp_path: Path
) -> None:
    paths = content_addressed(lab, tmp_path)
    directory = tmp_path / "cache"
    lab.nix("copy", "--to", f"file://{directory}?compression=xz", *paths)
    with Nginx(tmp_path, directory) as nginx:
        settings = mirror_settings(lab, nginx.url, upstream_key.public, our_key)
        with Server(tmp_path, lab.env, settings) as server:
            for name in ("first", "second"):
                client = lab.client(name)
                for path in paths:
                    realise(client, server.url, "", path)
                    store_path = lab.store_dir.parse_path(path)
                    assert client.run("nix-store", "--dump", str(client.real(store_path))).stdout == lab.dump(
                        store_path
                    )
                    info = until_kept(server, lab, store_path).path_info
                    # Ours is where the NarHash follows from the path, and so from nothing that an upstream says.
                    follows = info.ca is not None and str(info.ca) == f"fixed:r:{info.nar_hash}"
                    assert bool(info.signatures) == (follows and store_path not in info.references)
                client.nix_store("--verify", "--check-contents")
                nginx.stop()


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_another_instance_of_this_daemon_is_an_upstream(
    daemon: Lab, our_key: Keys, upstream_key: Keys, tmp_path: Path, compression: str
) -> None:
    """Its URLs have a query where nothing is compressed, and no FileHash before a NAR was compressed."""
    (tmp_path / "far").mkdir()
    far_settings = settings_of(daemon, upstream_key) | {"compression": compression}
    with Server(tmp_path / "far", daemon.env, far_settings) as far:
        settings = mirror_settings(daemon, far.url, upstream_key.public, our_key)
        with Server(tmp_path, daemon.env, settings) as server:
            realise(daemon.client("first"), server.url, our_key.public, daemon.full(daemon.closure.top))
            for store_path in (daemon.closure.top, daemon.closure.input2, daemon.closure.input0):
                until_kept(server, daemon, store_path)
            listing, log = f"/{daemon.closure.top.hash_part}.ls", f"/log/{daemon.closure.derivation}"
            expected = [far.get(path).body for path in (listing, log)]
            assert [server.get(path).body for path in (listing, log)] == expected
            far.stop()
            client = daemon.client("second")
            realise(client, server.url, our_key.public, daemon.full(daemon.closure.top))
            assert_has_the_closure(client, daemon)
            assert [server.get(path).body for path in (listing, log)] == expected


@pytest.mark.parametrize("url", ["{nginx}/{path}", "{path}?hash=abc&token=%2Fx%3D"])
def test_absolute_urls_queries_and_missing_file_hashes_are_no_obstacle(
    lab: Lab, make_cache: MakeCache, upstream_key: Keys, our_key: Keys, *, tmp_path: Path, url: str
) -> None:
    cache = make_cache("xz")
    with Nginx(tmp_path, cache) as nginx:
        for file in cache.glob("*.narinfo"):
            lines = [line for line in file.read_text().splitlines() if not line.startswith("File")]
            path = next(line.removeprefix("URL: ") for line in lines if line.startswith("URL: "))
            changed = [
                f"URL: {url.format(nginx=nginx.url, path=path)}" if line.startswith("URL: ") else line for line in lines
            ]
            file.write_text("\n".join([*changed, ""]))
        with Server(tmp_path, lab.env, mirror_settings(lab, nginx.url, upstream_key.public, our_key)) as server:
            client = lab.client("client")
            realise(client, server.url, our_key.public, lab.full(lab.closure.top))
            assert_has_the_closure(client, lab)
            narinfo = until_kept(server, lab, lab.closure.top)
            assert narinfo.file_hash is not None


def test_the_local_store_answers_first_and_the_header_says_so(
    daemon: Lab, make_cache: MakeCache, upstream_key: Keys, our_key: Keys, tmp_path: Path
) -> None:
    cache = make_cache("xz")
    settings = settings_of(daemon, our_key)
    with Nginx(tmp_path, cache) as nginx:
        settings["upstream"] = [{"url": nginx.url, "public_keys": [upstream_key.public]}]
        with Server(tmp_path, daemon.env, settings) as server:
            assert narinfo_of(server, daemon, daemon.closure.top)[1] == "local"
            assert nginx.requests() == []
            daemon.delete(daemon.closure.top)
            deadline = time.monotonic() + 30
            while (source := narinfo_of(server, daemon, daemon.closure.top)[1]) == "local":
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert source == f"upstream 127.0.0.1:{nginx.port}"
            # The store is asked for the rest of the closure, the upstream for what is gone from it.
            client = daemon.client("client")
            realise(client, server.url, our_key.public, daemon.full(daemon.closure.top))


def test_a_mirror_does_not_vouch_for_what_nobody_signed(
    lab: Lab, make_cache: MakeCache, our_key: Keys, tmp_path: Path
) -> None:
    stranger = lab.secret_key("stranger-1")
    with (
        Nginx(tmp_path, make_cache("xz")) as nginx,
        Server(tmp_path, lab.env, mirror_settings(lab, nginx.url, stranger.public, our_key)) as server,
    ):
        client = lab.client("client")
        assert not realise(client, server.url, our_key.public, lab.full(lab.closure.top), check=False)
        assert server.get(f"/{lab.closure.top.hash_part}.narinfo").status == 404
        assert "trusted keys: stranger-1" in server.output()


def test_one_option_on_the_command_line_is_enough_for_the_public_cache(lab: Lab, tmp_path: Path) -> None:
    with Server(tmp_path, lab.env, None, "--upstream", "https://cache.nixos.org") as server:
        assert server.get("/nix-cache-info").status == 200
        assert server.get("/ready").status == 200


def test_the_page_of_a_mirror_that_does_not_sign_has_the_keys_of_its_upstreams(
    lab: Lab, upstream_key: Keys, tmp_path: Path
) -> None:
    settings = mirror_settings(lab, "http://127.0.0.1:9", upstream_key.public) | {"sign": False}
    with Server(tmp_path, lab.env, settings) as server:
        assert f"extra-trusted-public-keys = {upstream_key.public}" in unescape(server.get("/").body.decode())


def test_an_upstream_without_a_key_is_refused_with_a_hint(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="public_keys: is missing"):
        Server(tmp_path, lab.env, {"upstream": [{"url": "https://cache.example.org"}]}).__enter__()


def test_what_is_kept_becomes_zstd_and_clients_that_remember_xz_are_served_on(
    lab: Lab, make_cache: MakeCache, upstream_key: Keys, our_key: Keys, tmp_path: Path
) -> None:
    top = lab.full(lab.closure.top)
    with Nginx(tmp_path, make_cache("xz")) as nginx:
        settings = mirror_settings(lab, nginx.url, upstream_key.public, our_key, recompress="zstd")
        with Server(tmp_path, lab.env, settings) as server:
            old_url = narinfo_of(server, lab, lab.closure.top)[0].url
            assert old_url.endswith(".nar.xz")
            realise(lab.client("first"), server.url, our_key.public, top)
            deadline = time.monotonic() + 30
            while until_kept(server, lab, lab.closure.top).compression != "zstd":
                assert time.monotonic() < deadline
                time.sleep(0.1)
            client = lab.client("second")
            realise(client, server.url, our_key.public, top)
            assert_has_the_closure(client, lab)
            assert server.get(f"/{old_url}").status == 200
