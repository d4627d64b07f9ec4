"""Attacks on paths that nobody has to sign, because their contents prove them: by whoever runs an upstream."""

from pathlib import Path

import pytest
from fault_upstream import COMPRESS, KEY, OTHER_KEY, STORE_DIR, FaultUpstream, Package, body, signed, status
from mirrors import fetch, fetch_kept, kept, leftovers, mirror_of, settle
from msgspec.structs import replace
from trees import File, Folder, Tree, nar

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.trust import is_its_own_proof
from harmonia_py.errors import HarmoniaError
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.content_address import ContentAddress, Method
from harmonia_py.nix.hash_modulo import HashModulo
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import HashPart, StorePath

GOOD = b"#!/bin/sh\necho good\n" + bytes(range(256)) * 500
EVIL = b"#!/bin/sh\necho evil\n" + bytes(range(256)) * 500
DEP = StorePath.parse("26xbg1ndr7hbcncrlf9nhx5is2b25d13-hello-2.12.1")


def offered(ca: ContentAddress, data: bytes, *references: StorePath, path: StorePath | None = None) -> Package:
    """A path with this address, of which `data` is said to be the NAR. Nobody has signed it."""
    path = path or ca.store_path("script", references, STORE_DIR)
    nar_hash, size = Hash.of(data), len(data)
    info = PathInfo(store_path=path, nar_hash=nar_hash, nar_size=size, ca=ca, references=tuple(sorted(references)))
    return Package(path_info=info, nar=data, file=COMPRESS["xz"](data), compression="xz")


def of_file(method: Method, contents: bytes, served: Tree) -> Package:
    """A path whose address is that of `contents`, as a file."""
    return offered(ContentAddress(method, Hash.of(contents)), nar(served), *[DEP] * (method is Method.TEXT))


def of_itself(contents: bytes, served: bytes) -> Package:
    """A path that refers to itself where `contents` has an @."""
    blank = HashPart.parse("0" * 32)
    modulo = HashModulo(blank)
    modulo.update(nar(File(contents.replace(b"@", blank.encode()))))
    ca = ContentAddress(Method.NAR, modulo.hashes()[0])
    path = ca.store_path("script", [], STORE_DIR, to_itself=True)
    data = nar(File(served.replace(b"@", path.hash_part.encode())))
    return offered(ca, data, path, path=path)


TEXT, FLAT = of_file(Method.TEXT, GOOD, File(GOOD)), of_file(Method.FLAT, GOOD, File(GOOD))
GENUINE = {"text": TEXT, "flat": FLAT, "to itself": of_itself(b"@/x @" + GOOD, b"@/x @" + GOOD)}
FORGED = {
    "text": of_file(Method.TEXT, GOOD, File(EVIL)),
    "flat": of_file(Method.FLAT, GOOD, File(EVIL)),
    "a folder for a file": of_file(Method.FLAT, GOOD, Folder({b"a": File(GOOD)})),
    "made executable": of_file(Method.FLAT, GOOD, File(GOOD, executable=True)),
    "to itself": of_itself(b"@/x @" + GOOD, b"@/x @" + EVIL),
    "zeros for a name": of_itself(b"@/x @" + GOOD, b"@/x " + bytes(32) + GOOD),
}


@pytest.mark.parametrize("genuine", GENUINE.values(), ids=list(GENUINE))
async def test_what_its_contents_prove_needs_no_signature(
    upstream: FaultUpstream, tmp_path: Path, genuine: Package
) -> None:
    assert is_its_own_proof(genuine.path_info, STORE_DIR)
    upstream.serve(genuine)
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        assert await mirror.narinfo(genuine.hash_part) is not None
        assert await fetch_kept(mirror, genuine) == genuine.file
    await upstream.stop()
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        found = await mirror.narinfo(genuine.hash_part)
        assert found is not None
        assert (found.origin.label, found.narinfo.path_info) == ("kept", genuine.path_info)


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("forged", FORGED.values(), ids=list(FORGED))
async def test_other_contents_under_a_nar_hash_of_their_own_are_cut_and_never_kept(
    upstream: FaultUpstream, tmp_path: Path, forged: Package, key: SecretKey | None
) -> None:
    """The narinfo is consistent, and its path follows from its address: only the contents do not.

    Where somebody has signed it, it is refused as well: no client would take it, and the key may be withdrawn later,
    when what is kept has nothing but its address to stand on.
    """
    forged = signed(forged, key)
    upstream.serve(forged)
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        assert await mirror.narinfo(forged.hash_part) is not None
        with pytest.raises(HarmoniaError):
            await fetch(mirror, forged)
        await settle(mirror)
    assert (kept(tmp_path), leftovers(tmp_path)) == ([], [])


async def test_where_nothing_is_kept_other_contents_are_cut_as_well(upstream: FaultUpstream) -> None:
    forged = FORGED["text"]
    upstream.serve(forged)
    async with mirror_of(upstream, directory=None) as mirror:
        with pytest.raises(HarmoniaError):
            await fetch(mirror, forged)


