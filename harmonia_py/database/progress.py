"""Rows of `progress`: what a job that goes on for ever has written down last, as JSON under its name.

The identity of the catalog is one of them: there it needs no new schema.
"""

from typing import Final, TypeVar

import msgspec

from harmonia_py.database.transaction import Transaction, ask, ask_one

T = TypeVar("T")

IDENTITY: Final = "identity"
"""The name under which the catalog has its own."""
_NOTED: Final = "select value from progress where name = $1"
_NOTE: Final = """
    insert into progress (name, value) values ($1, $2) on conflict (name) do update set value = excluded.value
"""


def noted(job: str, kind: type[T]) -> Transaction[T | None]:
    """What the job has written down last; None when it has not yet."""
    row = yield from ask_one(_NOTED, job)
    return None if row is None else msgspec.json.decode(row[0], type=kind)


def note(job: str, value: object) -> Transaction[None]:
    """Write down where the job is, in place of what it has written down before."""
    yield from ask(_NOTE, job, msgspec.json.encode(value).decode())


def identity(drawn: str) -> Transaction[str]:
    """The identity of the catalog; what was `drawn` for it where it has none yet."""
    found = yield from noted(IDENTITY, str)
    if found is None:
        yield from note(IDENTITY, drawn)
    return found or drawn
