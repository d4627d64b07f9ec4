"""The program as its users have it: little configuration, odd places, and a network that breaks."""

import os
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from cutting_proxy import CuttingProxy
from lab import Client, Lab
from server import INTERPRETER, Server, settings_of


def realise(client: Client, url: str, public_key: str, path: str) -> None:
    options = {"substituters": url, "trusted-public-keys": public_key, "max-jobs": "0", "require-sigs": "true"}
    arguments = [argument for name, value in options.items() for argument in ("--option", name, value)]
    client.nix_store("--realise", path, *arguments)


@pytest.mark.default_backing
@pytest.mark.parametrize(
    ("settings", "bind"),
    [({"bind": "127.0.0.1:0"}, None), ({}, "127.0.0.1:0"), (None, "127.0.0.1:0")],
    ids=["only bind", "an empty file", "no file"],
)
def test_little_configuration_is_enough(
    daemon: Lab, tmp_path: Path, settings: dict[str, Any] | None, bind: str | None
) -> None:
    with Server(tmp_path, daemon.env, settings, bind=bind, interpreter=INTERPRETER) as server:
        answer = server.get(f"/{daemon.closure.top.hash_part}.narinfo")
        assert answer.status == 200
        fields = dict(line.split(": ", 1) for line in answer.body.decode().splitlines())
        assert fields["StorePath"] == daemon.full(daemon.closure.top)
        # A key is made at the first start, with a configuration file as without one.
        assert "Sig" in fields
        assert server.get(f"/{fields['URL']}").status == 200
        assert len(server.processes()) == 5


@pytest.mark.parametrize("database_named", [True, False])
@pytest.mark.parametrize("linked", ["root", "store"])
def test_a_chroot_store_may_be_reached_through_a_symbolic_link(
    chroot_lab: Lab, tmp_path: Path, linked: str, *, database_named: bool
) -> None:
    """Guests and images are mounted, and linked to from where the file says they are."""
    if linked == "root":
        (tmp_path / "guest").symlink_to(chroot_lab.root)
        real_store = tmp_path / "guest" / "nix" / "store"
    else:
        (tmp_path / "guest" / "nix").mkdir(parents=True)
        real_store = tmp_path / "guest" / "nix" / "store"
        real_store.symlink_to(chroot_lab.real_store)
        (tmp_path / "guest" / "nix" / "var").symlink_to(chroot_lab.state_dir.parent)
    keys = chroot_lab.secret_key("e2e-1")
    settings = {
        "virtual_nix_store": "/nix/store",
        "real_nix_store": str(real_store),
        "daemon_socket": str(tmp_path / "nobody-listens"),
        "sign_key_paths": [str(keys.secret_file)],
        "workers": 1,
    }
    if database_named:
        settings["nix_db_path"] = str(real_store.parent / "var" / "nix" / "db" / "db.sqlite")
    closure = chroot_lab.closure
    with Server(tmp_path, chroot_lab.env, settings) as server:
        client = chroot_lab.client("client")
        realise(client, server.url, keys.public, chroot_lab.full(closure.top))
        assert server.get(f"/{closure.top.hash_part}.ls").status == 200
        assert b"FOO-log-line" in server.get(f"/log/{closure.derivation}").body
        assert server.get(f"/serve/{closure.top.hash_part}/foobar").body == b"FOOBAR\n"
        # A link of the store names its other paths as clients see them.
        assert server.get(f"/serve/{closure.top.hash_part}/reference-to-input-2/bar").body == b"BAR\n"
        assert server.get(f"/serve/{closure.top.hash_part}/../../var/nix/db/db.sqlite").status == 404
    client.nix_store("--verify", "--check-contents")
    assert (client.real(closure.top) / "foobar").read_text() == "FOOBAR\n"


@pytest.mark.parametrize("size", [200_000, 6_000_000])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_download_that_is_cut_after_30_kilobytes_is_resumed(
    daemon: Lab, tmp_path: Path, compression: str, size: int
) -> None:
    """What does not compress is cut in its middle, and a client that resumes needs a range of the same bytes."""
    (tmp_path / "noise").write_bytes(os.urandom(size))
    store_path = daemon.add(tmp_path / "noise")
    keys = daemon.secret_key("e2e-1")
    client = daemon.client("client")
    settings = settings_of(daemon, keys) | {"compression": compression}
    with Server(tmp_path, daemon.env, settings) as server, CuttingProxy(server.port, cut_after=30_000) as proxy:
        realise(client, proxy.url, keys.public, daemon.full(store_path))
    assert client.real(store_path).read_bytes() == (tmp_path / "noise").read_bytes()
    first, *rest = proxy.nar_requests
    assert first.range is None
    assert rest
    assert all(request.range is not None and request.status == 206 for request in rest)


def test_so_is_one_through_a_mirror_of_what_is_just_being_compressed(daemon: Lab, tmp_path: Path) -> None:
    """Neither cache knows the size of the file before it is whole."""
    (tmp_path / "noise").write_bytes(os.urandom(6_000_000))
    store_path = daemon.add(tmp_path / "noise")
    far_keys, keys = daemon.secret_key("far-1"), daemon.secret_key("e2e-1")
    client = daemon.client("client")
    (tmp_path / "far").mkdir()
    with Server(tmp_path / "far", daemon.env, settings_of(daemon, far_keys)) as far:
        settings = settings_of(daemon, keys) | {
            "daemon_socket": str(tmp_path / "nobody-listens"),
            "real_nix_store": str(tmp_path / "nowhere" / "store"),
            "upstream": [{"url": far.url, "public_keys": [far_keys.public]}],
        }
        with Server(tmp_path, daemon.env, settings) as server, CuttingProxy(server.port, cut_after=30_000) as proxy:
            realise(client, proxy.url, keys.public, daemon.full(store_path))
    assert client.real(store_path).read_bytes() == (tmp_path / "noise").read_bytes()
    first, *rest = proxy.nar_requests
    assert first.range is None
    assert [request.status for request in rest] == [206]


def test_a_compressed_nar_has_ranges_once_it_is_kept_and_is_never_coded(daemon: Lab, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(os.urandom(3_000_000))
    store_path = daemon.add(tmp_path / "noise")
    with Server(tmp_path, daemon.env, settings_of(daemon, daemon.secret_key("e2e-1"))) as server:
        narinfo = server.get(f"/{store_path.hash_part}.narinfo").body.decode()
        (url,) = [line.removeprefix("URL: ") for line in narinfo.splitlines() if line.startswith("URL: ")]
        assert url.endswith(".nar.zst")
        first = server.get(f"/{url}", {"Accept-Encoding": "zstd, gzip"})
        # Waits until the file is kept, which the first one did not.
        part = server.get(f"/{url}", {"Range": "bytes=1000-1999", "Accept-Encoding": "gzip"})
        later = server.get(f"/{url}", {"Accept-Encoding": "zstd, gzip"})
        # An answer that is ready goes on without what was not known a moment ago.
        eventually = monotonic() + 30
        while "FileSize" not in narinfo and monotonic() < eventually:
            narinfo = server.get(f"/{store_path.hash_part}.narinfo").body.decode()
    assert first.body == later.body
    assert later.headers["Content-Length"] == str(len(first.body))
    assert (part.status, part.body) == (206, first.body[1000:2000])
    assert first.headers["Transfer-Encoding"] == "chunked"
    for answer in (first, later, part):
        # Nix resumes only what says so.
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["Content-Encoding"] is None
        assert answer.headers["Content-Type"] == "application/zstd"
        assert "immutable" in answer.headers["Cache-Control"]
    assert f"\nFileSize: {len(first.body)}\n" in narinfo
