"""`harmonia-py public-key`: the public halves of secret keys, which clients must trust."""

import argparse
import os
from pathlib import Path

from harmonia_py.commands.doctor import signing_keys
from harmonia_py.commands.options import add_config, load
from harmonia_py.commands.parser import Parser
from harmonia_py.config import key_files
from harmonia_py.errors import ConfigError


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


def run(options: argparse.Namespace) -> int:
    """Print them; exit status 1 when there is none."""
    files = options.files or _configured(options)
    for key in key_files.read_secret_keys(files, os.environ):
        print(key.public_key)  # noqa: T201
    return 0


def _configured(options: argparse.Namespace) -> list[Path]:
    file, settings = load(options)
    files = signing_keys.files_of(settings, signing_keys.service_of(file, os.environ))
    if files is None:
        raise ConfigError(f"{signing_keys.OF_SERVICE}: only root sees which keys the service signs with")
    if not files:
        raise ConfigError("no secret key: sign = false")
    if files == [settings.generated_key_file] and not files[0].exists():
        raise ConfigError(f"no secret key: sign_key_paths names none, and {files[0]} has not been made")
    return files
