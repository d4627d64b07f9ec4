"""The settings of one part, taken from the configuration as one value."""

from typing import Any, TypeVar

from msgspec import Struct

T = TypeVar("T", bound=Struct)


def slice_of(kind: type[T], *settings: object) -> T:
    """A value of `kind`, each of whose fields is the setting of its name, in the first of `settings` that has it.

    Raises:
        AttributeError: none of them has it.
    """

    def value(name: str) -> Any:
        *first, last = settings
        return getattr(next((one for one in first if hasattr(one, name)), last), name)

    return kind(**{name: value(name) for name in kind.__struct_fields__})
