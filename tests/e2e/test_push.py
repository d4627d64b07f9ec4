"""Clients that are real push what they built, and other machines substitute it."""

import asyncio
import json
import lzma
from collections.abc import AsyncIterator
from pathlib import Path

import backing
import pytest
from lab import Lab
from nginx import Nginx
from pushing import PushServer, pushed_to


@pytest.fixture
async def server(tmp_path: Path, lab: Lab) -> AsyncIterator[PushServer]:
    async with pushed_to(tmp_path, lab.store_dir) as server:
        yield server


async def test_what_one_machine_pushes_another_substitutes(server: PushServer, lab: Lab) -> None:
    await server.copy(lab, lab.closure.top, compression="zstd")
    client = await server.substitute(lab, "other-machine", lab.closure.top)
    for path in lab.closure.top, lab.closure.input2, lab.closure.input0:
        assert client.run("nix-store", "--dump", str(client.real(path))).stdout == lab.dump(path)


@pytest.mark.parametrize("compression", ["xz", "zstd", "none", "bzip2"])
async def test_every_compression_is_kept_as_it_came(server: PushServer, lab: Lab, compression: str) -> None:
    await server.copy(lab, lab.closure.top, compression=compression)
    assert {line.split()[-1] for line in server.seen if line.startswith("PUT")} == {"200"}
    narinfo = (await server.get(f"/{lab.closure.top.hash_part}.narinfo")).body.decode()
    assert f"\nCompression: {compression}\n" in narinfo
    client = await server.substitute(lab, "client", lab.closure.top)
    assert client.run("nix-store", "--dump", str(client.real(lab.closure.top))).stdout == lab.dump(lab.closure.top)


async def test_a_second_push_sends_no_body(server: PushServer, lab: Lab) -> None:
    await server.copy(lab, lab.closure.top)
    before = len(server.seen)
    await server.copy(lab, lab.closure.top, run="r2")
    assert not [line for line in server.seen[before:] if line.startswith("PUT")]


async def test_a_push_to_an_emptied_run_url_asks_for_everything_again(server: PushServer, lab: Lab) -> None:
    """NixOS/nix#2210: a client believes for 30 days that a cache has what it once pushed; another run URL asks anew."""
    await server.copy(lab, lab.closure.input0)
    asked = [line for line in server.seen if line.startswith("GET")]
    await server.copy(lab, lab.closure.input0, run="r2")
    assert len([line for line in server.seen if line.startswith("GET")]) == 2 * len(asked)


async def test_listings_and_debug_information_are_made_whether_they_are_sent_or_not(
    server: PushServer, lab: Lab, tmp_path: Path
) -> None:
    build_id = "ab" + "0123456789" * 3 + "abcdef01"
    tree = tmp_path / "debug"
    file = tree / "lib" / "debug" / ".build-id" / build_id[:2] / f"{build_id[2:]}.debug"
    file.parent.mkdir(parents=True)
    file.write_text("debug information")
    path = lab.add(tree)
    await server.copy(lab, path, compression="xz", write_nar_listing="1", index_debug_info="1")
    assert f"PUT /r1/debuginfo/{build_id}.debug 200" in server.seen
    assert f"PUT /r1/{path.hash_part}.ls 200" in server.seen
    assert {line.split()[-1] for line in server.seen if line.startswith("PUT")} == {"200"}
    listing = json.loads((await server.get(f"/{path.hash_part}.ls")).body)
    assert listing["root"]["entries"]["lib"]["type"] == "directory"
    debug = json.loads((await server.get(f"/debuginfo/{build_id}")).body)
    assert debug["member"] == f"lib/debug/.build-id/{build_id[:2]}/{build_id[2:]}.debug"
    archive = await server.get(f"/debuginfo/{debug['archive']}".replace("/debuginfo/..", ""))
    assert archive.status == 200
    assert lzma.decompress(archive.body) == lab.dump(path)


