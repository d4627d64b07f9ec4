"""`harmonia-py explain --cache`: what it says of a path that was pushed and is not shown, or not for long."""

import asyncio
from pathlib import Path

import pytest
from catalogs import NOW, hash_part, hash_parts, nar_file, publication
from msgspec.structs import replace

from harmonia_py.catalog.caches import DEFAULT_CACHE
from harmonia_py.catalog.collection import Reason
from harmonia_py.commands.explain import explain_cache
from harmonia_py.config.cache_table import Cache
from harmonia_py.config.settings import Config
from harmonia_py.wiring.catalog import open_catalog


def test_a_path_whose_references_have_come_waits_for_the_local_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was said that its file is missing or damaged, and is to be pushed again."""
    config = Config(state_directory=str(tmp_path), caches={"default": Cache(into="store")})

    async def wait_and_arrive() -> None:
        catalog = await open_catalog(config)
        waits = replace(publication(DEFAULT_CACHE, "top", ["a"]), awaited=hash_parts(["a"]))
        await catalog.objects.publish(waits, now=NOW)
        await catalog.awaiting.arrived(DEFAULT_CACHE, hash_part("a"), now=NOW)
        await catalog.aclose()

    asyncio.run(wait_and_arrive())
    assert explain_cache(config, "default", hash_part("top")) == 1
    words = " ".join(capsys.readouterr().out.split())
    assert "cache default: it was pushed and waits for the local store to take it" in words
    assert "push it again" not in words


@pytest.mark.parametrize(
    ("state", "status", "expected"),
    [
        ("waits", 1, f"waits for 1 of its references to be pushed: {hash_part('a')}"),
        ("damaged", 1, "it was pushed, and its file is missing or damaged: push it again"),
        ("condemned", 0, "it goes soon unless it is asked for"),
    ],
)
def test_what_became_of_a_path_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], state: str, status: int, expected: str
) -> None:
    config = Config(state_directory=str(tmp_path))

    async def push() -> None:
        catalog = await open_catalog(config)
        await catalog.objects.publish(publication(DEFAULT_CACHE, "top", ["a"] if state == "waits" else ()), now=NOW)
        if state == "damaged":
            await catalog.nars.quarantine(nar_file("top").file_hash, "gone", now=NOW)
        if state == "condemned":
            whole = hash_parts(["top"])
            await catalog.collection.condemn(DEFAULT_CACHE, whole, Reason.UNUSED, unused_since=NOW, now=NOW)
        await catalog.aclose()

    asyncio.run(push())
    assert explain_cache(config, "default", hash_part("top")) == status
    assert expected in " ".join(capsys.readouterr().out.split())
