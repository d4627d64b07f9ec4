"""A server whose people have Attic: their tokens, what their client says on the wire, and stock Nix to pull."""

import base64
import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path as FilePath
from random import Random

import pytest
from attic_client import EVERYTHING, AtticClient, Path, make_token, of_lab, secret_base64
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from lab import Lab
from server import Server, settings_of
from zstd_library import zstd

from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.store_path import StorePath


@pytest.fixture
def server(daemon: Lab, tmp_path: FilePath) -> Iterator[Server]:
    """A server that is started as atticd was, with the secret in its environment."""
    env = daemon.env | {"ATTIC_SERVER_TOKEN_HS256_SECRET_BASE64": secret_base64()}
    settings = settings_of(daemon) | {"attic": {"enabled": True}}
    with Server(tmp_path, env, settings) as server:
        yield server


def substituted(lab: Lab, url: str, public_key: str, password: str | None, name: str) -> None:
    """Let another machine have the closure as `attic use` sets it up: URL, trusted key, and a netrc without a login."""
    client = lab.client(name)
    options = ["--option", "substituters", url, "--option", "trusted-public-keys", public_key]
    if password is not None:
        netrc = client.root / "netrc"
        netrc.write_text(f"machine 127.0.0.1\npassword {password}\n")
        options += ["--option", "netrc-file", str(netrc)]
    client.nix_store("--realise", lab.full(lab.closure.top), *options)
    assert client.real(lab.closure.top).exists()


def test_a_closure_is_pushed_in_any_order_and_substituted(daemon: Lab, server: Server) -> None:
    token = make_token("alice", {"alice-*": EVERYTHING})
    attic = AtticClient(server.url, token)
    assert attic.create("alice-x", store_dir=daemon.store_dir).status == 200
    paths = of_lab(daemon, daemon.closure.top)
    answers = attic.push("alice-x", paths, order=Random(1))
    assert {answer.status for answer in answers.values()} == {200}, answers
    assert len(answers) == len(paths)
    assert all(answer.json["kind"] == "Uploaded" for answer in answers.values())
    config = attic.config("alice-x").json
    assert config["substituter_endpoint"] == f"{server.url}/alice-x"
    assert json.loads(server.get("/alice-x/attic-cache-info", {"Authorization": f"Bearer {token}"}).body) == config
    substituted(daemon, config["substituter_endpoint"], config["public_key"], token, "machine")
    assert attic.push("alice-x", paths) == {}


def test_tokens_of_a_pair_of_keys(daemon: Lab, tmp_path: FilePath) -> None:
    """A server that has the public half alone, as one that makes no tokens should."""
    key = rsa.generate_private_key(65537, 2048)
    public = base64.b64encode(key.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1)).decode()
    env = daemon.env | {"ATTIC_SERVER_TOKEN_RS256_PUBKEY_BASE64": public}
    with Server(tmp_path, env, settings_of(daemon) | {"attic": {"enabled": True}}) as server:
        token = make_token("alice", {"alice-*": EVERYTHING}, key=key, algorithm="RS256")
        attic = AtticClient(server.url, token)
        assert attic.create("alice-x", store_dir=daemon.store_dir).status == 200
        answers = attic.push("alice-x", of_lab(daemon, daemon.closure.top))
        assert {answer.status for answer in answers.values()} == {200}, answers
        config = attic.config("alice-x").json
        substituted(daemon, config["substituter_endpoint"], config["public_key"], token, "machine")
        caches = {"alice-*": EVERYTHING}
        of_another_pair = make_token("alice", caches, key=rsa.generate_private_key(65537, 2048), algorithm="RS256")
        for forged in (of_another_pair, make_token("alice", caches)):
            assert AtticClient(server.url, forged).config("alice-x").status == 401


@pytest.mark.slow
def test_a_nar_of_two_gib(daemon: Lab, server: Server) -> None:
    """More than 31 bits count, by a client that says its length nowhere, into a server that stays small."""
    attic = AtticClient(server.url, make_token("alice", {"alice-*": EVERYTHING}))
    assert attic.create("alice-x", store_dir=daemon.store_dir, public=True).status == 200
    digest, size = sha256(), 0
    for piece in large_nar():
        digest.update(piece)
        size += len(piece)
    store_path = StorePath(f"{'0' * 32}-two-gib")
    path = Path(store_path, (), b"", f"sha256:{digest.hexdigest()}", size, store_dir=daemon.store_dir)
    described = {"X-Attic-Nar-Info": json.dumps(path.description("alice-x"))}
    answer = attic.send(described, large_nar())
    assert (answer.status, answer.json["kind"]) == (200, "Uploaded"), answer.body
    narinfo = NarInfo.parse(server.get(f"/alice-x/{store_path.hash_part}.narinfo").body, daemon.store_dir)
    assert narinfo.path_info.nar_size == size > 2**31
    kept = zstd.ZstdDecompressor()
    again, waiting = sha256(), server.get(f"/alice-x/{narinfo.url}").body
    while not kept.eof:
        again.update(kept.decompress(waiting, max_length=1024 * 1024))
        waiting = b""
    assert again.digest() == digest.digest()
    for pid in server.processes():
        status = FilePath(f"/proc/{pid}/status").read_text()
        (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        assert int(peak) < 300_000, "kB"


def large_nar() -> Iterator[bytes]:
    """The NAR of a file of 2 GiB of zeros."""
    size, block = 2**31, bytes(1024 * 1024)
    words = (b"nix-archive-1", b"(", b"type", b"regular", b"contents")
    yield b"".join(map(nar_string, words)) + size.to_bytes(8, "little")
    for _ in range(size // len(block)):
        yield block
    yield nar_string(b")")


def nar_string(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text + bytes(-len(text) % 8)
