"""`harmonia-py generate-key`: a key that signs narinfos."""

import argparse
import sys
from pathlib import Path

from harmonia_py.commands.shared.parser import Parser
from harmonia_py.config import key_files
from harmonia_py.errors import ConfigError, naming
from harmonia_py.nix.signing import SecretKey


def add_arguments(parser: Parser) -> None:
    """The arguments: the name of the key, and its file."""
    parser.describe(
        """
        Make a pair of keys. The secret one is written to a new file that its owner alone can read, for sign_key_paths;
        an existing file is never overwritten. The public one is printed: clients need it in trusted-public-keys.""",
        ("harmonia-py generate-key cache.example.org-1", "make cache.example.org-1.secret here"),
        ("harmonia-py generate-key cache.example.org-1 -o /etc/harmonia.key", "say where the secret key goes"),
    )
    parser.add_argument("name", metavar="NAME", help="what clients call the key, by custom HOST-1: cache.example.org-1")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="where the secret key goes (default: NAME.secret)"
    )


def run(options: argparse.Namespace) -> None:
    """Write the secret key, and print the public one."""
    with naming(repr(options.name)):
        key = SecretKey.generate(options.name)
    if options.output is None and "/" in options.name:
        raise ConfigError(f"{options.name!r}: say with --output where the key goes")
    file = options.output or Path(f"{options.name}.secret")
    key_files.write_secret_key(file, key)
    print(f"{file}: secret key, for sign_key_paths", file=sys.stderr)
    print(key.public_key)
