"""`harmonia-py delete`: a path goes from a cache at once, unless something references it."""

import argparse
import json

from rich.filesize import decimal

from harmonia_py.catalog.deletion import Deleted, delete_closure
from harmonia_py.commands.shared.catalog import any_cache, found_cache, in_catalog, now, user
from harmonia_py.commands.shared.options import add_config, add_json_lines, load
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.commands.shared.path_arguments import parse_hash_part
from harmonia_py.commands.shared.progress import count
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.errors import ConfigError


def add_arguments(parser: Parser) -> None:
    """The arguments: the paths, and the cache."""
    parser.describe(
        """
        Delete a path from a cache, at once: clients do not see it any more, and its bytes go with the next collection,
        within a minute, unless another path or cache has them. What is referenced stays, what a pin names, and what a
        push under way was told is here; the refusal says which it is.""",
        ("harmonia-py delete team ./result", "one path"),
        ("harmonia-py delete team ./result --closure", "and what it alone references, directly or not"),
        ("harmonia-py delete team ./result --despite-pushes", "also while a push counts on it"),
    )
    parser.add_argument("cache", metavar="CACHE", help="the name of the cache")
    parser.add_argument("path", metavar="PATH", help="a store path, its hash part, or a link to it")
    parser.add_argument("--closure", action="store_true", help="and what this path alone references, directly or not")
    parser.add_argument(
        "--despite-pushes", action="store_true", help="also what a push was told is here: it has to bring it again"
    )
    add_json_lines(parser)
    add_config(parser)


def run(options: argparse.Namespace) -> None:
    """Do it."""
    config = load(options)
    cache, hash_part = any_cache(options.cache), parse_hash_part(options.path, config.store_dir)

    async def delete(catalog: SqlCatalog) -> Deleted:
        row = await found_cache(catalog, cache)
        by, despite_pushes = user(), options.despite_pushes
        if options.closure:
            return await delete_closure(
                catalog.deletions, row.id, hash_part, deleted_by=by, despite_pushes=despite_pushes, now=now()
            )
        gone: Deleted = await catalog.deletions.delete(
            row.id, [hash_part], deleted_by=by, despite_pushes=despite_pushes, now=now()
        )
        return gone

    gone = in_catalog(config, delete)
    for obstacle in gone.obstacles:
        raise ConfigError(f"{cache}: {obstacle.words('--despite-pushes')}")
    if not gone.paths:
        raise ConfigError(f"the cache {cache} does not have {hash_part}")
    for path in gone.paths:
        print(json.dumps({"cache": cache, "path": path}) if options.json else path)
    if not options.json:
        print(f"{count(len(gone.paths), 'path')} deleted, {decimal(gone.size)}")
