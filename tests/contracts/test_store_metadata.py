"""What everything that knows a store's paths must do, whatever it asks."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from lab import Keys, Lab
from nix_versions import INSTALLED, VERSIONS

from harmonia_py.errors import DaemonRefused
from harmonia_py.nix.content_address import ContentAddress, Method
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.realisation import DrvOutput
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.store.daemon.store import DaemonStore
from harmonia_py.store.metadata import StoreMetadata
from harmonia_py.store.sqlite import SqliteStore


@pytest.fixture(
    params=[
        *((INSTALLED, way) for way in ("daemon", "sqlite", "chroot daemon", "chroot sqlite")),
        *(
            pytest.param((version, way), marks=pytest.mark.slow)
            for version in VERSIONS
            if version is not INSTALLED
            for way in ("daemon", "sqlite")
        ),
    ],
    ids=lambda param: f"{param[1]} {param[0].name}",
)
def any_lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    version, way = request.param
    if version is INSTALLED:  # of which there are stores to be copied
        lab: Lab = request.getfixturevalue("chroot_lab" if "chroot" in way else "lab")
        if "daemon" in way:
            lab.start_daemon()
        yield lab
        return
    if version.missing:
        pytest.skip(version.missing)
    root = tmp_path / "any"
    root.mkdir()
    with Lab(root, chroot="chroot" in way) as lab:
        lab.env = version.wrap(lab.env, tmp_path)
        lab.closure = lab.build()
        if "daemon" in way:
            lab.start_daemon()
        yield lab


@pytest.fixture
async def metadata(any_lab: Lab) -> AsyncIterator[StoreMetadata]:
    store: StoreMetadata
    if any_lab.socket.exists():
        store = DaemonStore(any_lab.socket, any_lab.store_dir)
    else:
        store = SqliteStore(any_lab.database, any_lab.store_dir)
    yield store
    await store.aclose()


def told_by(lab: Lab, *arguments: str) -> dict[str, dict[str, Any]]:
    """What `nix path-info --json` prints: up to Nix 2.18 an array, then an object by path."""
    told = json.loads(lab.nix("path-info", "--json", *arguments))
    if isinstance(told, list):
        return {item["path"]: item for item in told}
    assert isinstance(told, dict)
    return told


def realisation_told_by(lab: Lab, derivation: StorePath) -> dict[str, Any]:
    """What `nix realisation info` prints for the output `out`: from Nix 2.13 on it must be named."""
    told: dict[str, Any]
    [told] = json.loads(lab.nix("realisation", "info", "--json", lab.full(derivation)))
    if "opaquePath" in told:
        [told] = json.loads(lab.nix("realisation", "info", "--json", f"{lab.full(derivation)}^out"))
    return told


async def info_of(metadata: StoreMetadata, store_path: StorePath) -> PathInfo:
    info = await metadata.path_info(store_path.hash_part)
    assert info is not None
    return info


async def test_a_valid_path_has_the_facts_that_nix_tells(any_lab: Lab, metadata: StoreMetadata) -> None:
    top = any_lab.closure.top
    info = await info_of(metadata, top)
    [told] = told_by(any_lab, any_lab.full(top)).values()
    assert info.store_path == top
    assert info.nar_hash == Hash.parse(told["narHash"])
    assert info.nar_size == told["narSize"] == len(any_lab.dump(top))
    assert [any_lab.full(path) for path in info.references] == sorted(told["references"])
    assert info.deriver == any_lab.closure.derivation
    assert info.registration_time == told["registrationTime"]
    assert info.ultimate
    assert info.signatures == ()
    assert info.ca is None


async def test_references_include_the_path_itself_when_it_refers_to_itself(
    any_lab: Lab, metadata: StoreMetadata
) -> None:
    closure = any_lab.closure
    assert (await info_of(metadata, closure.top)).references == tuple(sorted([closure.top, closure.input2]))
    assert (await info_of(metadata, closure.input2)).references == (closure.input0,)
    assert (await info_of(metadata, closure.input0)).references == ()


@pytest.mark.parametrize("text", ["0" * 32, "z" * 32, "10000000000000000000000000000000"])
async def test_an_absent_path_is_none(metadata: StoreMetadata, text: str) -> None:
    assert await metadata.path_info(HashPart.parse(text)) is None


async def test_the_hash_part_alone_finds_the_path(any_lab: Lab, metadata: StoreMetadata) -> None:
    """A hash part next to that of a valid path, in the order of the index, finds nothing."""
    hash_part = any_lab.closure.top.hash_part
    last = "1" if hash_part[-1] == "0" else "0"
    assert await metadata.path_info(HashPart.parse(hash_part[:-1] + last)) is None
    assert (await info_of(metadata, any_lab.closure.top)).store_path.name == "dependencies-top"


def sign(lab: Lab, store_path: StorePath, *names: str) -> list[Keys]:
    keys = [lab.secret_key(name) for name in names]
    for key in keys:
        lab.nix("store", "sign", "--key-file", str(key.secret_file), lab.full(store_path))
    return keys


async def test_signatures_are_told_as_soon_as_they_are_there(any_lab: Lab, metadata: StoreMetadata) -> None:
    top = any_lab.closure.top
    assert (await info_of(metadata, top)).signatures == ()
    keys = sign(any_lab, top, "lab-1", "lab-2")
    info = await info_of(metadata, top)
    assert [signature.key_name for signature in info.signatures] == ["lab-1", "lab-2"]
    for key, signature in zip(keys, info.signatures, strict=True):
        assert PublicKey.parse(key.public).verify(info.fingerprint(any_lab.store_dir), signature)


async def test_garbage_among_the_signatures_is_not_told(any_lab: Lab, metadata: StoreMetadata) -> None:
    """Daemons up to 2.33 keep any text as a signature; later ones refuse to tell anything of a path that has such."""
    top = any_lab.closure.top
    sign(any_lab, top, "lab-1")
    with closing(sqlite3.connect(any_lab.database)) as database, database:
        statement = "update ValidPaths set sigs = 'garbage ' || sigs || ' lab-2:x' where path = ?"
        database.execute(statement, (any_lab.full(top),))
    if " 2.34." in any_lab.nix("--version") and any_lab.socket.exists():
        with pytest.raises(DaemonRefused, match="signature is corrupt"):
            await metadata.path_info(top.hash_part)
        return
    info = await info_of(metadata, top)
    assert [signature.key_name for signature in info.signatures] == ["lab-1"]


async def test_a_content_addressed_path_has_its_content_address(
    any_lab: Lab, metadata: StoreMetadata, tmp_path: Path
) -> None:
    (tmp_path / "tree").mkdir()
    store_path = any_lab.add(tmp_path / "tree")
    info = await info_of(metadata, store_path)
    assert isinstance(info.ca, ContentAddress)
    assert info.ca.method is Method.NAR
    assert info.ca.proves(store_path, info.references, any_lab.store_dir)
    assert not info.ultimate


async def test_referrers_are_those_that_nix_tells(any_lab: Lab, metadata: StoreMetadata) -> None:
    closure = any_lab.closure
    for path in (closure.top, closure.input0, closure.input1, closure.input2):
        told = any_lab.nix_store("--query", "--referrers", any_lab.full(path)).split()
        assert sorted(map(any_lab.full, await metadata.referrers(path))) == sorted(told)
    assert list(await metadata.referrers(StorePath.parse(f"{'0' * 32}-absent"))) == []


async def test_all_paths_are_those_that_nix_tells(any_lab: Lab, metadata: StoreMetadata) -> None:
    told = told_by(any_lab, "--all")
    assert sorted(map(any_lab.full, await metadata.all_paths())) == sorted(told)


async def test_a_deleted_path_is_none_and_one_that_came_back_is_there(any_lab: Lab, metadata: StoreMetadata) -> None:
    top = any_lab.closure.top
    first = await info_of(metadata, top)
    any_lab.delete(top)
    assert await metadata.path_info(top.hash_part) is None
    assert top not in await metadata.all_paths()
    any_lab.build()
    again = await info_of(metadata, top)
    assert again.nar_hash == first.nar_hash


async def test_a_realisation_is_the_one_that_nix_tells(any_lab: Lab, metadata: StoreMetadata) -> None:
    closure = any_lab.build_ca()
    for derivation, out_path in ((closure.top_derivation, closure.top), (closure.dep_derivation, closure.dep)):
        told = realisation_told_by(any_lab, derivation)
        realisation = await metadata.realisation(DrvOutput.parse(told["id"]))
        assert realisation is not None
        assert realisation.out_path == out_path
        assert json.loads(realisation.format_old()) == told
    top_info = await info_of(metadata, closure.top)
    assert isinstance(top_info.ca, ContentAddress)
    assert top_info.ca.proves(closure.top, top_info.references, any_lab.store_dir)


async def test_an_unknown_realisation_is_none(any_lab: Lab, metadata: StoreMetadata) -> None:
    assert await metadata.realisation(DrvOutput(Hash.of(b""), "out")) is None
    assert await metadata.realisation(DrvOutput(any_lab.closure.derivation, "out")) is None
    assert (await info_of(metadata, any_lab.closure.top)).store_path == any_lab.closure.top


async def test_without_content_addressed_derivations_no_realisation_is_an_error(
    any_lab: Lab, metadata: StoreMetadata
) -> None:
    """Nix 2.8's daemon dies of the question when the experimental feature is not enabled, which is the default."""
    configuration = any_lab.root / "etc" / "nix.conf"
    configuration.write_text(configuration.read_text().replace(" ca-derivations", ""))
    if any_lab.socket.exists():
        any_lab.stop_daemon()
        any_lab.start_daemon()
    for _ in range(3):
        assert await metadata.realisation(DrvOutput(Hash.of(b""), "out")) is None
        assert (await info_of(metadata, any_lab.closure.top)).store_path == any_lab.closure.top


async def test_many_questions_at_once_are_all_answered(any_lab: Lab, metadata: StoreMetadata) -> None:
    closure = any_lab.closure
    paths = [closure.top, closure.input0, closure.input2] * 20
    infos = await asyncio.gather(*[metadata.path_info(path.hash_part) for path in paths])
    assert [info and info.store_path for info in infos] == paths


async def test_closing_twice_does_no_harm(metadata: StoreMetadata) -> None:
    await metadata.all_paths()
    await metadata.aclose()
    await metadata.aclose()
