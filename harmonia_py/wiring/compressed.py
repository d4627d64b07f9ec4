"""The compressed NARs of the local store, made once and kept."""

from typing import TYPE_CHECKING

from harmonia_py.contents.compressed import CompressedNars
from harmonia_py.contents.compressed_metrics import CompressedCounters
from harmonia_py.contents.compressing import Compressing
from harmonia_py.contents.encoders import Zstd
from harmonia_py.store.local import LocalStore
from harmonia_py.wiring.opening import Opening
from harmonia_py.wiring.pools import entered
from harmonia_py.wiring.slices import slice_of

if TYPE_CHECKING:  # its module loads the catalog
    from harmonia_py.wiring.kept_directory import KeptDirectory


async def open_compressed(opening: Opening, local: LocalStore, directory: "KeptDirectory") -> CompressedNars:
    """The source of the compressed NARs of `local`, kept in `directory`."""
    zstd, jobs = opening.config.zstd, opening.config.cache.jobs

    def make() -> CompressedNars:
        settings = slice_of(Zstd, zstd)
        compressing = Compressing(settings=settings, at_once=jobs)
        counters = CompressedCounters.on(opening.metrics)
        intake, kept = directory.intake, directory.kept
        return CompressedNars(local, intake, kept, compressing, counters, damaged=local.note_damage)

    return await opening.selection.get(
        "compressed", (local, directory, zstd, jobs), entered(make), idle=CompressedNars.idle
    )
