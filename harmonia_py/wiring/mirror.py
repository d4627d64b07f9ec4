"""The mirror of a configuration, opened over its upstreams and the place of their kept files."""

from typing import TYPE_CHECKING

from harmonia_py.mirror.mirror import Mirror, MirrorSettings
from harmonia_py.mirror.mirror_metrics import MirrorCounters
from harmonia_py.mirror.upstreams import Upstreams
from harmonia_py.wiring.opening import Opening
from harmonia_py.wiring.pools import entered
from harmonia_py.wiring.slices import slice_of

if TYPE_CHECKING:  # its module loads the catalog
    from harmonia_py.wiring.kept_directory import KeptDirectory


async def open_mirror(opening: Opening, upstreams: Upstreams, directory: "KeptDirectory") -> Mirror:
    """The mirror over `upstreams`, whose files are kept in `directory`."""
    config, metrics = opening.config, opening.metrics
    settings, recompress = slice_of(MirrorSettings, config.mirror), config.mirror.recompress

    def make() -> Mirror:
        return Mirror(
            upstreams,
            directory.intake,
            directory.kept,
            config.store_dir,
            settings,
            counters=MirrorCounters.on(metrics),
            recodes=recompress == "zstd",
            texts=metrics.board.texts,
        )

    return await opening.selection.get(
        "mirror", (upstreams, directory, config.store_dir, settings, recompress), entered(make), idle=Mirror.idle
    )
