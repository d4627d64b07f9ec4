"""What it takes for Attic's client to work unchanged, line by line, and the test of each.

Its client is doubled by `attic_client`; `tests/e2e/test_attic_itself.py` does the same with the program itself, where
`ATTIC_BIN` names it. Tests without a file are in this one.

| what its users do | test |
|---|---|
| login | `e2e/test_attic_itself.py::test_from_login_to_a_substituted_closure` (it asks no server) |
| create a private cache, and look at it | `web/attic/test_attic_api.py::test_a_cache_as_atticd_answers_it` |
| push a closure | `e2e/test_attic.py::test_a_closure_is_pushed_in_any_order_and_substituted` |
| with a path whose description is longer than 4,095 bytes | `test_a_path_whose_description_fits_in_no_header` |
| push it again: nothing is sent | `e2e/test_attic.py::test_a_closure_is_pushed_in_any_order_and_substituted` |
| push with `--force-preamble` | `test_a_closure_with_every_description_before_its_nar` |
| use, and `nix build` with the password of netrc | `test_nix_builds_with_the_token_as_the_password_of_netrc` |
| configure: public, priority, seven days | `web/attic/test_attic_api.py::test_a_cache_is_configured_and_destroyed` |
| configure again, without the retention | `web/attic/test_attic_api.py::test_a_cache_is_configured_and_destroyed` |
| push with a token without `w` | `test_a_token_that_is_not_good_for_a_push` |
| with one that has expired | `test_a_token_that_is_not_good_for_a_push` |
| with one that has `"w": true` | `test_a_token_that_is_not_good_for_a_push` |
| with one signed by RS256 | `e2e/test_attic.py::test_tokens_of_a_pair_of_keys` |
| with patterns, whose order counts | `test_of_two_patterns_the_first_decides_whether_one_may_push` |
| destroy, and look: 404, or 401 | `web/attic/test_attic_api.py::test_a_cache_is_configured_and_destroyed` |
| watch the store while something is built | `test_builds_are_pushed_in_batches_as_they_end` |
| a NAR of 2 GiB, into a server that stays small | `e2e/test_attic.py::test_a_nar_of_two_gib` |
| an upload that is cut in the middle | `test_an_upload_that_is_cut_leaves_nothing_and_the_next_one_is_whole` |
| two clients push the same | `test_two_clients_push_one_closure_at_once` |
| a path before its reference | `web/attic/test_attic_api.py::test_a_path_comes_before_its_reference` |
| a token that `atticadm` made | `test_a_token_that_atticadm_made` |
| answers as atticd gives them | `web/attic/test_attic_api.py::test_a_cache_as_atticd_answers_it` |
"""

import json
import re
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path as FilePath
from random import Random
from typing import Any, Final

import pytest
from attic_client import EVERYTHING, VECTOR, AtticClient, AtticSession, Path, make_token, of_lab, secret_base64
from lab import Client, Lab
from server import Server, settings_of

from harmonia_py.nix.store_path import StorePath

OWNER: Final = make_token("owner", {"*": EVERYTHING})
_TESTS: Final = FilePath(__file__).parents[1]


@pytest.fixture
def server(daemon: Lab, tmp_path: FilePath) -> Iterator[Server]:
    env = daemon.env | {"ATTIC_SERVER_TOKEN_HS256_SECRET_BASE64": secret_base64()}
    with Server(tmp_path, env, settings_of(daemon) | {"attic": {"enabled": True}, "workers": 2}) as server:
        yield server


@pytest.fixture
def owner(daemon: Lab, server: Server) -> AtticClient:
    """A client that may do everything, of a server that has a private cache `team`."""
    client = AtticClient(server.url, OWNER)
    assert client.create("team", store_dir=daemon.store_dir).status == 200
    return client


def closure_of(lab: Lab) -> list[Path]:
    return of_lab(lab, lab.closure.top)


def lacking(client: AtticClient, paths: list[Path]) -> set[str]:
    """The hash parts of those that the cache `team` lacks."""
    return set(client.missing("team", [path.store_path.hash_part for path in paths]).json["missing_paths"])


def built_by_nix(lab: Lab, server: Server, owner: AtticClient, path: StorePath, token: str = OWNER) -> Client:
    """Another machine, as `attic use` leaves it: it has said `nix build PATH`, and may make nothing by itself."""
    client = lab.client(f"client-of-{path.hash_part}")
    netrc = client.root / "netrc"
    netrc.write_text(f"machine 127.0.0.1\npassword {token}\n")
    options = {
        "substituters": f"{server.url}/team",
        "trusted-public-keys": owner.config("team").json["public_key"],
        "netrc-file": str(netrc),
        "max-jobs": "0",
    }
    words = [word for pair in options.items() for word in ("--option", *pair)]
    client.nix("build", "--no-link", *words, lab.full(path))
    return client


