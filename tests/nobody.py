"""A test as the user `nobody`, who has no rights: `with as_nobody(): …`, in one that is marked `as_root`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

NOBODY: Final = 65534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")


@contextmanager
def as_nobody() -> Iterator[None]:
    """Within it, this process runs as the user `nobody`."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
