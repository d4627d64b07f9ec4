"""`Opening`: the arguments that all `open_*` functions of the parts of a node have in common."""

from msgspec import Struct

from harmonia_py.config.settings import Config
from harmonia_py.metrics.board import Metrics
from harmonia_py.wiring.pools import Selection
from harmonia_py.wiring.store_choice import StoreChoice


class Opening(Struct, frozen=True, eq=False):
    """The values that one configuration opens its parts from.

    Attributes:
        config: describes the parts.
        choice: the way to the local store.
        selection: hands out open things of the pools, and keeps those that are opened.
        metrics: the counters of this process.
        housekeeping: whether this process makes room and collects, and logs what concerns all processes: one does.
    """

    config: Config
    choice: StoreChoice
    selection: Selection
    metrics: Metrics
    housekeeping: bool
