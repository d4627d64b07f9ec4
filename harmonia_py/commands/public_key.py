"""`harmonia-py public-key`: the public halves of secret keys, which clients must trust."""

import argparse
import os
from pathlib import Path

from harmonia_py.commands.doctor import signing_keys
from harmonia_py.commands.shared.options import add_config, load_file
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.config import key_files
from harmonia_py.errors import ConfigError
from harmonia_py.nix.signing import SecretKey


def add_arguments(parser: Parser) -> None:
    """The arguments: the files of keys."""
    parser.describe(
        """
        Print the public key of each secret key, one a line, as clients need it in trusted-public-keys. Without a FILE
        these are the keys with which the server would sign, the one made at its first start included.""",
        ("harmonia-py public-key cache.example.org-1.secret", "of one file"),
        ("sudo harmonia-py public-key", "of the service"),
    )
    parser.add_argument("files", metavar="FILE", nargs="*", type=Path, help="a secret key")
    add_config(parser)


def run(options: argparse.Namespace) -> None:
    """Print them; exit status 1 when there is none."""
    keys = key_files.read_secret_keys(options.files, os.environ) if options.files else _configured(options)
    for key in keys:
        print(key.public_key)


def _configured(options: argparse.Namespace) -> list[SecretKey]:
    file, settings = load_file(options)
    keys = signing_keys.keys_of(settings, signing_keys.service_of(file, os.environ), os.environ)
    if not keys:
        made = settings.generated_key_file
        why = "sign = false" if made is None else f"sign_key_paths names none, and {made} has not been made"
        raise ConfigError(f"no secret key: {why}")
    return keys
