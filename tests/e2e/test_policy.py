"""What a policy does not allow is not there, by whatever URL; what it allows is, all of it."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Keys, Lab
from reloading import reload
from server import Server, settings_of

from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import StorePath


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One store: `top` is signed and a root, and refers to `input2`; `added` was not built here."""
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        lab.closure = lab.build()
        lab.start_daemon()
        yield lab


@pytest.fixture(scope="module")
def added(lab: Lab) -> StorePath:
    file = lab.root / "added"
    file.write_text("not built here, and long enough to be worth a coding " * 20)
    return lab.add(file)


@pytest.fixture(scope="module")
def keys(lab: Lab) -> Keys:
    keys = lab.secret_key("ci-1")
    lab.nix("store", "sign", "--key-file", str(keys.secret_file), lab.full(lab.closure.top))
    # By somebody else: under another name, and under the same name with another key.
    other = lab.secret_key("other-1")
    lab.nix("store", "sign", "--key-file", str(other.secret_file), lab.full(lab.closure.input1))
    return keys


def urls(lab: Lab, path: StorePath) -> list[str]:
    nar_hash = Hash.of(lab.dump(path)).nix32
    hash_part = path.hash_part
    return [
        *(f"/{hash_part}.narinfo", f"/{hash_part}.narinfo?json", f"/{hash_part}.ls", f"/path/{hash_part}"),
        *(f"/nar/{hash_part}-{nar_hash}.nar.zst", f"/nar/{nar_hash}.nar?hash={hash_part}", f"/nar/{hash_part}.nar"),
        *(f"/nar/{hash_part}-{nar_hash}.nar", f"/serve/{hash_part}", f"/serve/{hash_part}/"),
    ]


def assert_served(server: Server, lab: Lab, *paths: StorePath) -> None:
    for path in paths:
        for url in urls(lab, path):
            # A file has no page with a slash, a directory none without.
            assert server.get(url).status in ({200, 302, 404} if "/serve/" in url else {200}), url
        assert {server.get(url).status for url in urls(lab, path) if "/serve/" in url} & {200}
        assert f"path/{path.hash_part}" in server.get(f"/search?q={path.name}").body.decode()


def assert_not_there(server: Server, lab: Lab, *paths: StorePath) -> None:
    for path in paths:
        for url in urls(lab, path):
            assert server.get(url).status == 404, url
        assert str(path.hash_part) not in server.get(f"/search?q={path.name}").body.decode()
        assert server.get(f"/search?q={path.hash_part}").status == 200


def settings(lab: Lab, **policy: Any) -> dict[str, Any]:
    return settings_of(lab) | {"policy": policy}


def test_only_what_is_signed_by_a_listed_key(lab: Lab, added: StorePath, keys: Keys, tmp_path: Path) -> None:
    closure = lab.closure
    with Server(tmp_path, lab.env, settings(lab, serve="signed", public_keys=[keys.public])) as server:
        assert_served(server, lab, closure.top)
        assert_not_there(server, lab, closure.input0, closure.input1, closure.input2, added)
        # Its log, by the name of a derivation that nobody signed.
        assert b"FOO-log-line" in server.get(f"/log/{closure.derivation}").body
        # A link out of what is allowed into what is not.
        assert server.get(f"/serve/{closure.top.hash_part}/foobar").status == 200
        assert server.get(f"/serve/{closure.top.hash_part}/reference-to-input-2/").status == 404
        assert server.get(f"/serve/{closure.top.hash_part}/reference-to-input-2/bar").status == 404


def test_a_signature_that_another_key_made_under_the_same_name_is_none(lab: Lab, keys: Keys, tmp_path: Path) -> None:
    impostor = lab.secret_key("impostor-1").public.replace("impostor-1:", "ci-1:")
    with Server(tmp_path, lab.env, settings(lab, serve="signed", public_keys=[impostor])) as server:
        assert_not_there(server, lab, lab.closure.top)
        assert server.get(f"/log/{lab.closure.derivation}").status == 404


def test_only_what_was_built_here(lab: Lab, added: StorePath, tmp_path: Path) -> None:
    closure = lab.closure
    with Server(tmp_path, lab.env, settings(lab, serve="ultimate")) as server:
        assert_served(server, lab, closure.top, closure.input1)
        assert_not_there(server, lab, added, closure.derivation)
        assert b"FOO-log-line" in server.get(f"/log/{closure.derivation}").body


def test_only_what_the_roots_need(lab: Lab, added: StorePath, tmp_path: Path) -> None:
    closure = lab.closure
    roots = tmp_path / "roots"
    (roots / "profiles").mkdir(parents=True)
    (tmp_path / "profile-1-link").symlink_to(lab.full(closure.input2))
    (tmp_path / "profile").symlink_to("profile-1-link")
    (roots / "profiles" / "one").symlink_to(tmp_path / "profile")
    (roots / "dangling").symlink_to("nowhere")
    with Server(tmp_path, lab.env, settings(lab, serve="roots", roots=[str(roots), "/nowhere"])) as server:
        assert (
            "policy.roots: /nowhere: leads to no store path" in server.output() or server.get("/health").status == 200
        )
        assert_served(server, lab, closure.input2, closure.input0)
        assert_not_there(server, lab, closure.top, closure.input1, added)
        assert server.get(f"/log/{closure.derivation}").status == 404
        assert "policy.roots: /nowhere: leads to no store path" in server.output()


@pytest.mark.default_backing
def test_a_policy_that_comes_later_also_holds_for_what_is_kept_and_ready(
    lab: Lab, added: StorePath, tmp_path: Path
) -> None:
    with Server(tmp_path, lab.env, settings_of(lab) | {"workers": 1}) as server:
        for _ in range(3):  # the first keeps the file, the second makes it ready
            assert_served(server, lab, added)
        reload(server, settings(lab, serve="ultimate") | {"workers": 1})
        assert_not_there(server, lab, added)
        reload(server, settings_of(lab) | {"workers": 1})
        assert_served(server, lab, added)


def test_a_named_cache_with_the_paths_of_the_store_has_those_that_the_policy_allows(
    lab: Lab, added: StorePath, tmp_path: Path
) -> None:
    """It had all of them."""
    team = {"caches": {"team": {"public": True, "local_store": True}}}
    with Server(tmp_path, lab.env, settings(lab, serve="ultimate") | team) as server:
        assert server.get(f"/team/{lab.closure.top.hash_part}.narinfo").status == 200
        assert server.get(f"/team/{added.hash_part}.narinfo").status == 404
        assert server.get(f"/team/nar/{added.hash_part}.nar").status == 404


def test_a_realisation_of_what_is_not_served_is_not_there(tmp_path: Path) -> None:
    with Lab(tmp_path) as lab:
        closure = lab.build_ca()
        lab.start_daemon()
        with contextlib.closing(sqlite3.connect(lab.database)) as database:
            query = "select drvPath from Realisations join ValidPaths on outputPath = ValidPaths.id where path = ?"
            ((derivation,), *_) = database.execute(query, (lab.full(closure.top),)).fetchall()
        for policy, status in (({}, 200), ({"serve": "roots", "roots": [lab.full(closure.dep)]}, 404)):
            with Server(tmp_path, lab.env, settings_of(lab) | {"policy": policy}) as server:
                assert server.get(f"/realisations/{derivation}!out.doi").status == status
