"""What is mirrored comes into the store of this machine, through its nix-daemon, and only what that daemon trusts."""

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import prefork
import pytest
import tomli_w
from lab import Keys, Lab
from nginx import Nginx
from nix_versions import INSTALLED, VERSIONS, NixVersion
from reloading import reload
from server import Server, settings_of

from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.store_path import StorePath

TIME_LIMIT = 30.0


@pytest.fixture
def keys(lab: Lab) -> Keys:
    return lab.secret_key("upstream-1")


@pytest.fixture
def upstream(lab: Lab, keys: Keys, tmp_path: Path) -> Iterator[Nginx]:
    """Another cache that has the closure; the store of `lab` has lost it."""
    directory = tmp_path / "upstream"
    lab.nix("copy", "--to", f"file://{directory}?secret-key={keys.secret_file}", lab.full(lab.closure.top))
    lab.delete(*closure(lab))
    with Nginx(tmp_path, directory) as upstream:
        yield upstream


def closure(lab: Lab) -> list[StorePath]:
    """References first."""
    return [lab.closure.input0, lab.closure.input2, lab.closure.top]


def configure(lab: Lab, *lines: str) -> None:
    """Add to the `nix.conf` that the daemon reads when it starts."""
    with (lab.root / "etc" / "nix.conf").open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def importing(lab: Lab, upstream: Nginx, keys: Keys, *ours: Keys, **settings: Any) -> dict[str, Any]:
    table = {"url": upstream.url, "name": "up", "public_keys": [keys.public]}
    return settings_of(lab, *ours) | {"upstream": [table], "mirror": {"import": True}} | settings


def narinfo_of(server: Server, lab: Lab, store_path: StorePath) -> tuple[NarInfo, str]:
    answer = server.get(f"/{store_path.hash_part}.narinfo")
    assert answer.status == 200
    return NarInfo.parse(answer.body, lab.store_dir), answer.headers["X-Harmonia-Source"]


def is_served_from_the_store(server: Server, lab: Lab, store_path: StorePath) -> bool:
    return narinfo_of(server, lab, store_path)[1] == "local"


def is_kept(server: Server, lab: Lab, store_path: StorePath) -> bool:
    return narinfo_of(server, lab, store_path)[1] == "kept"


def download(server: Server, lab: Lab, store_path: StorePath) -> None:
    """Fetch the NAR, as a client that has no use for what it refers to."""
    narinfo, _ = narinfo_of(server, lab, store_path)
    assert server.get(f"/{narinfo.url}").status == 200


def imports(server: Server) -> dict[str, float]:
    """How many imports had which result, over all workers."""
    lines = server.get("/metrics").body.decode().splitlines()
    named = [line.partition('{result="')[2] for line in lines if line.startswith("harmonia_mirror_imports_total{")]
    return {line.partition('"')[0]: float(line.rpartition(" ")[2]) for line in named}


def assert_imported(server: Server, lab: Lab, key_name: str, *paths: StorePath) -> None:
    """They are valid, byte for byte what the upstream has, and served as any other path of the store."""
    for path in paths:
        server.until(partial(lab.is_valid, path))
        server.until(partial(is_served_from_the_store, server, lab, path))
        info = lab.path_infos(lab.full(path))[lab.full(path)]
        assert any(signature.startswith(f"{key_name}:") for signature in info["signatures"])
        assert not info.get("ultimate", False)
    # Each file is what the NarHash says, which the upstream has signed.
    lab.nix_store("--verify", "--check-contents")


@pytest.mark.parametrize("trusted_user", ["root", "nobody"])
def test_what_a_client_gets_of_an_upstream_is_in_the_store_soon_after(
    lab: Lab, upstream: Nginx, keys: Keys, tmp_path: Path, trusted_user: str
) -> None:
    """The daemon trusts the key; whether it trusts us does not matter."""
    configure(lab, f"trusted-public-keys = {keys.public}", f"trusted-users = {trusted_user}")
    lab.start_daemon()
    with Server(tmp_path, lab.env, importing(lab, upstream, keys)) as server:
        client = lab.client("client")
        options = ("--option", "substituters", server.url, "--option", "trusted-public-keys", keys.public)
        client.nix_store("--realise", lab.full(lab.closure.top), *options, "--max-jobs", "0")
        assert_imported(server, lab, "upstream-1", *closure(lab))
        assert imports(server) == {"imported": 3.0, "untrusted": 0.0, "incomplete": 0.0, "failed": 0.0}
        # From now on neither the upstream nor what was kept is needed.
        upstream.stop()
        other = lab.client("other")
        other.nix_store("--realise", lab.full(lab.closure.top), "--option", "substituters", server.url,
                        "--option", "trusted-public-keys", keys.public, "--max-jobs", "0")  # fmt: skip
        assert other.run("nix-store", "--dump", str(other.real(lab.closure.top))).stdout == lab.dump(lab.closure.top)


