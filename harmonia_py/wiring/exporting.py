"""An export, put together."""

from collections.abc import Callable, Sequence
from pathlib import Path

from harmonia_py.catalog.caches import CacheRow
from harmonia_py.push.exporting import Export, ExportPorts
from harmonia_py.storage.export_directory import ExportDirectory
from harmonia_py.wiring.cache_keys import SigningKey
from harmonia_py.wiring.pushing import PushNode


def export_of(
    node: PushNode,
    row: CacheRow,
    keys: Sequence[SigningKey],
    directory: Path,
    *,
    link: bool,
    report: Callable[[int], object] = lambda _: None,
) -> Export:
    """The export of a cache to a directory, signed with `keys`; for `link` see `ExportDirectory`."""
    catalog = node.catalog
    ports = ExportPorts(objects=catalog.objects, index=catalog.objects, documents=catalog.documents)
    view, target = node.caches.view_of(row, keys), ExportDirectory(directory, link=link)
    return Export(row.id, view, ports, node.open_blob, target, report=report)