async def test_realisations_are_pushed_and_found(server: PushServer, lab: Lab) -> None:
    """A path alone has no realisation: this test pushed one, found none, and held nothing against anything."""
    closure, expression = lab.build_ca(), str(lab.root / "lab.nix")
    await server.copy(lab, options=("--file", expression, "caTop"))
    puts = [line for line in server.seen if line.startswith("PUT")]
    assert {line.split()[-1] for line in puts} == {"200"}
    places = [line.split()[1].removeprefix("/r1") for line in puts if "/realisations/" in line]
    realised = [json.loads((await server.get(place)).body)["outPath"] for place in places]
    assert closure.top in realised
    assert set(realised) <= {closure.top, closure.dep}
    client = lab.client("client")
    options = ["--option", "substituters", server.url("reader"), "--option", "require-sigs", "false"]
    build = ["nix-build", expression, "-A", "caTop", "--no-out-link", "--max-jobs", "0"]
    await asyncio.to_thread(client.run, *build, *options)
    assert client.run("nix-store", "--dump", str(client.real(closure.top))).stdout == lab.dump(closure.top)


async def test_logs_are_pushed_and_found(server: PushServer, lab: Lab) -> None:
    await server.copy(lab, lab.closure.top)
    url = server.url("pusher", "/push/r1")
    await asyncio.to_thread(lab.nix, "store", "copy-log", "--to", url, lab.full(lab.closure.derivation))
    answer = await server.get(f"/log/{lab.closure.derivation}")
    assert answer.status == 200
    assert answer.body == lab.nix("log", lab.full(lab.closure.derivation)).encode()


async def test_derivations_are_pushed(server: PushServer, lab: Lab) -> None:
    """Their content address is that of the text in them, for which the file is read once more."""
    client, path = lab.client("client"), lab.closure.derivation
    await server.copy(lab, path, options=("--derivation",), compression="zstd")
    options = ["--derivation", "--no-check-sigs", "--from", server.url("reader")]
    await asyncio.to_thread(client.nix, "copy", *options, lab.full(path))
    assert client.run("nix-store", "--dump", str(client.real(path))).stdout == lab.dump(path)


async def test_two_clients_push_the_same_at_once(server: PushServer, lab: Lab) -> None:
    await asyncio.gather(*(server.copy(lab, lab.closure.top, run=f"r{number}") for number in range(3)))
    assert {line.split()[-1] for line in server.seen if line.startswith("PUT")} == {"200"}
    await server.substitute(lab, "client", lab.closure.top)


@pytest.mark.skipif(backing.IN_BUCKET, reason="tests/s3 reads the bucket")
async def test_the_directory_is_a_binary_cache_without_this_program(server: PushServer, lab: Lab) -> None:
    await server.copy(lab, lab.closure.top, compression="zstd")
    await server.node.static_writer.written()
    client = lab.client("client")
    options = ["--option", "substituters", f"file://{server.directory}/team", "--option", "require-sigs", "false"]
    await asyncio.to_thread(client.nix_store, "--realise", lab.full(lab.closure.top), *options)
    assert client.run("nix-store", "--dump", str(client.real(lab.closure.top))).stdout == lab.dump(lab.closure.top)


@pytest.mark.parametrize("buffering", ["on", "off"])
async def test_a_push_goes_through_nginx(server: PushServer, lab: Lab, tmp_path: Path, buffering: str) -> None:
    proxy = (
        f"proxy_pass http://127.0.0.1:{server.port}; proxy_http_version 1.1; proxy_request_buffering {buffering};"
        " client_max_body_size 0;"
    )
    with Nginx(tmp_path, server.directory, proxy) as nginx:
        url = f"http://x:pusher@127.0.0.1:{nginx.port}/team/push/r1?compression=zstd"
        await asyncio.to_thread(lab.nix, "copy", "--to", url, lab.full(lab.closure.top))
    assert {line.split()[-1] for line in server.seen if line.startswith("PUT")} == {"200"}
    client = await server.substitute(lab, "client", lab.closure.top)
    assert client.run("nix-store", "--dump", str(client.real(lab.closure.top))).stdout == lab.dump(lab.closure.top)
