"""`generate-key` and `generate-token`: secrets that did not exist before."""

import argparse
import sys
from pathlib import Path

from harmonia_py import keys, tokens
from harmonia_py.cache.access import TokenHash
from harmonia_py.errors import ConfigError, FormatError
from harmonia_py.nix.signing import SecretKey
from harmonia_py.verbs.options import Verbs


def add_generate_key(verbs: Verbs) -> None:
    """The verb that makes a signing key."""
    generate = verbs.add_parser("generate-key", help="make a key that signs narinfos", allow_abbrev=False)
    generate.add_argument(
        "name", metavar="NAME", help="what clients call the key, by custom HOST-1: cache.example.org-1"
    )
    generate.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="where the secret key goes (default: NAME.secret)"
    )
    generate.set_defaults(run=_generate_key)


def add_generate_token(verbs: Verbs) -> None:
    """The verb that makes a token."""
    generate = verbs.add_parser("generate-token", help="make a token that opens this cache", allow_abbrev=False)
    generate.add_argument("name", metavar="NAME", help="whose it is, for people: laptop")
    generate.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="add its hash to this token_file; otherwise it is printed"
    )
    generate.set_defaults(run=_generate_token)


def _generate_key(options: argparse.Namespace) -> int:
    try:
        key = SecretKey.generate(options.name)
    except FormatError as error:
        raise ConfigError(f"{options.name!r}: {error}") from None
    if options.output is None and "/" in options.name:
        raise ConfigError(f"{options.name!r}: say with --output where the key goes")
    file = options.output or Path(f"{options.name}.secret")
    keys.write_secret_key(file, key)
    print(f"{file}: secret key, for sign_key_paths", file=sys.stderr)  # noqa: T201
    print(key.public_key)  # noqa: T201
    return 0


def _generate_token(options: argparse.Namespace) -> int:
    try:
        token, token_hash = TokenHash.generate(options.name)
    except FormatError as error:
        raise ConfigError(f"{options.name!r}: {error}") from None
    if options.output is not None:
        tokens.add_token(options.output, token_hash)
        print(f"{options.output}: has its hash; this is the only time that the token is shown", file=sys.stderr)  # noqa: T201
        print(token)  # noqa: T201
        return 0
    print("the token, shown this one time, and the line for token_file:", file=sys.stderr)  # noqa: T201
    print(f"{token}\n{token_hash}")  # noqa: T201
    return 0
