"""Every pair of Nix versions, one as the daemon under the server and one as the client of it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Client, Lab
from nginx import Nginx
from nix_versions import INSTALLED, VERSIONS, NixVersion
from server import Server, settings_of

from harmonia_py.nix.realisation import Realisation
from harmonia_py.nix.signing import PublicKey

PAIRS = [
    # The installed one with itself needs no folder and takes a second: it shows that the tests themselves are right.
    pytest.param(
        daemon,
        client,
        id=f"{daemon.name}-{client.name}",
        marks=[] if daemon is client is INSTALLED else [pytest.mark.slow],
    )
    for daemon in VERSIONS
    for client in VERSIONS
]


@pytest.fixture
def old_and_new(tmp_path: Path, daemon_version: NixVersion, client_version: NixVersion) -> Iterator[tuple[Lab, Client]]:
    """A lab with the one Nix and its daemon running, and an empty store with the other."""
    for version in (daemon_version, client_version):
        if version.missing is not None:
            pytest.skip(version.missing)
    root = tmp_path / "lab"
    root.mkdir()
    with Lab(root) as lab:
        lab.env = daemon_version.wrap(lab.env, tmp_path)
        lab.closure = lab.build()
        lab.start_daemon()
        client = lab.client("client")
        client.env = client_version.wrap(client.env, tmp_path)
        for nix, version in ((lab, daemon_version), (client, client_version)):
            assert version is INSTALLED or f" {version.name}." in nix.nix("--version")
        yield lab, client


def requisites(nix: Lab | Client, path: str) -> list[str]:
    return sorted(nix.nix_store("--query", "--requisites", path).split())


@pytest.mark.parametrize(("daemon_version", "client_version"), PAIRS)
def test_a_closure_comes_into_an_empty_store(old_and_new: tuple[Lab, Client], tmp_path: Path) -> None:
    lab, client = old_and_new
    keys = lab.secret_key("e2e-1")
    top = lab.full(lab.closure.top)
    trusted = ("--option", "trusted-public-keys", keys.public)
    with Server(tmp_path, lab.env, settings_of(lab, keys)) as server:
        client.nix_store(
            "--realise", top, "--option", "substituters", server.url, "--option", "max-jobs", "0", *trusted
        )
        client.nix("store", "verify", "--recursive", "--store", server.url, *trusted, top)
        assert "FOO-log-line" in client.nix("log", "--store", server.url, top)
    assert requisites(client, top) == requisites(lab, top)
    client.nix_store("--verify", "--check-contents")
    client.nix("store", "verify", "--recursive", *trusted, top)
    assert client.run("nix-store", "--dump", str(client.real(lab.closure.top))).stdout == lab.dump(lab.closure.top)


@pytest.mark.parametrize(("daemon_version", "client_version"), PAIRS)
def test_nix_copy_brings_a_closure_and_refuses_an_unknown_key(old_and_new: tuple[Lab, Client], tmp_path: Path) -> None:
    lab, client = old_and_new
    keys, other = lab.secret_key("e2e-1"), lab.secret_key("other-1")
    top = lab.full(lab.closure.top)
    with Server(tmp_path, lab.env, settings_of(lab, keys)) as server:
        copy = ("copy", "--from", server.url, top, "--option", "trusted-public-keys")
        assert client.run("nix", *copy, other.public, check=False).returncode != 0
        assert not client.real(lab.closure.top).exists()
        client.nix(*copy, keys.public)
    assert requisites(client, top) == requisites(lab, top)
    client.nix_store("--verify", "--check-contents")


@pytest.mark.parametrize(("daemon_version", "client_version"), PAIRS)
def test_a_content_addressed_derivation_is_substituted_by_its_realisation(
    old_and_new: tuple[Lab, Client], tmp_path: Path, daemon_version: NixVersion, client_version: NixVersion
) -> None:
    """Nix 2.8 and newer ones disagree about the hash of what refers to itself, whatever cache lies between them.

    So the path that refers to itself travels only between Nixes that agree.
    """
    lab, client = old_and_new
    agree = (daemon_version is INSTALLED) == (client_version is INSTALLED)
    keys = lab.secret_key("e2e-1")
    closure = lab.build_ca()
    build = ("nix-build", str(lab.root / "lab.nix"), "-A", "caTop" if agree else "caDep", "--no-out-link")
    with Server(tmp_path, lab.env, settings_of(lab, keys)) as server:
        options = ("--option", "substituters", server.url, "--option", "require-sigs", "true", "--max-jobs", "0")
        client.run(*build, *options, "--option", "trusted-public-keys", keys.public)
    assert (client.real(closure.dep) / "dep").read_text() == "dep\n"
    assert client.real(closure.top).exists() == agree
    # With the paths the client has taken over who vouches for what they were realised from.
    derivation, out_path = (closure.top_derivation, closure.top) if agree else (closure.dep_derivation, closure.dep)
    realisation = realisation_told_by(client, lab.full(derivation))
    assert realisation.out_path == out_path
    key = PublicKey.parse(keys.public)
    # Of our two signatures one is for the form that this version of Nix keeps.
    assert sum(key.verify(realisation.fingerprint(), signature) for signature in realisation.signatures) == 1
    assert {signature.key_name for signature in realisation.signatures} == {key.name}


@pytest.mark.parametrize("version", [pytest.param(version, id=version.name) for version in VERSIONS])
@pytest.mark.slow
def test_what_refers_to_itself_comes_through_a_mirror_though_nobody_has_signed_it(
    version: NixVersion, tmp_path: Path
) -> None:
    """The versions name it by different hashes; a mirror knows both."""
    if version.missing is not None:
        pytest.skip(version.missing)
    root = tmp_path / "lab"
    root.mkdir()
    with Lab(root) as lab:
        lab.env = version.wrap(lab.env, tmp_path)
        top = lab.build_ca().top
        lab.nix("copy", "--to", f"file://{tmp_path / 'cache'}?compression=xz", lab.full(top))
        upstream = {"name": "up", "public_keys": [lab.secret_key("other-1").public]}
        nowhere = {"daemon_socket": str(root / "no.socket"), "real_nix_store": str(root / "no" / "store")}
        client = lab.client("client")
        client.env = version.wrap(client.env, tmp_path)
        with Nginx(tmp_path, tmp_path / "cache") as nginx:
            settings = settings_of(lab) | nowhere | {"upstream": [upstream | {"url": nginx.url}]}
            with Server(tmp_path, lab.env, settings) as server:
                client.nix("copy", "--from", server.url, lab.full(top))
        assert client.run("nix-store", "--dump", str(client.real(top))).stdout == lab.dump(top)


@pytest.mark.parametrize("options", [("--hash-algo", "blake3"), ("--hash-algo", "sha1", "--mode", "git")])
@pytest.mark.slow
def test_a_content_address_of_a_new_kind_reaches_the_clients_that_know_it_and_stops_the_others(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """One such path made the daemon's answer unreadable, and the cache answered 502."""
    newest = VERSIONS[-1]
    if newest.missing is not None:
        pytest.skip(newest.missing)
    root = tmp_path / "lab"
    root.mkdir()
    features = ("--option", "experimental-features", "nix-command blake3-hashes git-hashing")
    with Lab(root) as lab:
        lab.env = newest.wrap(lab.env, tmp_path)
        configuration = root / "etc" / "nix.conf"
        configuration.write_text(
            f"{configuration.read_text()}extra-experimental-features = blake3-hashes git-hashing\n"
        )
        (root / "file").write_bytes(b"hello")
        full = lab.nix("store", "add", *options, str(root / "file")).strip()
        (told,) = lab.path_infos(full).values()
        lab.start_daemon()
        keys = lab.secret_key("e2e-1")
        with Server(tmp_path, lab.env, settings_of(lab, keys)) as server:
            store_path = lab.store_dir.parse_path(full)
            assert f"\nCA: {told['ca']}\n" in server.get(f"/{store_path.hash_part}.narinfo").body.decode()
            copy = ("copy", "--from", server.url, full, "--option", "trusted-public-keys", keys.public, *features)
            for version in (INSTALLED, newest):
                client = lab.client(f"client-{version.name}")
                client.env = version.wrap(client.env, tmp_path)
                done = client.run("nix", *copy, check=False)
                if version is newest:
                    assert (done.returncode, client.real(store_path).read_bytes()) == (0, b"hello")
                else:
                    assert b"unknown hash algorithm" in done.stderr