async def test_a_file_of_another_upstream_is_held_against_the_address_that_was_told_first(
    upstream: FaultUpstream, tmp_path: Path
) -> None:
    """The second upstream vouches for the file and leaves the address away, which its signature does not cover."""
    forged = FORGED["flat"]
    upstream.serve(forged)
    upstream.answers[f"/{forged.path}"] = status(404)
    bare = signed(replace(forged, path_info=replace(forged.path_info, ca=None)), KEY)
    async with FaultUpstream() as second:
        second.serve(bare)
        async with mirror_of(upstream, second, priorities=(1, 2), directory=tmp_path) as mirror:
            assert await mirror.narinfo(forged.hash_part) is not None
            with pytest.raises(HarmoniaError):
                await fetch(mirror, forged)
            await settle(mirror)
    assert not [name for name in kept(tmp_path) if forged.hash_part in name]


@pytest.mark.parametrize("genuine", [True, False])
async def test_what_came_under_a_withdrawn_key_comes_once_more_before_it_stands_on_its_address(
    upstream: FaultUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, genuine: bool
) -> None:
    """Who had the key could have a NAR kept without its address, and give the address when the key was withdrawn."""
    one = (GENUINE if genuine else FORGED)["text"]
    upstream.serve(signed(replace(one, path_info=replace(one.path_info, ca=None)), KEY))
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        assert await fetch_kept(mirror, one) == one.file
    monkeypatch.setattr("mirrors.KEY", OTHER_KEY)
    upstream.serve(one)
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        found = await mirror.narinfo(one.hash_part)
        assert found is not None
        assert found.origin.label == "upstream up0"
        if genuine:
            assert await fetch_kept(mirror, one) == one.file
            found = await mirror.narinfo(one.hash_part)
            assert found is not None
            assert found.origin.label == "kept"
        else:
            with pytest.raises(HarmoniaError):
                await fetch(mirror, one)
            await settle(mirror)
    assert upstream.count("/nar/") == 2
    assert bool([name for name in kept(tmp_path) if ".nar" in name and "narinfo" not in name]) is genuine


@pytest.mark.parametrize("forged", [GENUINE["text"], GENUINE["flat"], GENUINE["to itself"]])
async def test_a_mirrors_key_is_not_lent_to_a_nar_hash_that_nobody_vouches_for(
    upstream: FaultUpstream, tmp_path: Path, forged: Package
) -> None:
    """An upstream could have its lie signed, take the address off the found, and give it to who trusts that key."""
    other = replace(forged.path_info, nar_hash=Hash.of(b"what an attacker would like to install"))
    upstream.serve(replace(forged, path_info=other))
    upstream.serve(honest := signed(replace(forged, path_info=replace(other, store_path=DEP, ca=None)), KEY))
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        info = CacheInfo(STORE_DIR, want_mass_query=True, priority=30)
        cache = BinaryCache(cache_info=info, sources=[mirror], secret_keys=[OTHER_KEY])
        found = await cache.narinfo(forged.hash_part)
        assert found is not None
        assert found.narinfo.path_info.signatures == ()
        found = await cache.narinfo(honest.hash_part)
        assert found is not None
        assert {signature.key_name for signature in found.narinfo.path_info.signatures} == {"upstream-1", "other-1"}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (replace(TEXT.path_info, references=()), "its content address does not lead to its store path"),
        (replace(TEXT.path_info, ca=FLAT.path_info.ca), "does not lead to its store path"),
        (
            offered(ContentAddress(Method.GIT, Hash.of(GOOD)), nar(File(GOOD))).path_info,
            "is of a kind that cannot be verified here (fixed:git:sha256:",
        ),
        (
            replace(offered(ContentAddress(Method.NAR, Hash.of(GOOD)), GOOD).path_info, nar_hash=Hash.of(EVIL)),
            "contradicts its NarHash",
        ),
    ],
)
async def test_an_address_that_proves_nothing_is_no_signature(
    upstream: FaultUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture, changed: PathInfo, words: str
) -> None:
    one = replace(TEXT, path_info=changed)
    upstream.serve(one)
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        assert await mirror.narinfo(one.hash_part) is None
    assert "it carries no signature (trusted keys: upstream-1); " in caplog.text
    assert words in caplog.text


async def test_an_address_of_a_later_nix_proves_nothing_and_is_passed_on_with_a_signature(
    upstream: FaultUpstream, tmp_path: Path
) -> None:
    one = signed(TEXT, KEY)
    text = one.narinfo_text.replace(b"CA: text:sha256:", b"CA: text:blake3:")
    upstream.serve(one)
    upstream.answers[f"/{one.hash_part}.narinfo"] = body(text)
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        found = await mirror.narinfo(one.hash_part)
        assert found is not None
        assert str(found.narinfo.path_info.ca).startswith("text:blake3:")
        assert await fetch_kept(mirror, one) == one.file
    upstream.answers[f"/{one.hash_part}.narinfo"] = body(text.replace(b"Sig: ", b"Gis: "))
    async with mirror_of(upstream, directory=tmp_path / "other") as mirror:
        assert await mirror.narinfo(one.hash_part) is None
