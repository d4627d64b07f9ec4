"""`harmonia-py promote`: paths of one cache of a server, published in another one of it."""

import argparse
import asyncio
import json
import os
from typing import Final

from harmonia_py.client.answers import Promoted
from harmonia_py.client.http import HttpServer
from harmonia_py.client.promotion import promote
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.commands.shared.path_arguments import parse_store_path
from harmonia_py.commands.shared.progress import count, messages
from harmonia_py.config.logins import CacheUrl, find_cache

_PATIENCE_SECONDS: Final = 60.0


def add_arguments(parser: Parser) -> None:
    """The arguments: the two caches, and the paths."""
    parser.describe(
        """
        Publish paths of the cache FROM in the cache TO of a server, with all that they refer to. No bytes move, here or
        there: caches share their files. The key of TO signs what readers of it get. It takes a token that may read FROM
        and push to TO. What pull requests have built in a cache of their own gets into the main one that way, once it
        was looked at.""",
        ("harmonia-py promote pulls main ./result", "on the server of the latest login"),
        ("harmonia-py promote staging https://cache.example.org/main /nix/store/…", "on another one"),
    )
    parser.add_argument("source", metavar="FROM", help="the name of the cache that has the paths")
    parser.add_argument("target", metavar="TO", help="the cache that is to have them: a name, HOST/NAME, or its URL")
    parser.add_argument("paths", metavar="PATH", nargs="+", help="a store path, its base name, or a link to one")
    parser.add_argument("--json", action="store_true", help="one object, for scripts")


def run(options: argparse.Namespace) -> None:
    """Do it."""
    cache = find_cache(options.target, os.environ)
    # Paths of any store directory: the server knows its own.
    paths = [str(parse_store_path(text, None)) for text in options.paths]
    promoted = asyncio.run(_promote(cache, options.source, paths))
    if options.json:
        fields = {"published": promoted.published, "present": promoted.present, "kept_first": promoted.kept_first}
        print(json.dumps(fields))
        return
    console = messages()
    for path in promoted.kept_first:
        console.print(f"{path}: {cache.name} has another build of it, which stays")
    console.print(f"{cache.url}: {count(len(promoted.published), 'path')} published, {promoted.present} present")


async def _promote(cache: CacheUrl, source: str, paths: list[str]) -> Promoted:
    async with HttpServer(cache.server, cache.token, patience=_PATIENCE_SECONDS) as server:
        return await promote(server, cache.root, source, paths)
