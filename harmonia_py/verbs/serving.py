"""`serve` and `check-config`."""

import argparse
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harmonia_py import config_file, keys, listen, log_format, tokens
from harmonia_py.config import Config
from harmonia_py.errors import ConfigError
from harmonia_py.verbs.options import Verbs, add_settings, load


def add_serve(verbs: Verbs) -> None:
    """The verb that serves; also what runs without a verb."""
    serve = verbs.add_parser("serve", help="serve the store over HTTP (the default)", allow_abbrev=False)
    add_settings(serve)
    serve.set_defaults(run=_serve)


def add_check_config(verbs: Verbs) -> None:
    """The verb that prints what would be in effect."""
    check = verbs.add_parser(
        "check-config",
        help="print the effective configuration as TOML, or say what is wrong with it",
        allow_abbrev=False,
    )
    add_settings(check)
    check.set_defaults(run=_check_config)


def _serve(options: argparse.Namespace) -> int:
    # What imports make stays: looking for garbage among it would be a tenth of the start. The supervisor ends this.
    gc.disable()
    # The web framework takes most of the time that the imports take; verbs that do not serve do without.
    from harmonia_py import serve  # noqa: PLC0415  # as said

    file, settings = load(options)
    _set_up_log(settings)
    with _naming_the_place(options, file):
        scheme = "http" if settings.tls_cert_path is None else "https"
        listeners = listen.open_listeners(
            settings.addresses,
            os.environ,
            scheme,
            listen.Permissions(settings.socket_mode, settings.unix_socket_group),
        )
    return serve.serve(file, settings, listeners, lambda: _reload(options))


def _reload(options: argparse.Namespace) -> Config:
    settings = load(options)[1]
    _set_up_log(settings)
    return settings


def _set_up_log(settings: Config) -> None:
    log_format.set_up(
        level=settings.log_level, json_lines=settings.log_format == "json", access_log=settings.access_log
    )


@contextmanager
def _naming_the_place(options: argparse.Namespace, file: Path | None) -> Iterator[None]:
    """Name where `bind` was set, when it is wrong."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{'command line' if options.bind else file or 'configuration'}: {error}") from None


def _check_config(options: argparse.Namespace) -> int:
    file, settings = load(options)
    with _naming_the_place(options, file):
        for address in settings.addresses:
            listen.parse_address(address)
    keys.read_secret_keys(settings.key_files, os.environ)
    if settings.token_file is not None:
        tokens.read_tokens(Path(settings.token_file), os.environ)
    if settings.upstream:
        from harmonia_py import upstreams  # noqa: PLC0415  # as `serve`

        upstreams.check_upstreams(settings)
    print(f"# {file or 'no configuration file: these are the defaults'}")  # noqa: T201
    print(config_file.format_toml(settings), end="")  # noqa: T201
    return 0
