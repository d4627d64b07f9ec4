"""The store paths of a soak, and all that is known of them; threads share them."""

import random
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from soak.policy import Origin

from harmonia_py.nix.hashes import Hash


@dataclass
class Path:
    """A store path and the truth about it.

    Attributes:
        store_path: its base name.
        nar: what `nix-store --dump` says.
        listing: what `nix store ls --json --recursive` says; None where it was not asked.
        log: the derivation, and what `nix-store --read-log` says; None where there is none.
        collecting, gone: of a doomed path: from when on it may be gone, and since when it is; see `Asked.collected`.
    """

    store_path: str
    nar: bytes
    origin: Origin
    listing: object = None
    log: tuple[str, bytes] | None = None
    nar_hash: str = field(init=False)
    collecting: float | None = None
    gone: float = float("inf")

    def __post_init__(self) -> None:
        self.nar_hash = str(Hash.of(self.nar))

    @property
    def hash_part(self) -> str:
        return self.store_path[:32]

    @property
    def is_quiet(self) -> bool:
        """Whether nobody shall download it: what was, keeps its temporary root for a minute and is not collected."""
        return "-quiet-" in self.store_path and self.gone == float("inf")

    @property
    def collected(self) -> tuple[float, float] | None:
        return None if self.collecting is None else (self.collecting, self.gone)


class Paths:
    """All of them. Of the collected, the last few are remembered."""

    _REMEMBERED = 12

    def __init__(self, lasting: Iterable[Path]) -> None:
        self.lasting = tuple(lasting)
        self._doomed: list[Path] = []
        self._lock = threading.Lock()

    def of(self, *origins: Origin) -> list[Path]:
        return [path for path in self.lasting if path.origin in origins]

    def choose(self, chance: random.Random, *, to_download: bool = True) -> Path:
        """Any path; the doomed a third of the time."""
        with self._lock:
            doomed = [path for path in self._doomed if not (to_download and path.is_quiet)]
        if doomed and chance.random() < 0.34:
            return chance.choice(doomed)
        return chance.choice(self.lasting)

    def built(self, paths: Iterable[Path]) -> None:
        with self._lock:
            self._doomed += paths

    def collection_begins(self) -> Sequence[Path]:
        """Return those that may be taken."""
        with self._lock:
            doomed = [path for path in self._doomed if path.collecting is None]
            for path in doomed:
                path.collecting = time.time()
            return doomed

    def collection_ended(self, taken: Iterable[Path], left: Iterable[Path]) -> None:
        with self._lock:
            for path in left:
                path.collecting = None
            for path in taken:
                path.gone = time.time()
            gone = [path for path in self._doomed if path.collecting is not None]
            for path in gone[: -self._REMEMBERED]:
                self._doomed.remove(path)