def realisation_told_by(nix: Client, derivation: str) -> Realisation:
    """The realisation of the output `out`: from Nix 2.13 on it must be named."""
    [told] = json.loads(nix.nix("realisation", "info", "--json", derivation))
    if "outPath" not in told:
        [told] = json.loads(nix.nix("realisation", "info", "--json", f"{derivation}^out"))
    return Realisation.parse_old(json.dumps(told))


@pytest.mark.parametrize("version", [pytest.param(version, id=version.name) for version in VERSIONS])
@pytest.mark.slow
def test_the_listing_is_what_this_nix_says(version: NixVersion, tmp_path: Path) -> None:
    if version.missing is not None:
        pytest.skip(version.missing)
    root = tmp_path / "lab"
    root.mkdir()
    with Lab(root) as lab:
        lab.env = version.wrap(lab.env, tmp_path)
        lab.closure = lab.build()
        lab.start_daemon()
        (tmp_path / "nar").write_bytes(lab.dump(lab.closure.top))
        expected = json.loads(lab.nix("nar", "ls", "--json", "--recursive", str(tmp_path / "nar"), "/"))
        with Server(tmp_path, lab.env, settings_of(lab)) as server:
            listing = json.loads(server.get(f"/{lab.closure.top.hash_part}.ls").body)
    assert listing == {"version": 1, "root": expected}