@pytest.mark.default_backing
@pytest.mark.parametrize("trusted_user", ["root", "nobody"])
def test_what_the_daemon_does_not_trust_stays_outside_and_the_log_says_why_once(
    lab: Lab, upstream: Nginx, keys: Keys, tmp_path: Path, trusted_user: str
) -> None:
    configure(lab, f"trusted-users = {trusted_user}")
    lab.start_daemon()
    with Server(tmp_path, lab.env, importing(lab, upstream, keys, workers=1)) as server:
        for path in closure(lab):
            download(server, lab, path)
        server.until(lambda: imports(server)["untrusted"] == 3.0)
        for path in closure(lab):
            download(server, lab, path)
            server.until(partial(is_kept, server, lab, path))
        assert not any(lab.is_valid(path) for path in closure(lab))
        said = [line for line in server.output().splitlines() if "warning:" in line and "trusted-public-keys" in line]
        assert len(said) == 1
        assert "upstream-1" in said[0]


def test_a_key_of_ours_that_the_daemon_trusts_vouches_for_what_is_mirrored(
    lab: Lab, upstream: Nginx, keys: Keys, tmp_path: Path
) -> None:
    ours = lab.secret_key("ours-1")
    configure(lab, f"trusted-public-keys = {ours.public}", "trusted-users = nobody")
    lab.start_daemon()
    with Server(tmp_path, lab.env, importing(lab, upstream, keys, ours)) as server:
        for path in closure(lab):
            download(server, lab, path)
        assert_imported(server, lab, "ours-1", *closure(lab))
        assert_imported(server, lab, "upstream-1", *closure(lab))


def test_a_path_that_comes_before_what_it_refers_to_waits_for_it(
    lab: Lab, upstream: Nginx, keys: Keys, tmp_path: Path
) -> None:
    """Also where another worker fetches the one than the other."""
    configure(lab, f"trusted-public-keys = {keys.public}")
    lab.start_daemon()
    with Server(tmp_path, lab.env, importing(lab, upstream, keys, workers=4)) as server:
        for path in reversed(closure(lab)):
            assert not lab.is_valid(lab.closure.top)
            download(server, lab, path)
        assert_imported(server, lab, "upstream-1", *closure(lab))
        assert imports(server)["failed"] == 0.0


@pytest.mark.default_backing
def test_a_server_that_asks_no_daemon_says_that_nothing_comes_into_the_store(
    lab: Lab, upstream: Nginx, keys: Keys, tmp_path: Path
) -> None:
    """Once, by the worker that keeps house; what is mirrored is served all the same, and pushes are refused."""
    asks_nobody = {"nix_db_path": str(lab.database), "caches": {"default": {"into": "store"}}}
    with Server(tmp_path, lab.env, importing(lab, upstream, keys) | asks_nobody) as server:
        download(server, lab, lab.closure.input0)
        assert server.request("PUT", f"/push/{lab.closure.input0.hash_part}.narinfo").status != 200
        words = (
            "mirror.import: nothing is imported, as no nix-daemon is asked",
            "caches.default.into: pushes are refused, as no nix-daemon is asked",
        )
        server.until(lambda: [server.output().count(line) for line in words] == [1, 1])


def test_a_daemon_that_is_away_gets_its_paths_when_it_is_back(
    lab: Lab, upstream: Nginx, keys: Keys, tmp_path: Path
) -> None:
    configure(lab, f"trusted-public-keys = {keys.public}")
    lab.start_daemon()
    with Server(tmp_path, lab.env, importing(lab, upstream, keys)) as server:
        urls = [f"/{narinfo_of(server, lab, path)[0].url}" for path in closure(lab)]
        for number, url in enumerate(urls):
            if number == 1:
                lab.stop_daemon()
            assert server.get(url).status == 200
        lab.start_daemon(awaited=True)
        assert_imported(server, lab, "upstream-1", *closure(lab))


@pytest.mark.slow
def test_what_was_imported_is_nobodys_root_and_comes_again_after_it_was_collected(
    lab: Lab, upstream: Nginx, keys: Keys, tmp_path: Path
) -> None:
    configure(lab, f"trusted-public-keys = {keys.public}")
    lab.start_daemon()
    settings = importing(lab, upstream, keys)
    with Server(tmp_path, lab.env, settings) as server:
        for path in closure(lab):
            download(server, lab, path)
        assert_imported(server, lab, "upstream-1", *closure(lab))
        reload(server, settings)  # what it remembers of them, it forgets
        server.until(lambda: not collect(lab))
        server.until(partial(is_kept, server, lab, lab.closure.top))
        upstream.stop()
        download(server, lab, lab.closure.top)
        assert_imported(server, lab, "upstream-1", *closure(lab))


