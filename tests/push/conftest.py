"""A cache that takes pushes, in the process of the tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from house import Clock, House
from pushed_paths import STORE
from pushing import pushed_to


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    clock = Clock()
    async with pushed_to(tmp_path, STORE, clock=clock) as server:
        yield House(server, clock)
