"""`harmonia-py serve`: also what runs without a verb."""

import argparse
import gc
import os

from harmonia_py.commands.shared.options import add_settings, load, load_file
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.errors import ConfigError
from harmonia_py.server import listen, log
from harmonia_py.server.framework import without_client


def add_arguments(parser: Parser) -> None:
    """The options that stand for settings."""
    parser.describe(
        """
        Serve the store of this machine, and what upstreams have, to Nix clients over HTTP.

        It runs until SIGTERM or SIGINT, and lets transfers finish. SIGHUP makes it read the configuration, keys, tokens
        and certificates again, without dropping a connection. What the options say goes before the file.""",
        ("harmonia-py serve", "serve /nix/store on port 5000, signed with a key made at the first start"),
        ("harmonia-py serve --config /etc/harmonia.toml", "serve as configured"),
        ("harmonia-py serve --upstream https://cache.nixos.org", "mirror a cache as well"),
        ("harmonia-py serve --bind unix:/run/harmonia.sock", "serve a reverse proxy on this machine"),
    )
    add_settings(parser)


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    # What imports make stays: looking for garbage among it would be a tenth of the start. The supervisor ends this.
    gc.disable()
    without_client()
    # Generating the reference needs every parser, and not the web framework.
    from harmonia_py.server import serve  # noqa: PLC0415  # as said

    file, settings = load_file(options)
    log.set_up(
        level=settings.log_level,
        json_lines=settings.log_format == "json",
        access_log=settings.access_log,
        stamp=log.stamp_for(os.environ),
        waits=False,
    )
    scheme = "http" if settings.tls_cert_path is None else "https"
    permissions = listen.Permissions(settings.socket_mode, settings.unix_socket_group)
    try:
        listeners = listen.open_listeners(settings.addresses, os.environ, scheme, permissions)
    except ConfigError as error:
        place = "command line" if options.bind else file or "configuration"
        raise ConfigError(f"{place}: {error}") from None
    return serve.serve(settings, listeners, lambda: load(options))