def test_every_test_of_the_table_is_there() -> None:
    rows = [line for line in (__doc__ or "").splitlines() if line.startswith("| ") and "`" in line]
    named = [match for row in rows for match in re.findall(r"`(?:([\w/]+\.py)::)?(test_\w+)`", row)]
    assert len(named) == len(rows) == 22
    for file, test in named:
        text = (_TESTS / file if file else FilePath(__file__)).read_text()
        assert f"def {test}(" in text, (file, test)


def test_a_path_whose_description_fits_in_no_header(daemon: Lab, server: Server, owner: AtticClient) -> None:
    """Many references make the JSON longer than 4,095 bytes, and the client sends it in front of the NAR."""
    expression = """
        builtins.toFile "many" (builtins.concatStringsSep "\\n" (builtins.genList
            (n: "${builtins.toFile "one-of-thirty-%s-${toString n}" (toString n)}") 30))
    """.replace("%s", "with-a-long-name-" * 8)
    told = daemon.run("nix-instantiate", "--eval", "--read-write-mode", "-E", expression).stdout
    path = daemon.store_dir.parse_path(json.loads(told))
    paths = of_lab(daemon, path)
    (many,) = (one for one in paths if one.store_path == path)
    assert len(json.dumps(many.description("team"), separators=(",", ":"))) >= 4096
    answers = owner.push("team", paths)
    assert {answer.status for answer in answers.values()} == {200}
    assert len(answers) == 31
    client = built_by_nix(daemon, server, owner, path)
    assert len(client.nix_store("--query", "--references", daemon.full(path)).split()) == 30


def test_a_closure_with_every_description_before_its_nar(daemon: Lab, server: Server, owner: AtticClient) -> None:
    answers = owner.push("team", closure_of(daemon), force_preamble=True, order=Random(2))
    assert [answer.json["kind"] for answer in answers.values()] == ["Uploaded"] * len(closure_of(daemon))
    assert built_by_nix(daemon, server, owner, daemon.closure.top).real(daemon.closure.top).exists()


def test_nix_builds_with_the_token_as_the_password_of_netrc(daemon: Lab, server: Server, owner: AtticClient) -> None:
    """`attic use` writes no login into netrc; the cache is private, and the token of the netrc may read and no more."""
    owner.push("team", closure_of(daemon))
    assert server.get("/team/nix-cache-info").status == 401
    client = built_by_nix(daemon, server, owner, daemon.closure.top, make_token("reader", {"team": {"r": 1}}))
    assert client.run("nix-store", "--dump", str(client.real(daemon.closure.top))).stdout == daemon.dump(
        daemon.closure.top
    )


@pytest.mark.parametrize(
    ("rights", "claims", "status", "words"),
    [
        ({"r": 1}, {}, 403, "AccessError: Access error: User does not have permission"),
        ({"r": 1, "w": 1}, {"exp": 1_700_000_000}, 401, "expired on 2023-11-14"),
        ({"r": 1, "w": True}, {}, 401, "Unauthorized"),
    ],
    ids=["without w", "expired", "w is true"],
)
def test_a_token_that_is_not_good_for_a_push(
    *,
    daemon: Lab,
    server: Server,
    owner: AtticClient,
    rights: Mapping[str, Any],
    claims: dict[str, Any],
    status: int,
    words: str,
) -> None:
    """All that `attic push` asks is refused, with the reason, and nothing arrives."""
    client, paths = AtticClient(server.url, make_token("alice", {"team": rights}, **claims)), closure_of(daemon)
    assert client.config("team").status == (200 if status == 403 else 401)
    for refused in (
        client.missing("team", [path.store_path.hash_part for path in paths]),
        *(client.upload("team", path) for path in paths),
        client.upload("team", paths[0], force_preamble=True),
    ):
        assert refused.status == status
        assert words in refused.error
    assert lacking(owner, paths) == {path.store_path.hash_part for path in paths}


