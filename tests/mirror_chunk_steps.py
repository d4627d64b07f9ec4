"""A process that makes chunks of what a mirror keeps, or evicts it, and kills itself at a step (`chunking_steps`)."""

import asyncio
import sys
from pathlib import Path
from typing import Final

from chunking_steps import Steps
from mirror_chunks import mirrored

from harmonia_py.catalog.quota import Limits

NOWHERE: Final = "http://127.0.0.1:9"
LIMIT: Final = 520_000
"""Less than three builds take, and more than two take with the third of a pack that may be unused."""


async def _run(directory: Path, work: str, number: int) -> int:
    async with mirrored(NOWHERE, directory, offline=True) as world:
        steps, database = Steps(number), world.catalog.database
        setattr(database, "write", steps.around(database.write))  # noqa: B010  # it has a type variable
        sys.addaudithook(steps.audit)
        if work == "make":
            await world.make_chunks()
            await world.look()
        else:
            world.limits = Limits(max_size=LIMIT)
            await world.look()
            await world.forget_grace()
        return steps.taken


def run(directory: Path, work: str, number: int, told: Path) -> None:
    """Do `work` ("make" or "evict") in `directory`, and die at the step `number`; else write the number of steps."""
    told.write_text(str(asyncio.run(_run(directory, work, number))))
