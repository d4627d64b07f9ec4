"""Narinfos that an upstream pads: what one of them, and all of them together, may cost a mirror."""

import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from fault_upstream import KEY, STORE_DIR, FaultUpstream, Package, body, package, signed
from mirrors import mirror_of
from msgspec.structs import replace

from harmonia_py.errors import UpstreamError
from harmonia_py.mirror import narinfo_index
from harmonia_py.mirror.trusted import parse_narinfo
from harmonia_py.nix.base32 import encode
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.signing import Signature
from harmonia_py.nix.store_path import StorePath

MIB = 1024 * 1024


def junk(count: int, key_name: str) -> list[Signature]:
    return [Signature(key_name, number.to_bytes(64, "big")) for number in range(count)]


def with_signatures(one: Package, *more: Signature) -> Package:
    info = one.path_info
    return replace(one, path_info=replace(info, signatures=(*info.signatures, *more)))


def with_references(one: Package, count: int) -> Package:
    """Signed, with so many references of a hundred characters each."""
    ours = one.path_info.nar_hash.digest[:16]
    names = (f"{encode(ours + number.to_bytes(4, 'big'))}-{'x' * 67}" for number in range(count))
    references = tuple(sorted(map(StorePath.parse, names)))
    return signed(replace(one, path_info=replace(one.path_info, references=references)), KEY)


@pytest.mark.parametrize(
    "padded",
    [
        with_signatures(package(), *junk(40_000, KEY.name)),
        with_signatures(package(), *junk(20, KEY.name)),
        with_signatures(package(), *(one for name in range(300) for one in junk(1, f"key-{name}"))),
    ],
    ids=["forty thousand by the trusted key", "twenty by the trusted key", "three hundred by others"],
)
def test_no_narinfo_has_signatures_without_number(padded: Package) -> None:
    """Forty thousand signatures under the name of the trusted key were all verified: 2.7 seconds of the event loop."""
    began = time.thread_time()
    with pytest.raises(UpstreamError, match=r"signatures|too long"):
        parse_narinfo(padded.narinfo_text, padded.hash_part, [KEY.public_key], STORE_DIR)
    assert time.thread_time() - began < 0.5


def test_a_few_that_others_have_added_do_not_matter() -> None:
    others = (one for name in range(50) for one in junk(2, f"key-{name}"))
    padded = with_signatures(package(), *junk(3, KEY.name), *others)
    narinfo = parse_narinfo(padded.narinfo_text, padded.hash_part, [KEY.public_key], STORE_DIR)
    assert set(narinfo.path_info.signatures) == set(padded.path_info.signatures)


async def test_what_is_remembered_of_narinfos_is_bounded_in_bytes(
    upstream: FaultUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight thousand narinfos were remembered whatever their size: with 10 MiB each, more than a machine has."""
    assert narinfo_index._MAX_PRESENT_BYTES <= 32 * MIB
    monkeypatch.setattr(narinfo_index, "_MAX_PRESENT_BYTES", 4 * MIB)
    padded = [with_references(package(number), 4500) for number in range(14)]
    upstream.serve(*padded)
    async with mirror_of(upstream, directory=tmp_path, budget=60.0) as mirror:
        tracemalloc.start()
        try:
            for one in padded:
                assert await mirror.narinfo(one.hash_part) is not None
            kept_bytes = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        asked = upstream.count(".narinfo")
        assert await mirror.narinfo(padded[-1].hash_part) is not None
        assert upstream.count(".narinfo") == asked
    assert kept_bytes < 5 * MIB


async def test_a_narinfo_longer_than_any_is_not_read(upstream: FaultUpstream, tmp_path: Path) -> None:
    one = package()
    upstream.answers[f"/{one.hash_part}.narinfo"] = body(one.narinfo_text + b"X: " + b"x" * 2 * MIB + b"\n")
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        with pytest.raises(UpstreamError):
            await mirror.narinfo(one.hash_part)


async def test_a_long_narinfo_is_parsed_beside_the_event_loop(
    upstream: FaultUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parsing ten thousand references takes tens of milliseconds, in which no other client was answered."""
    one = with_references(package(), 9000)
    upstream.serve(one, package(1))
    loop_thread, seen = threading.get_ident(), []

    def noted(data: bytes, *args: Any) -> NarInfo:
        seen.append((len(data) > 100_000, threading.get_ident() != loop_thread))
        return parse_narinfo(data, *args)

    monkeypatch.setattr("harmonia_py.mirror.trusted.parse_narinfo", noted)
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        assert await mirror.narinfo(one.hash_part) is not None
        assert await mirror.narinfo(package(1).hash_part) is not None
    assert seen == [(True, True), (False, False)]
