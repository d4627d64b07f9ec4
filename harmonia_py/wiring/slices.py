"""The settings of one part, taken from the configuration as one value."""

from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")


def slice_of(kind: type[T], *settings: object) -> T:
    """A dataclass `kind`, each of whose fields is the setting of its name, in the first of `settings` that has it.

    Raises:
        AttributeError: none of them has it.
    """

    def value(name: str) -> Any:
        *first, last = settings
        return getattr(next((one for one in first if hasattr(one, name)), last), name)

    return kind(**{field.name: value(field.name) for field in fields(kind)})  # type: ignore[arg-type]  # of a dataclass
