"""`harmonia-py explain --cache`: what it says of a path that waits."""

import asyncio
from pathlib import Path

import pytest
from catalogs import NOW, hash_part, hash_parts, publication
from msgspec.structs import replace

from harmonia_py.catalog.caches import DEFAULT_CACHE
from harmonia_py.commands.explain_cache import explain_cache
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
