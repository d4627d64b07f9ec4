"""One cache in front of others: real upstreams, the real server, stock Nix clients."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Client, Keys, Lab
from nginx import Nginx
from server import Server, settings_of

from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import StorePath


def realise(client: Client, url: str, public_keys: str, path: str, *, check: bool = True) -> bool:
    """Whether `client` gets `path` with its closure from `url`, trusting these keys and building nothing."""
    options = {"substituters": url, "trusted-public-keys": public_keys, "max-jobs": "0"}
    arguments = [argument for name, value in options.items() for argument in ("--option", name, value)]
    return client.run("nix-store", "--realise", path, *arguments, check=check).returncode == 0


def assert_has_the_closure(client: Client, lab: Lab) -> None:
    for store_path in (lab.closure.top, lab.closure.input2, lab.closure.input0):
        dump = client.run("nix-store", "--dump", str(client.real(store_path))).stdout
        assert dump == lab.dump(store_path)
    client.nix_store("--verify", "--check-contents")


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


@pytest.fixture(params=["xz", "zstd", "none", "bzip2"])
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