def test_of_two_patterns_the_first_decides_whether_one_may_push(
    daemon: Lab, server: Server, owner: AtticClient
) -> None:
    paths = closure_of(daemon)
    patterns: dict[str, Any] = {"te*": {"r": 1}, "*am": {"r": 1, "w": 1}}
    reader = AtticClient(server.url, make_token("alice", patterns))
    assert {reader.upload("team", path).status for path in paths} == {403}
    pusher = AtticClient(server.url, make_token("alice", dict(reversed(patterns.items()))))
    assert {answer.status for answer in pusher.push("team", paths).values()} == {200}
    assert lacking(owner, paths) == set()


def test_builds_are_pushed_in_batches_as_they_end(daemon: Lab, server: Server, owner: AtticClient) -> None:
    """A batch is the closure of what was built; what came with an earlier one is not sent again."""

    def build(name: str, script: str, **inputs: str) -> StorePath:
        given = "".join(f"{key} = builtins.storePath {value}; " for key, value in inputs.items())
        text = f'derivation {{ name = "{name}"; system = builtins.currentSystem; builder = "/bin/sh"; {given}'
        text += f'args = [ "-c" "{script}" ]; }}'
        told = daemon.run("nix-build", "--no-out-link", "--option", "sandbox", "false", "-E", text).stdout
        return daemon.store_dir.parse_path(told.decode().strip())

    watching = AtticSession(owner, "team")
    first = build("first", "echo one > $out")
    assert set(watching.push(of_lab(daemon, first))) == {first}
    second = build("second", "echo $first > $out", first=daemon.full(first))
    third = build("third", "echo $second > $out", second=daemon.full(second))
    answers = watching.push(of_lab(daemon, second, third))
    assert set(answers) == {second, third}
    assert {answer.status for answer in answers.values()} == {200}
    assert watching.push(of_lab(daemon, third)) == {}
    assert built_by_nix(daemon, server, owner, third).real(first).exists()


def test_an_upload_that_is_cut_leaves_nothing_and_the_next_one_is_whole(
    daemon: Lab, server: Server, owner: AtticClient
) -> None:
    (path,) = of_lab(daemon, daemon.closure.input0)
    lines = [
        "PUT /_api/v1/upload-path HTTP/1.1",
        "Host: x",
        f"Authorization: bearer {OWNER}",
        f"X-Attic-Nar-Info: {json.dumps(path.description('team'))}",
        "Transfer-Encoding: chunked",
    ]
    half = path.nar[: len(path.nar) // 2]
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + f"{len(half):x}\r\n".encode() + half + b"\r\n")
        # Its end, which an honest client marks by an empty chunk, never comes.
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass
    token = {"Authorization": f"Bearer {OWNER}"}
    assert lacking(owner, [path]) == {path.store_path.hash_part}
    assert server.get(f"/team/{path.store_path.hash_part}.narinfo", token).status == 404
    assert owner.upload("team", path).json["kind"] == "Uploaded"
    assert built_by_nix(daemon, server, owner, path.store_path).real(path.store_path).exists()


def test_two_clients_push_one_closure_at_once(daemon: Lab, server: Server, owner: AtticClient) -> None:
    """Each in an order of its own, to a server of two processes."""
    paths = closure_of(daemon)

    def push(number: int) -> set[int]:
        answers = AtticClient(server.url, OWNER).push("team", paths, order=Random(number))
        return {answer.status for answer in answers.values()}

    with ThreadPoolExecutor(4) as threads:
        assert set().union(*threads.map(push, range(4))) <= {200}
    assert lacking(owner, paths) == set()
    assert built_by_nix(daemon, server, owner, daemon.closure.top).real(daemon.closure.top).exists()


def test_a_token_that_atticadm_made(daemon: Lab, server: Server, owner: AtticClient) -> None:
    """It may create, read and push `alice-*`, read `main`, and knows of nothing else."""
    alice, paths = AtticClient(server.url, VECTOR), closure_of(daemon)
    assert alice.config("main").error.startswith("NoSuchCache")
    assert owner.create("main", store_dir=daemon.store_dir).status == 200
    assert alice.create("alice-x", store_dir=daemon.store_dir).status == 200
    assert {answer.status for answer in alice.push("alice-x", paths).values()} == {200}
    assert alice.config("main").status == 200
    assert (alice.upload("main", paths[0]).status, alice.destroy("alice-x").status) == (403, 403)
    for refused in (alice.config("team"), alice.upload("team", paths[0]), alice.create("other")):
        assert (refused.status, refused.error) == (401, "Unauthorized: Unauthorized.")
    told = server.get("/alice-x/nix-cache-info", {"Authorization": f"Bearer {VECTOR}"})
    assert "Priority: 41" in told.body.decode().splitlines()
