"""`harmonia-py generate-token`: a token that opens this cache."""

import argparse
import sys
from pathlib import Path

from harmonia_py.cache.tokens import TokenHash
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.config import token_file
from harmonia_py.errors import naming


def add_arguments(parser: Parser) -> None:
    """The arguments: the name of the token, and the file for its hash."""
    parser.describe(
        """
        Make a token that opens a cache which is not public. The token is printed, this one time, and goes to a client;
        the server keeps a hash of it in its token_file, from which the token cannot be had.""",
        ("harmonia-py generate-token laptop -o /etc/harmonia.tokens", "add a token for a laptop"),
        ("systemctl reload harmonia-py", "let the running server know"),
    )
    parser.add_argument("name", metavar="NAME", help="whose it is, for people: laptop")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="add its hash to this token_file; otherwise it is printed"
    )


def run(options: argparse.Namespace) -> None:
    """Print the token, this one time."""
    with naming(repr(options.name)):
        token, token_hash = TokenHash.generate(options.name)
    if options.output is not None:
        token_file.add_token(options.output, token_hash)
        print(f"{options.output}: has its hash; this is the only time that the token is shown", file=sys.stderr)
        print(token)
        return
    print("the token, shown this one time, and the line for token_file:", file=sys.stderr)
    print(f"{token}\n{token_hash}")
