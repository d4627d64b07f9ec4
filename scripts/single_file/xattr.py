"""What this project uses of pyxattr, by the standard library, which can do it on Linux."""

import os
from typing import Final

NS_USER: Final = "user"


def get(item: int | str, name: str, *, nofollow: bool = False) -> bytes:
    """The value of an attribute."""
    return os.getxattr(item, name, follow_symlinks=isinstance(item, int) or not nofollow)


def set(item: int | str, name: str, value: bytes, flags: int = 0, *, nofollow: bool = False) -> None:  # noqa: A001
    """Give an attribute a value."""
    os.setxattr(item, name, value, flags, follow_symlinks=isinstance(item, int) or not nofollow)


def setxattr(item: int | str, name: str, value: bytes) -> None:
    """The older name of `set`."""
    set(item, name, value)
