"""Stock Nix clients take what they need from the server, and trust what they should."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from cutting_proxy import CuttingProxy
from lab import Keys, Lab, parse_path_infos
from realising import assert_has_the_closure, realise
from server import Server, settings_of


def test_nix_store_substitutes_a_closure_into_an_empty_store(daemon: Lab, server: Server, keys: Keys) -> None:
    client = daemon.client("client")
    realise(client, server.url, keys.public, daemon.full(daemon.closure.top))
    assert_has_the_closure(client, daemon)


def test_nix_copy_brings_a_closure_into_an_empty_store(daemon: Lab, server: Server, keys: Keys) -> None:
    client = daemon.client("client")
    top = daemon.full(daemon.closure.top)
    client.nix("copy", "--from", server.url, "--option", "trusted-public-keys", keys.public, top)
    assert_has_the_closure(client, daemon)


def test_a_client_that_trusts_another_key_takes_nothing(daemon: Lab, server: Server, keys: Keys) -> None:
    client = daemon.client("client")
    other = daemon.secret_key("other-1")
    same_name = other.public.replace("other-1:", "e2e-1:")
    for untrusted in (other.public, same_name):
        assert not realise(client, server.url, untrusted, daemon.full(daemon.closure.top), check=False)
        assert not client.real(daemon.closure.top).exists()
    command = ("nix", "copy", "--from", server.url, "--option", "trusted-public-keys", other.public)
    refused = client.run(*command, daemon.full(daemon.closure.top), check=False)
    assert refused.returncode != 0
    assert b"signature" in refused.stderr


def test_a_configuration_without_a_key_means_unsigned_and_clients_refuse_it(daemon: Lab, tmp_path: Path) -> None:
    client = daemon.client("client")
    keys = daemon.secret_key("unused-1")
    with Server(tmp_path, daemon.env, settings_of(daemon)) as server:
        narinfo = server.get(f"/{daemon.closure.top.hash_part}.narinfo")
        assert narinfo.status == 200
        assert b"\nSig:" not in narinfo.body
        assert not realise(client, server.url, keys.public, daemon.full(daemon.closure.top), check=False)
        # Unsigned is good enough for who asks for no signatures.
        client.nix("copy", "--no-check-sigs", "--from", server.url, daemon.full(daemon.closure.top))
    assert_has_the_closure(client, daemon)


def test_each_of_two_keys_is_enough_alone(daemon: Lab, tmp_path: Path) -> None:
    keys = [daemon.secret_key("first-1"), daemon.secret_key("second-1")]
    with Server(tmp_path, daemon.env, settings_of(daemon, *keys)) as server:
        for number, key in enumerate(keys):
            client = daemon.client(f"client-{number}")
            realise(client, server.url, key.public, daemon.full(daemon.closure.top))
            assert_has_the_closure(client, daemon)


def test_a_missing_path_is_a_miss_and_not_an_error(daemon: Lab, server: Server, keys: Keys) -> None:
    client = daemon.client("client")
    missing = daemon.store_dir + "/" + "0" * 32 + "-missing"
    assert not realise(client, server.url, keys.public, missing, check=False)
    assert client.run("nix", "path-info", "--store", server.url, missing, check=False).returncode != 0
    assert server.get(f"/{'0' * 32}.narinfo").status == 404


def test_nix_verifies_every_path_and_signature(daemon: Lab, server: Server, keys: Keys) -> None:
    top = daemon.full(daemon.closure.top)
    client = daemon.client("client")
    trusted = ("--option", "trusted-public-keys", keys.public)
    client.nix("store", "verify", "--recursive", "--store", server.url, *trusted, top)
    untrusted = client.run("nix", "store", "verify", "--recursive", "--store", server.url, top, check=False)
    assert untrusted.returncode != 0


def test_nix_path_info_says_what_the_store_says(daemon: Lab, server: Server) -> None:
    top = daemon.full(daemon.closure.top)
    client = daemon.client("client")
    served = parse_path_infos(client.nix("path-info", "--json", "--recursive", "--store", server.url, top))
    local = daemon.path_infos("--recursive", top)
    assert len(served) == 3
    assert served.keys() == local.keys()
    for path, info in served.items():
        for fact in ("narHash", "narSize", "deriver"):
            assert info[fact] == local[path][fact]
        assert sorted(info["references"]) == sorted(local[path]["references"])
        assert [signature.partition(":")[0] for signature in info["signatures"]] == ["e2e-1"]


def test_the_listing_is_what_nix_says_of_the_nar(daemon: Lab, server: Server, tmp_path: Path) -> None:
    for store_path in (daemon.closure.top, daemon.closure.input2):
        (tmp_path / "nar").write_bytes(daemon.dump(store_path))
        expected = json.loads(daemon.nix("nar", "ls", "--json", "--recursive", str(tmp_path / "nar"), "/"))
        listing = server.get(f"/{store_path.hash_part}.ls")
        assert listing.status == 200
        assert json.loads(listing.body) == {"version": 1, "root": expected}


def test_nix_reads_single_files_and_directories(daemon: Lab, server: Server) -> None:
    client = daemon.client("client")
    top = daemon.full(daemon.closure.top)
    assert client.nix("store", "cat", "--store", server.url, f"{top}/foobar") == "FOOBAR\n"
    assert "program" in client.nix("store", "ls", "--store", server.url, top)


def test_nix_log_shows_the_build_log(daemon: Lab, server: Server) -> None:
    client = daemon.client("client")
    assert "FOO-log-line" in client.nix("log", "--store", server.url, daemon.full(daemon.closure.top))


def test_a_content_addressed_derivation_is_substituted_by_its_realisation(
    daemon: Lab, server: Server, keys: Keys
) -> None:
    closure = daemon.build_ca()
    client = daemon.client("client")
    options = {"substituters": server.url, "trusted-public-keys": keys.public, "max-jobs": "0"}
    arguments = [argument for name, value in options.items() for argument in ("--option", name, value)]
    client.run("nix-build", str(daemon.root / "lab.nix"), "-A", "caTop", "--no-out-link", *arguments)
    assert (client.real(closure.dep) / "dep").read_text() == "dep\n"
    assert client.real(closure.top).exists()


def test_head_answers_with_the_headers_of_get(daemon: Lab, server: Server) -> None:
    top = daemon.closure.top.hash_part
    narinfo = server.get(f"/{top}.narinfo")
    nar = "/" + next(line[5:] for line in narinfo.body.decode().splitlines() if line.startswith("URL: "))
    for path in ("/nix-cache-info", f"/{top}.narinfo", nar, f"/{top}.ls"):
        # Where a NAR is compressed on its first download, it takes a moment until every worker knows its size.
        deadline = time.monotonic() + 30
        while True:
            with_body, without = server.get(path), server.request("HEAD", path)
            assert (with_body.status, without.status, without.body) == (200, 200, b"")
            del with_body.headers["Date"], without.headers["Date"]
            if dict(with_body.headers) == dict(without.headers):
                break
            assert time.monotonic() < deadline, (dict(with_body.headers), dict(without.headers))


def test_a_download_that_is_cut_is_resumed(daemon: Lab, keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(8 << 20))
    store_path = daemon.add(tmp_path / "big")
    client = daemon.client("client")
    settings = settings_of(daemon, keys) | {"compression": "none"}
    with Server(tmp_path, daemon.env, settings) as server, CuttingProxy(server.port, cut_after=3 << 20) as proxy:
        realise(client, proxy.url, keys.public, daemon.full(store_path))
    assert client.real(store_path).read_bytes() == (tmp_path / "big").read_bytes()
    first, *rest = proxy.nar_requests
    assert first.range is None
    assert rest
    assert all(request.range is not None and request.status == 206 for request in rest)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_path_of_two_gigabytes_never_is_in_memory(daemon: Lab, server: Server, keys: Keys, tmp_path: Path) -> None:
    big = tmp_path / "sparse"
    with big.open("wb") as file:
        file.truncate(2 << 30)
        file.seek(1 << 30)
        file.write(b"in the middle")
    store_path = daemon.add(big)
    server.get(f"/{daemon.closure.top.hash_part}.narinfo")
    before = sum(_peak_memory(process) for process in server.processes())
    client = daemon.client("client")
    realise(client, server.url, keys.public, daemon.full(store_path))
    assert sum(_peak_memory(process) for process in server.processes()) - before < 64 << 20
    with client.real(store_path).open("rb") as got, big.open("rb") as expected:
        assert hashlib.file_digest(got, "sha256").digest() == hashlib.file_digest(expected, "sha256").digest()


def _peak_memory(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM:")).split()[1]) << 10
