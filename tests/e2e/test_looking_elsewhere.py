"""Where a cache looks for what was not pushed to it: other caches, and some of the upstreams of the server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from administering import Machine
from lab import Client, Keys, Lab
from msgspec.structs import replace
from nginx import Nginx
from server import Server, settings_of

from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import StorePath

TABLES: Final[dict[str, Any]] = {
    "base": {},
    "team": {"caches": ["base"]},
    "other": {},
}


class Teams:
    """A server with the caches of `TABLES`, each with a key, and a token for each that reads and pushes there alone."""

    def __init__(self, server: Server, machine: Machine, lab: Lab) -> None:
        self.server, self.machine, self.lab = server, machine, lab
        self.keys = {name: machine.do("key", "create", name).strip() for name in TABLES}
        self.tokens = {
            name: machine.do("token", "create", name, "--cache", name, "--allow", "read,push").strip()
            for name in TABLES
        }

    def url(self, cache: str, place: str = "") -> str:
        return f"http://x:{self.tokens[cache]}@127.0.0.1:{self.server.port}/{cache}{place}"

    def copy(self, cache: str, *paths: StorePath) -> None:
        full = [self.lab.full(path) for path in paths]
        self.lab.nix("copy", "--to", f"{self.url(cache, '/push')}?compression=zstd", *full)

    def get(self, cache: str, place: str, token: str | None = None) -> Any:
        return self.server.get(f"/{cache}{place}", {"Authorization": f"Bearer {self.tokens[token or cache]}"})

    def signers(self, cache: str, path: StorePath) -> set[str]:
        narinfo = NarInfo.parse(self.get(cache, f"/{path.hash_part}.narinfo").body, self.lab.store_dir)
        names = {public.partition(":")[0]: name for name, public in self.keys.items()}
        return {names[signature.key_name] for signature in narinfo.path_info.signatures}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def teams(lab: Lab, machine: Machine, tmp_path: Path) -> Iterator[Teams]:
    lab.start_daemon()
    with Server(tmp_path, lab.env, settings_of(lab) | {"caches": TABLES}) as server:
        yield Teams(server, machine, lab)


def test_a_cache_has_what_the_cache_has_that_it_looks_into(teams: Teams, lab: Lab) -> None:
    closure = lab.closure
    teams.copy("base", closure.input2)
    teams.copy("team", closure.top)
    entries = teams.machine.lines("audit")
    pushed = [entry["subject"] for entry in entries if (entry["action"], entry["cache"]) == ("push", "team")]
    assert pushed == [closure.top], "what base has is not sent again"
    assert teams.signers("team", closure.top) == {"team"}
    # Only the cache whose bytes they were vouches for them.
    assert teams.signers("team", closure.input2) == {"base"}
    client = lab.client("client")
    keys = f"{teams.keys['team']} {teams.keys['base']}"
    options = ("--option", "substituters", teams.url("team"), "--option", "trusted-public-keys", keys)
    client.nix_store("--realise", lab.full(closure.top), "--max-jobs", "0", *options)
    for path in (closure.top, closure.input2, closure.input0):
        assert client.run("nix-store", "--dump", str(client.real(path))).stdout == lab.dump(path)
    assert teams.get("team", f"/{closure.input2.hash_part}.ls").status == 200
    page = teams.get("team", "/").body.decode()
    assert teams.keys["team"] in page
    assert teams.keys["base"] in page


def test_no_other_cache_and_no_other_token_sees_it(teams: Teams, lab: Lab) -> None:
    path = lab.closure.input0
    teams.copy("base", path)
    narinfo = teams.get("base", f"/{path.hash_part}.narinfo")
    url = NarInfo.parse(narinfo.body, lab.store_dir).url
    for place in (f"/{path.hash_part}.narinfo", f"/{url}", f"/{path.hash_part}.ls"):
        assert teams.get("team", place).status == 200
        assert teams.get("other", place).status == 404
        assert teams.get("base", place, "team").status == 403
        assert teams.server.get(f"/team{place}").status == 401
    # It looks one way: base has nothing of team.
    teams.copy("team", lab.closure.input1)
    assert teams.get("base", f"/{lab.closure.input1.hash_part}.narinfo").status == 404


def test_a_public_cache_never_shows_what_a_private_one_has(teams: Teams, lab: Lab) -> None:
    machine, path = teams.machine, lab.closure.input0
    teams.copy("base", path)
    refused = machine.refusal("cache", "create", "open", "--public", "--look-into", "base")
    assert "base is not public" in refused
    machine.do("cache", "create", "library", "--public")
    machine.do("cache", "create", "open", "--public", "--look-into", "library")
    teams.tokens["library"] = machine.do(
        "token", "create", "library", "--cache", "library", "--allow", "read,push"
    ).strip()
    teams.copy("library", path)
    place = f"/open/{path.hash_part}.narinfo"
    assert teams.server.get(place).status == 200
    machine.do("cache", "configure", "library", "--no-public")
    assert {teams.server.get(place).status for _ in range(8)} == {404}

    def explained() -> str:
        done = machine.run("explain", "--cache", "open", path.hash_part)
        assert done.returncode == 1
        return " ".join(done.stdout.split())

    assert "cache library: is not public, so open, which is, shows nothing of it" in explained()
    machine.do("cache", "delete", "library", "--yes")
    assert "cache library: there is none of this name any more" in explained()


def test_what_explain_says_has_names_as_they_are(teams: Teams, lab: Lab) -> None:
    """Brackets came with backslashes, as if the line had markup."""
    path, secret_file = lab.closure.input0, lab.root / "secret"
    lab.secret_key("team[prod]-1").secret_file.rename(secret_file)
    target = f"{teams.url('team', '/push')}?compression=zstd&secret-key={secret_file}"
    lab.nix("copy", "--to", target, lab.full(path))
    done = teams.machine.run("explain", "--cache", "team", path.hash_part)
    assert done.returncode == 0
    assert "team[prod]-1" in " ".join(done.stdout.split())


def test_commands_make_no_circles_and_name_nothing_that_is_not_there(teams: Teams) -> None:
    machine = teams.machine
    machine.do("cache", "create", "a")
    machine.do("cache", "create", "b", "--look-into", "a", "--look-into", "team")
    assert "looks through itself: a -> b -> a" in machine.refusal("cache", "configure", "a", "--look-into", "b")
    assert "no cache nowhere" in machine.refusal("cache", "configure", "a", "--look-into", "nowhere")
    assert "no upstream nowhere" in machine.refusal("cache", "configure", "a", "--look-into-upstream", "nowhere")
    # Two ways to one cache are no circle: it is asked once. That at / is as public as the configuration says.
    machine.do("cache", "create", "c", "--look-into", "a", "--look-into", "b", "--look-into", "default")
    machine.do("cache", "create", "d", "--public", "--look-into", "default")
    words = machine.run("explain", "--cache", "c", "0" * 32).stdout
    assert [words.count(f"cache {name}: it was not pushed") for name in ("c", "a", "b", "team", "base")] == [1] * 5


def test_an_export_has_no_path_whose_reference_is_in_another_cache(teams: Teams, lab: Lab, tmp_path: Path) -> None:
    """A web server with the files looks nowhere else: Nix would fail in the middle of the closure."""
    closure, out = lab.closure, tmp_path / "out"
    teams.copy("base", closure.input2)
    teams.copy("team", closure.top, closure.input1)
    done = teams.machine.run("export", "team", str(out))
    assert done.returncode == 1
    assert "1 path in " in done.stdout
    assert "; 1 left out, as they or their references are not in this cache" in " ".join(done.stdout.split())
    assert [file.stem for file in out.glob("*.narinfo")] == [closure.input1.hash_part]


def test_explain_says_which_cache_has_a_path_and_why_another_has_not(teams: Teams, lab: Lab) -> None:
    machine, path = teams.machine, lab.closure.input0

    def explain(cache: str) -> tuple[int, str]:
        done = machine.run("explain", "--cache", cache, path.hash_part)
        return done.returncode, " ".join(done.stdout.split())

    status, words = explain("team")
    assert status == 1
    assert "cache team: it was not pushed" in words
    assert "cache base: it was not pushed" in words
    teams.copy("base", path)
    status, words = explain("team")
    assert status == 0
    assert f"cache base: has {path}, pushed by token base at 20" in words
    assert "team is private: 401 without a good token, 403 with one that does not allow to read it." in words
    assert explain("other")[0] == 1
    done = machine.run("explain", f"http://host/base/push/run/{path.hash_part}.narinfo")
    assert done.returncode == 0
    assert "cache base: has" in " ".join(done.stdout.split())
    assert "cache default: it was not pushed" in explain("default")[1]
    assert "there is no cache nowhere" in machine.refusal("explain", "--cache", "nowhere", path.hash_part)


@pytest.fixture
def upstream_keys(lab: Lab) -> Keys:
    return lab.secret_key("upstream-1")


def filled(lab: Lab, directory: Path, keys: Keys, *paths: StorePath) -> Path:
    full = [lab.full(path) for path in paths]
    settings = f"compression=xz&write-nar-listing=true&secret-key={keys.secret_file}"
    lab.nix("copy", "--to", f"file://{directory}?{settings}", *full)
    return directory


def test_a_cache_with_one_upstream_has_nothing_of_the_others(
    lab: Lab, upstream_keys: Keys, machine: Machine, tmp_path: Path
) -> None:
    both, one = lab.closure.input0, lab.closure.input1
    first = filled(lab, tmp_path / "first", upstream_keys, both, one)
    second = filled(lab, tmp_path / "second", upstream_keys, both)
    output = DrvOutput.parse(f"sha256:{'ab' * 32}!out")
    realisation = Realisation(id=output, out_path=one)
    signature = SecretKey.parse(upstream_keys.secret_file.read_text()).sign(realisation.fingerprint())
    (first / "realisations").mkdir(exist_ok=True)
    told = replace(realisation, signatures=(signature,)).format_old()
    (first / "realisations" / f"{output}.doi").write_bytes(told)
    (tmp_path / "other").mkdir()
    with Nginx(tmp_path, first) as near, Nginx(tmp_path / "other", second) as far:
        upstream = [
            {"url": server.url, "name": name, "public_keys": [upstream_keys.public], "priority": priority}
            for server, name, priority in ((near, "near", 10), (far, "far", 20))
        ]
        settings = {
            "workers": 2,
            "upstream": upstream,
            "virtual_nix_store": lab.store_dir,
            "real_nix_store": str(tmp_path / "none"),
            "daemon_socket": str(tmp_path / "no-socket"),
            "caches": {
                "some": {"public": True, "upstreams": ["far"]},
                "all": {"public": True, "upstreams": ["near", "far"]},
            },
        }
        with Server(tmp_path, lab.env, settings) as server:
            for _ in range(2):  # asked, then kept
                for path in (both, one):
                    narinfo = server.get(f"/{path.hash_part}.narinfo")
                    url = NarInfo.parse(narinfo.body, lab.store_dir).url
                    assert server.get(f"/{url}").status == 200
                    expected = 404 if path is one else 200
                    assert server.get(f"/some/{path.hash_part}.narinfo").status == expected
                    assert server.get(f"/some/{url}").status == expected
                    assert server.get(f"/all/{path.hash_part}.ls").status == 200
                    assert server.get(f"/some/{path.hash_part}.ls").status == expected
                    assert server.get(f"/all/{path.hash_part}.narinfo").status == 200
            assert server.get(f"/all/realisations/{output}.doi").status == 200
            assert server.get(f"/some/realisations/{output}.doi").status == 404
            client: Client = lab.client("client")
            options = ("--option", "trusted-public-keys", upstream_keys.public, "--max-jobs", "0")
            client.nix_store("--realise", lab.full(both), "--option", "substituters", f"{server.url}/some", *options)
            with pytest.raises(AssertionError):
                client.nix_store("--realise", lab.full(one), "--option", "substituters", f"{server.url}/some", *options)
