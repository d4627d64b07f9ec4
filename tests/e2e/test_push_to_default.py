"""The cache at `/` takes pushes: beside the store of its machine, or into it."""

import asyncio
import json
import os
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import backing
import prefork
import pytest
from attic_client import AtticClient, make_token, of_lab, secret_base64
from lab import Client, Keys, Lab
from nix_versions import INSTALLED, VERSIONS, NixVersion
from reloading import reload
from server import Server, settings_of

from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import StorePath

TIME_LIMIT: Final = 60.0


class Pusher:
    """A server whose store has lost the closure of its lab, and another machine that has it.

    Attributes:
        server: runs.
        lab: the store and the nix-daemon of the server.
        builder: the machine that pushes.
        token: may read and push.
    """

    def __init__(self, server: Server, lab: Lab, builder: Client) -> None:
        self.server, self.lab, self.builder = server, lab, builder
        self.token = command(server, "token", "create", "ci", "--cache", "default", "--allow", "read,push")

    @property
    def closure(self) -> list[StorePath]:
        return closure(self.lab)

    def url(self, place: str = "/push", token: str | None = None) -> str:
        return f"http://x:{self.token if token is None else token}@127.0.0.1:{self.server.port}{place}"

    def copy(self, *paths: StorePath, check: bool = True, place: str = "/push") -> subprocess.CompletedProcess[bytes]:
        full = [self.lab.full(path) for path in paths or [self.lab.closure.top]]
        url = f"{self.url(place)}?compression=zstd&write-nar-listing=1"
        return self.builder.run("nix", "copy", "--to", url, *full, check=check)

    def narinfo(self, path: StorePath) -> tuple[NarInfo, str]:
        answer = self.server.get(f"/{path.hash_part}.narinfo")
        assert answer.status == 200
        return NarInfo.parse(answer.body, self.lab.store_dir), answer.headers["X-Harmonia-Source"]


def closure(lab: Lab) -> list[StorePath]:
    """References first."""
    return [lab.closure.input0, lab.closure.input2, lab.closure.top]


