"""Options that several verbs have, and the configuration that they lead to."""

import argparse
import os
from pathlib import Path
from typing import Any, Final

from harmonia_py.config import file as config_file
from harmonia_py.config.settings import Config

_SETTINGS: Final = ("bind", "workers", "sign_key_paths", "priority", "log_level", "log_format", "access_log")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The options that stand for settings."""
    add_config(parser)
    parser.add_argument(
        "-b", "--bind", metavar="ADDRESS", action="append", help="host:port or unix:/path; may be repeated"
    )
    parser.add_argument("-w", "--workers", metavar="N", type=int, help="number of processes")
    parser.add_argument(
        "--sign-key", metavar="FILE", action="append", dest="sign_key_paths", help="a secret key; may be repeated"
    )
    add_upstream(parser)
    parser.add_argument("--priority", metavar="N", type=int, help="clients ask the cache with the smaller number first")
    parser.add_argument(
        "--log-level",
        metavar="LEVEL",
        choices=["error", "warn", "info", "debug"],
        help="the least severe messages to log: error, warn, info or debug",
    )
    parser.add_argument(
        "--log-format", metavar="FORMAT", choices=["text", "json"], help="text, or json: one object a line"
    )
    parser.add_argument(
        "--no-access-log", action="store_const", const=False, dest="access_log", help="do not log requests"
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """`--config`."""
    parser.add_argument("-c", "--config", metavar="FILE", help="the configuration file")


def add_cache(parser: argparse.ArgumentParser) -> None:
    """The cache that a client pushes to or substitutes from."""
    parser.add_argument("cache", metavar="CACHE", help="the cache: team, host/team, or a whole URL")


def add_json_lines(parser: argparse.ArgumentParser) -> None:
    """`--json`: `options.json`."""
    parser.add_argument("--json", action="store_true", help="one object a line")


def add_upstream(parser: argparse.ArgumentParser) -> None:
    """`--upstream`."""
    parser.add_argument(
        "--upstream",
        metavar="URL",
        action="append",
        help="ask this cache for what the store does not have; may be repeated; its key must be known",
    )


def load(options: argparse.Namespace) -> Config:
    """The settings in effect.

    Raises:
        ConfigError: there is an error in them.
    """
    return load_file(options)[1]


def load_file(options: argparse.Namespace) -> tuple[Path | None, Config]:
    """The configuration file, if there is one, and the settings in effect.

    Raises:
        ConfigError: there is an error in it.
    """
    file = config_file.find_file(options.config, os.environ)
    # A verb need not have every option.
    given: dict[str, Any] = {name: value for name in _SETTINGS if (value := getattr(options, name, None)) is not None}
    if getattr(options, "upstream", None):
        given["upstream"] = [{"url": url} for url in options.upstream]
    return file, config_file.load(file, os.environ, given)
