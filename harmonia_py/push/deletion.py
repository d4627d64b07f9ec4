"""Keys whose earlier bytes are still being deleted: a push waits for that, and is told when it takes too long."""

from collections.abc import Awaitable, Callable

from harmonia_py.catalog.nars import BeingDeleted
from harmonia_py.catalog.nars import once_deleted as written_once_deleted
from harmonia_py.errors import PushConflict


async def once_deleted(write: Callable[[], Awaitable[object]]) -> None:
    """Call `write` as `catalog.nars.once_deleted` does.

    Raises:
        PushConflict: the deletion takes too long.
    """
    try:
        await written_once_deleted(write)
    except BeingDeleted:
        raise PushConflict("what was there before is still being deleted: run the same command again") from None