def command(server: Server, *arguments: str) -> str:
    env = {"PATH": os.environ["PATH"], "HOME": str(server.root)}
    done = prefork.run(*arguments, "--config", str(server.root / "harmonia.toml"), cwd=server.root, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def configure(lab: Lab, *lines: str) -> None:
    """Add to the `nix.conf` that the daemon reads when it starts."""
    with (lab.root / "etc" / "nix.conf").open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def move_away(lab: Lab) -> Client:
    """Another machine, which has the closure that the store of `lab` has no more."""
    builder = lab.client("builder")
    archive = lab.root / "archive"
    lab.nix("copy", "--to", f"file://{archive}", lab.full(lab.closure.top))
    builder.nix("copy", "--no-check-sigs", "--from", f"file://{archive}", lab.full(lab.closure.top))
    lab.delete(*closure(lab))
    return builder


@contextmanager
def pushing_to(
    root: Path, lab: Lab, table: Mapping[str, Any], *keys: Keys, version: NixVersion = INSTALLED, **settings: Any
) -> Iterator[Pusher]:
    if backing.IN_POSTGRESQL and "into" in table:
        pytest.skip("a store is that of one machine: such a cache is refused beside a database that several share")
    builder = move_away(lab)
    builder.env = version.wrap(builder.env, root)
    lab.start_daemon()
    config = settings_of(lab, *keys) | {"caches": {"default": dict(table)}} | settings
    config["state_directory"] = str(root / "server" / "state")
    with Server(root, lab.env, config) as server:
        yield Pusher(server, lab, builder)


def assert_substitutes(pusher: Pusher, *options: str, name: str = "other") -> None:
    lab = pusher.lab
    client = lab.client(name)
    url = ("--option", "substituters", pusher.url(""), *options)
    client.nix_store("--realise", lab.full(lab.closure.top), "--max-jobs", "0", *url)
    for path in pusher.closure:
        dump = client.run("nix-store", "--dump", str(client.real(path))).stdout
        assert dump == pusher.builder.run("nix-store", "--dump", str(pusher.builder.real(path))).stdout


def test_what_is_pushed_to_the_cache_at_the_root_is_substituted_from_there(lab: Lab, tmp_path: Path) -> None:
    """`/push` refused every push: only caches with a name took any."""
    ours = lab.secret_key("ours-1")
    with pushing_to(tmp_path, lab, {}, ours) as pusher:
        pusher.copy()
        narinfo, source = pusher.narinfo(lab.closure.top)
        assert (source, narinfo.compression) == ("pushed", "zstd")
        assert {signature.key_name for signature in narinfo.path_info.signatures} == {"ours-1"}
        assert_substitutes(pusher, "--option", "trusted-public-keys", ours.public)
        assert not lab.is_valid(lab.closure.top)
        listing = json.loads(pusher.server.get(f"/{lab.closure.top.hash_part}.ls").body)
        assert "foobar" in listing["root"]["entries"]


def test_what_the_local_store_has_is_not_sent(lab: Lab, tmp_path: Path) -> None:
    with pushing_to(tmp_path, lab, {}) as pusher:
        pusher.copy(lab.closure.input0)
        archive = lab.root / "archive"
        lab.nix("copy", "--no-check-sigs", "--from", f"file://{archive}", lab.full(lab.closure.input2))
        pusher.copy()
        assert pusher.narinfo(lab.closure.input2)[1] == "local"
        assert pusher.narinfo(lab.closure.top)[1] == "pushed"
        assert_substitutes(pusher, "--option", "require-sigs", "false")


@pytest.mark.skipif(backing.IN_BUCKET, reason="reads the directory")
def test_the_static_side_of_the_cache_at_the_root_carries_the_signatures_of_the_server(
    lab: Lab, tmp_path: Path
) -> None:
    ours = lab.secret_key("ours-1")
    with pushing_to(tmp_path, lab, {}, ours) as pusher:
        pusher.copy()
    client = lab.client("client")
    place = f"file://{tmp_path}/server/state/pushed/default"
    options = ("--option", "substituters", place, "--option", "trusted-public-keys", ours.public)
    client.nix_store("--realise", lab.full(lab.closure.top), *options, "--max-jobs", "0")
    assert client.real(lab.closure.top).is_dir()


def test_a_private_cache_at_the_root_needs_no_file_of_tokens(lab: Lab, tmp_path: Path) -> None:
    with pushing_to(tmp_path, lab, {"public": False}) as pusher:
        assert pusher.server.get("/nix-cache-info").status == 401
        pusher.copy()
        assert pusher.server.get(f"/{lab.closure.top.hash_part}.narinfo").status == 401
        assert_substitutes(pusher, "--option", "require-sigs", "false")


def test_without_a_table_for_it_the_cache_at_the_root_says_what_is_missing(lab: Lab, tmp_path: Path) -> None:
    with pushing_to(tmp_path, lab, {}, caches={"team": {}}) as pusher:
        done = pusher.copy(check=False)
        assert done.returncode != 0
        assert b"[caches.default]" in done.stderr


def test_a_path_that_no_key_of_the_policy_has_signed_is_refused_rather_than_hidden(lab: Lab, tmp_path: Path) -> None:
    ci = lab.secret_key("ci-1")
    policy = {"serve": "signed", "public_keys": [ci.public]}
    with pushing_to(tmp_path, lab, {}, policy=policy) as pusher:
        refused = pusher.copy(lab.closure.input0, check=False)
        assert refused.returncode != 0
        assert b"ci-1" in refused.stderr
        signed = pusher.builder.run(
            "nix", "store", "sign", "--recursive", "--key-file", str(ci.secret_file), lab.full(lab.closure.top)
        )
        assert signed.returncode == 0
        pusher.builder.forget()
        pusher.copy(place="/push/again")
        assert_substitutes(pusher, "--option", "trusted-public-keys", ci.public)


VERSION: Final = pytest.mark.parametrize(
    "version",
    [pytest.param(one, id=one.name, marks=[] if one is INSTALLED else [pytest.mark.slow]) for one in VERSIONS],
)


@VERSION
def test_what_is_pushed_into_the_store_of_a_build_machine_is_valid_there(version: NixVersion, tmp_path: Path) -> None:
    """Each version of Nix as the daemon and as the client."""
    if version.missing is not None:
        pytest.skip(version.missing)
    with lab_of(version, tmp_path) as lab:
        ours = lab.secret_key("ours-1")
        configure(lab, f"trusted-public-keys = {ours.public}", "trusted-users = nobody")
        with pushing_to(tmp_path, lab, {"into": "store"}, ours, version=version) as pusher:
            pusher.copy()
            for path in pusher.closure:
                assert lab.is_valid(path)
                narinfo, source = pusher.narinfo(path)
                assert source == "local"
                assert {signature.key_name for signature in narinfo.path_info.signatures} == {"ours-1"}
            lab.nix_store("--verify", "--check-contents")
            assert_substitutes(pusher, "--option", "trusted-public-keys", ours.public)
            pusher.builder.forget()
            pusher.copy(place="/push/again")
            entries = [json.loads(line) for line in command(pusher.server, "audit").splitlines()]
            pushed = [entry["subject"] for entry in entries if entry["action"] == "push"]
            assert sorted(pushed) == sorted(pusher.closure)


@contextmanager
def lab_of(version: NixVersion, tmp_path: Path) -> Iterator[Lab]:
    root = tmp_path / "lab"
    root.mkdir()
    with Lab(root) as lab:
        lab.env = version.wrap(lab.env, tmp_path)
        lab.closure = lab.build()
        yield lab


@VERSION
def test_what_the_daemon_does_not_trust_is_refused_and_the_client_reads_why(
    version: NixVersion, tmp_path: Path
) -> None:
    if version.missing is not None:
        pytest.skip(version.missing)
    with lab_of(version, tmp_path) as lab:
        ours = lab.secret_key("ours-1")
        with pushing_to(tmp_path, lab, {"into": "store"}, ours, version=version) as pusher:
            done = pusher.copy(check=False)
            assert done.returncode != 0
            assert b"trusts none of the keys" in done.stderr
            assert b"ours-1" in done.stderr
            assert not lab.is_valid(lab.closure.input0)
            assert pusher.server.get(f"/{lab.closure.input0.hash_part}.narinfo").status == 404


def test_a_client_that_remembers_what_the_store_has_lost_is_told_by_another_push_url(lab: Lab, tmp_path: Path) -> None:
    ours = lab.secret_key("ours-1")
    configure(lab, f"trusted-public-keys = {ours.public}")
    with pushing_to(tmp_path, lab, {"into": "store"}, ours) as pusher:
        pusher.copy()
        # The client remembers what is there; the store of the server has lost it.
        lab.stop_daemon()
        lab.delete(*pusher.closure)
        lab.start_daemon(awaited=True)
        done = pusher.builder.run(
            "nix", "copy", "--to", f"{pusher.url()}?compression=zstd", lab.full(lab.closure.top), check=False
        )
        assert done.returncode == 0, "the client asks for nothing that it remembers"
        assert not lab.is_valid(lab.closure.top)
        pusher.copy(place="/push/r2")
        assert all(lab.is_valid(path) for path in pusher.closure)


def test_a_path_whose_reference_the_store_has_lost_is_refused_by_name(lab: Lab, tmp_path: Path) -> None:
    """The client remembered the reference and did not send it. The path was accepted, waited for an hour in vain, and
    went without a word, with all that was pushed above it."""
    ours = lab.secret_key("ours-1")
    configure(lab, f"trusted-public-keys = {ours.public}")
    with pushing_to(tmp_path, lab, {"into": "store"}, ours) as pusher:
        pusher.copy(lab.closure.input0)
        lab.stop_daemon()
        lab.delete(lab.closure.input0)
        lab.start_daemon(awaited=True)
        done = pusher.copy(lab.closure.input2, check=False)
        assert done.returncode != 0
        assert f"{lab.closure.input0} is not in the store".encode() in done.stderr
        pusher.copy(place="/push/r2")
        assert all(lab.is_valid(path) for path in pusher.closure)


def test_a_path_whose_reference_is_left_out_by_the_client_is_refused_by_name(lab: Lab, tmp_path: Path) -> None:
    """`attic push --no-closure` sends no references: paths above what the store lacks were accepted, and went after an
    hour."""
    ours = lab.secret_key("ours-1")
    configure(lab, f"trusted-public-keys = {ours.public}")
    paths = {path.store_path: path for path in of_lab(lab, lab.closure.input2)}
    path, left_out = paths[lab.closure.input2], paths[lab.closure.input0]
    lab.env |= {"ATTIC_SERVER_TOKEN_HS256_SECRET_BASE64": secret_base64()}
    with pushing_to(tmp_path, lab, {"into": "store"}, ours, attic={"enabled": True}) as pusher:
        attic = AtticClient(pusher.server.url, make_token("ci", {"default": {"r": 1, "w": 1}}))
        refused = attic.push("default", [path])[lab.closure.input2]
        assert refused.status == 409
        assert f"{lab.closure.input0} is not in the store" in refused.error
        for sent in (left_out, path):
            assert attic.push("default", [sent])[sent.store_path].status == 200
        assert lab.is_valid(lab.closure.input2)


@pytest.mark.parametrize("workers", [1, 2])
def test_paths_that_come_before_their_references_wait_for_these(lab: Lab, tmp_path: Path, workers: int) -> None:
    """Attic's client sends paths in any order: after twenty seconds each was refused, as its references were not valid
    in the store."""
    ours = lab.secret_key("ours-1")
    configure(lab, f"trusted-public-keys = {ours.public}")
    paths = {path.store_path: path for path in of_lab(lab, lab.closure.top)}
    settings: dict[str, Any] = {"attic": {"enabled": True}, "workers": workers}
    lab.env |= {"ATTIC_SERVER_TOKEN_HS256_SECRET_BASE64": secret_base64()}
    with pushing_to(tmp_path, lab, {"into": "store"}, ours, **settings) as pusher:
        attic = AtticClient(pusher.server.url, make_token("ci", {"default": {"r": 1, "w": 1}}))
        first, second, top = pusher.closure
        attic.missing("default", [path.hash_part for path in pusher.closure])
        for path in (top, second):
            assert attic.upload("default", paths[path]).status == 200
            assert not lab.is_valid(path)
            assert pusher.server.get(f"/{path.hash_part}.narinfo").status == 404
            assert attic.missing("default", [path.hash_part]).json["missing_paths"] == [path.hash_part]
        assert attic.upload("default", paths[first]).status == 200
        assert all(lab.is_valid(path) for path in pusher.closure)
        lab.nix_store("--verify", "--check-contents")
        hash_parts = [path.hash_part for path in pusher.closure]
        assert attic.missing("default", hash_parts).json["missing_paths"] == []
        entries = [json.loads(line) for line in command(pusher.server, "audit").splitlines()]
        pushed = [(entry["principal"], entry["subject"]) for entry in entries if entry["action"] == "push"]
        assert sorted(pushed) == sorted(("token ci", path) for path in pusher.closure)
        assert_substitutes(pusher, "--option", "trusted-public-keys", ours.public)


def test_a_path_is_taken_when_its_references_come_by_another_way_than_a_push(lab: Lab, tmp_path: Path) -> None:
    """It was looked at when the last of them was pushed, and never again: after a build or a substitution of that, or
    where the server was killed at that moment, it waited for an hour and went."""
    ours = lab.secret_key("ours-1")
    configure(lab, f"trusted-public-keys = {ours.public}")
    paths = {path.store_path: path for path in of_lab(lab, lab.closure.top)}
    lab.env |= {"ATTIC_SERVER_TOKEN_HS256_SECRET_BASE64": secret_base64()}
    with pushing_to(tmp_path, lab, {"into": "store"}, ours, attic={"enabled": True}) as pusher:
        attic = AtticClient(pusher.server.url, make_token("ci", {"default": {"r": 1, "w": 1}}))
        first, *above = pusher.closure
        attic.missing("default", [path.hash_part for path in pusher.closure])
        assert [attic.upload("default", paths[path]).status for path in above] == [200, 200]
    lab.nix("copy", "--no-check-sigs", "--from", f"file://{lab.root / 'archive'}", lab.full(first))
    with pusher.server as server:
        server.until(lambda: all(lab.is_valid(path) for path in above))
        entries = [json.loads(line) for line in command(server, "audit").splitlines()]
        assert sorted(entry["subject"] for entry in entries if entry["action"] == "push") == sorted(above)


def test_a_session_is_told_what_its_paths_wait_for(lab: Lab, tmp_path: Path) -> None:
    """A session may publish in any order, as it hears of each path that waits; there is nothing to refuse."""
    ours = lab.secret_key("ours-1")
    configure(lab, f"trusted-public-keys = {ours.public}")
    paths = {path.store_path: path for path in of_lab(lab, lab.closure.input2)}
    with pushing_to(tmp_path, lab, {"into": "store"}, ours) as pusher:
        client = AtticClient(pusher.server.url, pusher.token)
        place = f"/api/sessions/{client.request('POST', '/api/sessions', b'').json['session']}"
        narinfos = []
        for path in (paths[lab.closure.input2], paths[lab.closure.input0]):
            nar_hash = Hash.parse(path.nar_hash, "sha256")
            name = f"{nar_hash.nix32}.nar"
            assert client.request("PUT", f"{place}/nars/{name}", path.nar).status == 200
            info = PathInfo(
                store_path=path.store_path, nar_hash=nar_hash, nar_size=path.nar_size, references=path.references
            )
            narinfos.append(NarInfo(path_info=info, url=f"nar/{name}", compression="none").format(lab.store_dir))
        told = client.request("POST", f"{place}/publish", json.dumps({"narinfos": [x.decode() for x in narinfos]}))
        upper, lower = told.json["paths"]
        assert (upper["state"], upper["missing"]) == ("waiting", [lab.closure.input0.hash_part])
        assert lower["state"] == "published"
        assert lab.is_valid(lab.closure.input2)


def test_what_waited_and_is_not_trusted_is_told_to_the_client_that_sends_it_again(lab: Lab, tmp_path: Path) -> None:
    ours, ci = lab.secret_key("ours-1"), lab.secret_key("ci-1")
    configure(lab, f"trusted-public-keys = {ci.public}")
    lab.nix("store", "sign", "--key-file", str(ci.secret_file), lab.full(lab.closure.input0))
    paths = {path.store_path: path for path in of_lab(lab, lab.closure.input2)}
    lab.env |= {"ATTIC_SERVER_TOKEN_HS256_SECRET_BASE64": secret_base64()}
    with pushing_to(tmp_path, lab, {"into": "store"}, ours, attic={"enabled": True}) as pusher:
        attic = AtticClient(pusher.server.url, make_token("ci", {"default": {"r": 1, "w": 1}}))
        attic.missing("default", [path.hash_part for path in paths])
        for path in (lab.closure.input2, lab.closure.input0):
            assert attic.upload("default", paths[path]).status == 200
        assert lab.is_valid(lab.closure.input0)
        assert not lab.is_valid(lab.closure.input2)
        entries = [json.loads(line) for line in command(pusher.server, "audit").splitlines()]
        refused = [entry["subject"] for entry in entries if entry["detail"].get("why") == "refused"]
        assert refused == [lab.closure.input2], "it was tried every minute for an hour"
        again = attic.upload("default", paths[lab.closure.input2])
        assert "trusts none of the keys" in again.error


def test_what_was_pushed_into_the_store_is_not_collected_before_the_push_is_over(lab: Lab, tmp_path: Path) -> None:
    ours = lab.secret_key("ours-1")
    configure(lab, f"trusted-public-keys = {ours.public}")
    with pushing_to(tmp_path, lab, {"into": "store"}, ours) as pusher:
        pusher.copy(lab.closure.input2)
        lab.nix_store("--gc")
        assert lab.is_valid(lab.closure.input0)
        assert lab.is_valid(lab.closure.input2)
        pusher.copy()
        assert lab.is_valid(lab.closure.top)


def test_logs_are_refused_where_the_store_takes_what_is_pushed(lab: Lab, tmp_path: Path) -> None:
    ours = lab.secret_key("ours-1")
    configure(lab, f"trusted-public-keys = {ours.public}")
    with pushing_to(tmp_path, lab, {"into": "store"}, ours) as pusher:
        done = lab.run("nix", "store", "copy-log", "--to", pusher.url(), lab.full(lab.closure.derivation), check=False)
        assert done.returncode != 0
        assert b"logs are not taken" in done.stderr


async def test_two_machines_push_the_same_into_the_store_at_once(lab: Lab, tmp_path: Path) -> None:
    ours = lab.secret_key("ours-1")
    configure(lab, f"trusted-public-keys = {ours.public}")
    with pushing_to(tmp_path, lab, {"into": "store"}, ours) as pusher:
        copy: Callable[..., Any] = pusher.copy
        await asyncio.gather(*(asyncio.to_thread(copy, place=f"/push/r{number}") for number in range(3)))
        assert all(lab.is_valid(path) for path in pusher.closure)


def test_what_a_policy_hides_since_it_was_pushed_is_not_promoted(lab: Lab, tmp_path: Path) -> None:
    """A cache without a policy gave out what the readers of the other one do not see."""
    caches, key, path = {"default": {}, "main": {"public": True}}, lab.secret_key("ci-1"), lab.closure.input0
    with pushing_to(tmp_path, lab, {}, caches=caches) as pusher:
        server = pusher.server
        promotion = ("promote", "--json", "default", f"{server.url}/main", str(path))
        token = command(server, "token", "create", "both", "--cache", "*", "--allow", "read,push")
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HARMONIA_PY_TOKEN": token}
        pusher.copy(path)
        everything = tomllib.loads((server.root / "harmonia.toml").read_text())
        reload(server, everything | {"policy": {"serve": "signed", "public_keys": [key.public]}})
        assert server.get(f"/{path.hash_part}.narinfo").status == 404
        refused = prefork.run(*promotion, cwd=tmp_path, env=env)
        assert f"{path.hash_part} is not in the cache that it is promoted from" in refused.stderr
        assert refused.returncode == 1
        assert server.get(f"/main/{path.hash_part}.narinfo").status == 404
        reload(server, everything)
        assert prefork.run(*promotion, cwd=tmp_path, env=env).returncode == 0
        assert server.get(f"/main/{path.hash_part}.narinfo").status == 200
