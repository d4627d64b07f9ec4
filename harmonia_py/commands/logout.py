"""`harmonia-py logout`: forgets the token for a server."""

import argparse
import os

from harmonia_py.commands.shared.parser import Parser
from harmonia_py.commands.shared.progress import messages
from harmonia_py.config.logins import Logins, logins_file, parse_server
from harmonia_py.errors import ConfigError


def add_arguments(parser: Parser) -> None:
    """The arguments: the server."""
    parser.describe(
        """
        Forget the token for a server. What `use` has set up stays until `use --remove`; the token itself is good until
        the server revokes it.""",
        ("harmonia-py logout", "of the server of the latest login"),
        ("harmonia-py logout https://cache.example.org", "of this one"),
    )
    parser.add_argument("url", metavar="URL", nargs="?", help="of the server; that of the latest login unless given")


def run(options: argparse.Namespace) -> None:
    """Forget it."""
    file = logins_file(os.environ)
    logins = Logins.read(file)
    if not logins.servers:
        raise ConfigError("not logged in anywhere")
    url = parse_server(options.url) if options.url else list(logins.servers)[-1]
    if url not in logins.servers:
        raise ConfigError(f"not logged in to {url}; only to {', '.join(logins.servers)}")
    logins.without(url).write(file)
    messages().print(f"logged out of {url}")
