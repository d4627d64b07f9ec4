"""Why readers of a soaked server do not see a path: what was done to its files, and what the catalog says of it."""

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import Any, Final, Protocol

from harmonia_py.nix.store_path import HashPart, StorePath

_CLOSURE: Final = """
    with recursive closure (cache_id, hash_part) as (
        select cache_id, hash_part from objects where hash_part = $1
        union
        select r.cache_id, r.reference from closure c join object_references r
            on r.cache_id = c.cache_id and r.hash_part = c.hash_part
    )
"""
_HIDDEN_BY: Final = f"""
    {_CLOSURE} select f.blob_key from closure c
        join objects o on o.cache_id = c.cache_id and o.hash_part = c.hash_part
        join nar_files f on f.file_hash = o.file_hash where f.quarantined_s is not null
"""
_QUARANTINED_SINCE: Final = "select subject from audit where action = 'quarantine' and at_ns >= $1"
_REFERENCES: Final = f"{_CLOSURE} select hash_part from closure"
_KEYS: Final = f"""
    {_CLOSURE} select f.blob_key from closure c
        join objects o on o.cache_id = c.cache_id and o.hash_part = c.hash_part
        join nar_files f on f.file_hash = o.file_hash
"""
# What the catalog has of a path, by what it is about.
_TOLD: Final = {
    "row": """
        select o.name, o.state, o.broken_s, o.condemned_s, o.pushed_s, o.used_s, f.blob_key, f.quarantined_s
            from objects o join nar_files f on f.file_hash = o.file_hash where o.hash_part = $1
    """,
    "leases": """
        select l.session_id, s.seen_s, s.ended_s from leases l join sessions s on s.id = l.session_id
            where l.hash_part = $1
    """,
    "pins": "select name, revision, set_s from pin_revisions where hash_part = $1",
    "audit": """
        select at_ns / 1000000000, action, detail from audit where substr(subject, 1, 32) = $1 order by at_ns
    """,
}
_TOTALS: Final = "select cache_id, state, objects, size from totals"


class Damages:
    """The files that were damaged on purpose, by the keys of their bytes. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at: dict[str, float] = {}
        self._hash_parts: dict[str, HashPart] = {}

    @contextmanager
    def done_to(self, key: str, hash_part: HashPart) -> Iterator[None]:
        """The file under this key, which is that of a path, is being damaged, and is damaged from then on."""
        with self._lock:
            self._at[key], self._hash_parts[key] = inf, hash_part
        try:
            yield
        finally:
            with self._lock:
                self._at[key] = time.time()

    def found_right(self, key: str, asked: float) -> None:
        """A request that began then had the right bytes: the file has come again, if it was damaged before."""
        with self._lock:
            if self._at.get(key, inf) < asked:
                del self._at[key]

    def since(self, key: str, asked: float) -> bool:
        """Whether a file was damaged after a request began, perhaps on its way."""
        with self._lock:
            return self._at.get(key, 0.0) >= asked

    def any_of(self, keys: Collection[str]) -> bool:
        """Whether one of these is damaged and was not seen to be right since."""
        with self._lock:
            return not self._at.keys().isdisjoint(keys)

    def ever(self, keys: Collection[str], hash_parts: Collection[str]) -> bool:
        """Whether one of these files was ever damaged, when it was that of one of these paths."""
        with self._lock:
            return any(self._hash_parts.get(key) in hash_parts for key in keys)


class Ask(Protocol):
    """Rows of the catalog; `$1` and so on in the statement stand for the parameters."""

    def __call__(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]: ...


class Evidence:
    """The catalog of a server, read beside it."""

    def __init__(self, ask: Ask, damages: Damages) -> None:
        self._ask = ask
        self._damages = damages

    def is_hidden_by_damage(self, path: StorePath, since: float) -> bool:
        """Whether a damaged file hides the path at this moment, or has since then.

        What a client was told is present was seen by readers at that moment: what hides it was found afterwards.
        """
        closure = {path.hash_part, *(row[0] for row in self._ask(_REFERENCES, path.hash_part))}
        hiding = {row[0] for row in self._ask(_HIDDEN_BY, path.hash_part)}
        hiding |= {row[0] for row in self._ask(_QUARANTINED_SINCE, int(since) * 1_000_000_000)}
        return self._damages.ever(hiding, closure)

    def has_damage_since(self, path: StorePath, since: float) -> bool:
        """Whether a file of the path or of what it references was damaged since then, and not seen to be right."""
        return any(self._damages.since(row[0], since) for row in self._ask(_KEYS, path.hash_part))

    def told(self, paths: Sequence[StorePath]) -> str:
        """All that the catalog has of some paths and what they reference, as lines for the report of a failure."""
        hash_parts = {row[0] for path in paths for row in self._ask(_REFERENCES, path.hash_part)}
        lines = [f"at {time.time():.2f}, totals {self._ask(_TOTALS)}"]
        for hash_part in sorted({*hash_parts, *(path.hash_part for path in paths)}):
            lines += [f"{hash_part} {what}: {self._ask(statement, hash_part)}" for what, statement in _TOLD.items()]
        return "\n".join(lines)