def collect(lab: Lab) -> list[StorePath]:
    """What is left of the closure when all garbage has gone; a connection protects what came through it."""
    lab.nix_store("--gc")
    return [path for path in closure(lab) if lab.is_valid(path)]


@pytest.mark.default_backing
def test_a_key_that_is_added_to_nix_conf_is_noticed_after_a_reload(
    lab: Lab, upstream: Nginx, keys: Keys, tmp_path: Path
) -> None:
    lab.start_daemon()
    settings = importing(lab, upstream, keys)
    with Server(tmp_path, lab.env, settings) as server:
        download(server, lab, lab.closure.input0)
        server.until(lambda: imports(server)["untrusted"] == 1.0)
        configure(lab, f"trusted-public-keys = {keys.public}")
        lab.stop_daemon()
        lab.start_daemon(awaited=True)
        reload(server, settings)
        download(server, lab, lab.closure.input0)
        assert_imported(server, lab, "upstream-1", lab.closure.input0)


def test_a_closure_that_is_mirrored_ahead_is_in_the_store_when_the_command_ends(
    lab: Lab, upstream: Nginx, keys: Keys, tmp_path: Path
) -> None:
    """Also what had been kept before."""
    configure(lab, f"trusted-public-keys = {keys.public}")
    lab.start_daemon()
    settings = importing(lab, upstream, keys)
    with Server(tmp_path, lab.env, settings | {"mirror": {}}) as server:
        download(server, lab, lab.closure.input2)
    file = server.root / "harmonia.toml"
    file.write_text(tomli_w.dumps(settings))
    arguments = ("mirror", "--config", str(file), "--closure", lab.full(lab.closure.top))
    env = lab.env | {"CACHE_DIRECTORY": str(server.root / "cache"), "STATE_DIRECTORY": str(server.root / "state")}
    done = prefork.run(*arguments, cwd=server.root, env=env)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "3 store paths kept, 3 added to the local store, 0 failed" in done.stderr
    assert all(lab.is_valid(path) for path in closure(lab))


@pytest.mark.parametrize(
    "version",
    [
        pytest.param(version, id=version.name, marks=[] if version is INSTALLED else [pytest.mark.slow])
        for version in VERSIONS
    ],
)
@pytest.mark.parametrize("trusts", [True, False])
def test_a_daemon_of_each_version_takes_what_it_trusts_and_nothing_else(
    version: NixVersion, *, trusts: bool, tmp_path: Path
) -> None:
    if version.missing is not None:
        pytest.skip(version.missing)
    root = tmp_path / "lab"
    root.mkdir()
    with Lab(root) as lab:
        lab.env = version.wrap(lab.env, tmp_path)
        lab.closure = lab.build()
        keys = lab.secret_key("upstream-1")
        directory = tmp_path / "upstream"
        lab.nix("copy", "--to", f"file://{directory}?secret-key={keys.secret_file}", lab.full(lab.closure.top))
        lab.delete(*closure(lab))
        configure(lab, f"trusted-public-keys = {keys.public if trusts else ''}")
        lab.start_daemon()
        with (
            Nginx(tmp_path, directory) as upstream,
            Server(tmp_path, lab.env, importing(lab, upstream, keys, workers=1)) as server,
        ):
            for path in closure(lab):
                download(server, lab, path)
            if trusts:
                assert_imported(server, lab, "upstream-1", *closure(lab))
            else:
                server.until(lambda: imports(server)["untrusted"] == 3.0)
                assert imports(server)["failed"] == 0.0
                assert not any(lab.is_valid(path) for path in closure(lab))


@pytest.mark.default_backing
def test_a_worker_that_is_killed_midway_leaves_the_path_to_its_successor(lab: Lab, keys: Keys, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(bytes(100_000_000))
    large = lab.add(file)
    directory = tmp_path / "upstream"
    lab.nix("copy", "--to", f"file://{directory}?compression=zstd&secret-key={keys.secret_file}", lab.full(large))
    lab.delete(large)
    lab.start_daemon()
    nginx = Nginx(tmp_path, directory)
    with nginx as upstream, Server(tmp_path, lab.env, importing(lab, upstream, keys, workers=1)) as server:
        [_, worker] = server.processes()
        download(server, lab, large)
        server.until(lab.real(large).exists)  # the daemon writes
        os.kill(worker, signal.SIGKILL)
        server.until(lambda: set(server.processes()[1:]) - {worker})
        assert not lab.is_valid(large)
        download(server, lab, large)
        assert_imported(server, lab, "upstream-1", large)
