"""Valid store paths whose files are known to be missing or changed: they are not served until they are repaired.

A client that gets an error for a NAR asks again, and then gives the build up; a client that gets 404 goes on with the
next substituter, or builds. A damage that one worker finds the other workers know within a second, from shared memory.
Each damaged path is a line in the log and counts on `/metrics`, because only a person can repair a store.
"""

import logging
import time
from typing import Final

import msgspec
from msgspec import Struct, field

from harmonia_py.metrics import families
from harmonia_py.metrics.board import Counter
from harmonia_py.metrics.counters import Counters, counted
from harmonia_py.metrics.shared import Row, SharedTexts
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import StorePath
from harmonia_py.runtime.bounded import Bounded
from harmonia_py.store.files.layouts import Identity

_log = logging.getLogger(__name__)

# A repair that leaves the top of the path as it is shows after this time: then the files are looked at again.
BELIEVED_SECONDS: Final = 600.0
# In each process: more than this many damaged paths are a store that is lost.
_MAX_NOTES: Final = 10_000


class StoreCounters(Counters, frozen=True):
    """The metrics of the store's files.

    Attributes:
        damaged: paths that were found to be damaged.
    """

    damaged: Counter = counted(families.store.STORE_DAMAGED)


class Damage(Struct, frozen=True):
    """A store path whose files are not what the store says.

    Attributes:
        nar_hash: of the valid path, as the store says it; the damage is not that of a path with another NarHash.
        identity: of the path when the damage was found, which a repair changes; None when nothing was there.
        believed_until: by `time.monotonic`, which is the same for all processes of a machine.
    """

    nar_hash: str
    identity: Identity | None
    believed_until: float


class DamagedPaths(Struct, eq=False):
    """The notes of one process, and those in shared memory. The event loop alone uses it.

    Attributes:
        row: holds the time of the last note of any process; no other process sees it unless it is given.
        texts: shared memory with the notes of all processes.
        counters: the metrics that are added to.
    """

    row: Row = field(default_factory=Row.alone)
    texts: SharedTexts | None = None
    counters: StoreCounters = field(default_factory=StoreCounters)
    _notes: Bounded[StorePath, Damage] = field(default_factory=lambda: Bounded(_MAX_NOTES))

    @property
    def changed_ns(self) -> int:
        """When a process noted the last damage, in nanoseconds since the epoch of the system's clock; 0 for never."""
        return int(self.row.read()[0])

    def note(self, store_path: StorePath, nar_hash: Hash, words: str, identity: Identity | None) -> None:
        """Note for all processes that the files of a valid path are not what the store says."""
        known = self.find(store_path, nar_hash)
        damage = Damage(str(nar_hash), identity, time.monotonic() + BELIEVED_SECONDS)
        self._notes[store_path] = damage
        if self.texts is not None:
            self.texts.put(_name(store_path), msgspec.json.encode(damage))
        if known is not None and known.identity == identity:
            return  # logged already
        self.row.change(lambda numbers: (float(time.time_ns()), *numbers[1:]))
        self.counters.damaged.add()
        _log.critical(
            "%s is damaged: %s; it is not served until it is right again: see `nix-store --repair-path`",
            store_path,
            words,
        )

    def find(self, store_path: StorePath, nar_hash: Hash) -> Damage | None:
        """The damage that is known of this path with this NarHash; None when none is."""
        damage = self._notes.get(store_path)
        if damage is None and self.texts is not None and self.changed_ns:
            text = self.texts.get(_name(store_path))
            if text is not None:
                damage = msgspec.json.decode(text, type=Damage)
                self._notes[store_path] = damage
        if damage is None:
            return None
        if damage.nar_hash == str(nar_hash) and time.monotonic() < damage.believed_until:
            return damage
        self.forget(store_path)
        return None

    def forget(self, store_path: StorePath) -> None:
        """Forget the damage of a path, whose files have been replaced."""
        self._notes.pop(store_path, None)
        if self.texts is not None:
            self.texts.remove(_name(store_path))


def _name(store_path: StorePath) -> str:
    return f"damaged {store_path}"
