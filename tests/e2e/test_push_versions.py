"""Every version of Nix pushes in every form, and every version substitutes what another has pushed."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from lab import Lab
from nginx import Nginx
from nix_versions import INSTALLED, VERSIONS, NixVersion
from pushing import PushServer, pushed_to

from harmonia_py.nix.store_path import StorePath

BUILD_ID: Final = "ab" + "0123456789" * 3 + "abcdef01"


@pytest.fixture(
    params=[pytest.param(one, id=one.name, marks=[] if one is INSTALLED else [pytest.mark.slow]) for one in VERSIONS]
)
def version(request: pytest.FixtureRequest) -> NixVersion:
    found: NixVersion = request.param
    if found.missing is not None:
        pytest.skip(found.missing)
    return found


@pytest.fixture
async def server(tmp_path: Path, lab: Lab) -> AsyncIterator[PushServer]:
    async with pushed_to(tmp_path, lab.store_dir) as server:
        yield server


@pytest.fixture
def roots(lab: Lab, tmp_path: Path) -> tuple[StorePath, ...]:
    """A closure, a path with debug information, and one that is content-addressed by its derivation.

    Nix 2.26 and later refuse one that contains its own name and was made by Nix 2.8, wherever they get it from.
    """
    file = tmp_path / "debug" / "lib" / "debug" / ".build-id" / BUILD_ID[:2] / f"{BUILD_ID[2:]}.debug"
    file.parent.mkdir(parents=True)
    file.write_text("debug information")
    return lab.closure.top, lab.add(tmp_path / "debug"), lab.build_ca().dep


@pytest.mark.parametrize("extras", [False, True], ids=["NARs alone", "with listings, debug information, realisations"])
@pytest.mark.parametrize("compression", ["xz", "zstd", "none"])
@pytest.mark.parametrize("way", ["direct", "nginx"])
async def test_a_version_pushes_and_the_others_substitute(
    *,
    server: PushServer,
    lab: Lab,
    roots: tuple[StorePath, ...],
    version: NixVersion,
    tmp_path: Path,
    way: str,
    compression: str,
    extras: bool,
) -> None:
    lab.env = version.wrap(lab.env, tmp_path)
    settings: dict[str, Any] = {"write_nar_listing": "1", "index_debug_info": "1"} if extras else {}
    with ExitStack() as stack:
        through = server
        if way == "nginx":
            proxy = f"proxy_pass http://127.0.0.1:{server.port}; client_max_body_size 0;"
            through = dataclasses.replace(
                server, port=stack.enter_context(Nginx(tmp_path, server.directory, proxy)).port
            )
        await through.copy(lab, *roots, compression=compression, **settings)
        if extras:
            # A store path alone has no realisation: Nix pushes those of what is named by its derivation.
            await through.copy(lab, options=("--file", str(lab.root / "lab.nix"), "caDep"), compression=compression)
        puts = [line for line in server.seen if line.startswith("PUT")]
        assert {line.split()[-1] for line in puts} == {"200"}
        assert any(f"/debuginfo/{BUILD_ID}" in line for line in puts) is extras
        assert any(line.endswith(".ls 200") for line in puts) is extras
        assert any("/realisations/" in line for line in puts) is extras
        await through.copy(lab, *roots, run="again", compression=compression, **settings)
        assert len([line for line in server.seen if line.startswith("PUT")]) == len(puts), "a second push sends nothing"
        for other in VERSIONS if version is not INSTALLED else [INSTALLED]:
            if other.missing is None:
                await _substitute(through, lab, other, roots, tmp_path)
    narinfo = (await server.get(f"/{lab.closure.top.hash_part}.narinfo")).body.decode()
    assert f"\nCompression: {compression}\n" in narinfo


async def _substitute(
    server: PushServer, lab: Lab, version: NixVersion, roots: tuple[StorePath, ...], shared: Path
) -> None:
    client = lab.client(f"client-{version.name}")
    client.env = version.wrap(client.env, shared)
    options = ["--option", "substituters", server.url("reader"), "--option", "require-sigs", "false"]
    await asyncio.to_thread(client.nix_store, "--realise", *map(lab.full, roots), *options)
    for path in roots:
        assert client.run("nix-store", "--dump", str(client.real(path))).stdout == lab.dump(path)


async def test_versions_push_the_same_closure_at_once(
    server: PushServer, lab: Lab, roots: tuple[StorePath, ...], tmp_path: Path
) -> None:
    """Three clients, of as many versions as there are here, none of which knows of the others."""
    there = [version for version in VERSIONS if version.missing is None]
    labs = []
    # Of clients that open the database of the store themselves, one may ask for ever: "SQLite database is busy".
    lab.start_daemon()
    for number in range(3):
        home = tmp_path / f"home-{number}"
        home.mkdir()
        env = lab.env | {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "NIX_REMOTE": "daemon"}
        labs.append((number, there[number % len(there)].wrap(env, tmp_path)))

    async def push(number: int, env: dict[str, str]) -> int:
        url = server.url("pusher", f"/push/r{number}?compression=zstd")
        command = ["nix", "copy", "--to", url, *map(lab.full, roots)]
        process = await asyncio.create_subprocess_exec(*command, env=env)
        return await process.wait()

    assert await asyncio.gather(*(push(number, env) for number, env in labs)) == [0, 0, 0]
    assert {line.split()[-1] for line in server.seen if line.startswith("PUT")} == {"200"}
    await _substitute(server, lab, INSTALLED, roots, tmp_path)


async def test_what_a_version_says_of_a_refusal(
    server: PushServer, lab: Lab, version: NixVersion, tmp_path: Path
) -> None:
    lab.env = version.wrap(lab.env, tmp_path)
    said = await server.copy(lab, lab.closure.top, token="stranger", check=False)
    assert "team" in said
    assert "PUT" not in {line.split()[0] for line in server.seen if line.endswith(" 200")}
