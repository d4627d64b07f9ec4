"""`harmonia-py export`: a cache as files that any web server serves."""

import argparse
import os
from pathlib import Path

from msgspec.structs import asdict
from rich.filesize import decimal

from harmonia_py.commands.shared.catalog import any_cache, found_cache, in_catalog
from harmonia_py.commands.shared.options import add_config, load
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.commands.shared.progress import add_json, count, print_json, progress_of, results
from harmonia_py.config import key_files
from harmonia_py.config.settings import Config
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.errors import ConfigError
from harmonia_py.metrics.board import Metrics
from harmonia_py.push.exporting import Exported


def add_arguments(parser: Parser) -> None:
    """The arguments: the cache, and the directory."""
    parser.describe(
        """
        Write what was pushed to a cache as a plain binary cache: a directory that any web server, or file://, serves,
        with narinfos that are signed as this server signs them. Run it again to bring the directory up to date: what is
        there is not written again. At any moment the directory is a cache that can be used, also when this is cut off.
        Nothing is removed from it.""",
        (
            "harmonia-py export team /srv/www/cache",
            "then: nix-store --realise /nix/store/… --option extra-substituters file:///srv/www/cache",
        ),
        ("harmonia-py export team /var/lib/export --link", "on the same file system, without taking room for the NARs"),
    )
    parser.add_argument("cache", metavar="CACHE", help="the name of the cache; default for the one at /")
    parser.add_argument("directory", metavar="DIRECTORY", help="where to; it is made if it is not there")
    parser.add_argument(
        "--link",
        action="store_true",
        help="link the files of NARs instead of copying them; other users can read them then",
    )
    add_json(parser)
    add_config(parser)


def run(options: argparse.Namespace) -> int:
    """Write it; exit status 1 when paths were left out."""
    if "://" in options.directory:
        raise ConfigError(f"{options.directory}: a cache is exported to a directory; copy that to where it shall be")
    config = load(options)
    done = in_catalog(config, lambda catalog: _export(catalog, config, options))
    if options.as_json:
        print_json(asdict(done))
    else:
        words = (
            f"{count(done.paths, 'path')} in {options.directory}; {count(done.nars, 'new file')}, {decimal(done.size)}"
        )
        left_out = f"; {done.skipped} left out, as they or their references are not in this cache"
        results().print(words + (left_out if done.skipped else ""))
    return 1 if done.skipped else 0


async def _export(catalog: SqlCatalog, config: Config, options: argparse.Namespace) -> Exported:
    from harmonia_py.wiring.cache_keys import CacheKeys  # noqa: PLC0415  # no other command needs these
    from harmonia_py.wiring.exporting import export_of  # noqa: PLC0415
    from harmonia_py.wiring.pushing import PushNode  # noqa: PLC0415

    row = await found_cache(catalog, any_cache(options.cache))
    keys = CacheKeys(catalog.keys, key_files.read_key_encryption(config, os.environ))
    keys.default = key_files.read_signing_keys(config, os.environ)
    size = (await catalog.objects.size(row.id)).size
    async with PushNode.of(config, catalog, Metrics.alone()) as node:
        with progress_of("exporting", size) as report:
            target = Path(options.directory)
            export = export_of(node, row, await keys.of(row), target, link=options.link, report=report)
            return await export.run()
