"""`harmonia-py doctor`: looks for what goes wrong in practice, and says what to do about it. It changes nothing.

Each module looks at one thing, gathers facts, and judges them by functions from facts to `Finding`s.
"""

import argparse
from pathlib import Path

from harmonia_py.commands.doctor import examine
from harmonia_py.commands.shared.options import add_config, load_file
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.commands.shared.path_arguments import parse_hash_part
from harmonia_py.commands.shared.progress import add_json
from harmonia_py.errors import FormatError
from harmonia_py.nix.signing import PublicKey


def add_arguments(parser: Parser) -> None:
    """The options: the place to look at, and the keys and token to look with."""
    parser.describe(
        """
        Look for what goes wrong in practice, and say what to do about it: on this machine at the nix-daemon, keys,
        directories, ports, upstreams and limits; with --url at any binary cache, as its clients do. Nothing is changed.
        Exit status 1: something does not work.""",
        ("harmonia-py doctor", "look at this machine and the server on it"),
        ("harmonia-py doctor --url https://cache.nixos.org", "look at a cache from outside"),
    )
    add_config(parser)
    parser.add_argument("--url", metavar="URL", help="look at this cache as its clients do, not at this machine")
    parser.add_argument(
        "--key", metavar="NAME:BASE64", action="append", default=[], help="a public key clients trust; may be repeated"
    )
    parser.add_argument("--path", metavar="PATH", help="a store path that the cache has, or its hash part")
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="with the token that opens the cache")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Look and report; exit status 1 when something does not work."""
    if options.url is not None and options.config is not None:
        options.usage("--url looks from outside, where no configuration counts")
    if options.url is not None and not options.url.startswith(("http://", "https://")):
        options.usage("--url: begins with http:// or https://")
    try:
        public_keys = [PublicKey.parse(key) for key in options.key]
        path = None if options.path is None else parse_hash_part(options.path, None)
    except FormatError as error:
        options.usage(str(error))
    examination = examine.Options(
        url=options.url, keys=public_keys, path=path, token_file=options.token_file, as_json=options.as_json
    )
    return examine.examine(examination, lambda: load_file(options))
