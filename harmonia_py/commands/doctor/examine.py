"""Runs every check in order, on this machine or on a cache from outside, and reports on them."""

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from harmonia_py import __version__
from harmonia_py.commands.doctor import signing_keys
from harmonia_py.commands.doctor.client_view import ClientView
from harmonia_py.commands.doctor.finding import Check, Finding, findings_of
from harmonia_py.commands.doctor.listening import unverified_tls
from harmonia_py.commands.doctor.local import LocalView, candidates_in
from harmonia_py.commands.doctor.remote import Remote
from harmonia_py.commands.doctor.report import Report
from harmonia_py.commands.shared.user import user_name
from harmonia_py.config.settings import Config
from harmonia_py.errors import ConfigError
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import HashPart, StoreDir
from harmonia_py.upstream.credentials import read_authorization

Load = Callable[[], tuple[Path | None, Config]]


class Options(Struct, frozen=True, kw_only=True):
    """The subject of an examination, and the form of its report.

    Attributes:
        url: of a cache to look at from outside; None for this machine.
        keys: that its clients trust.
        path: a store path to try.
        token_file: holds the token that opens the cache.
        as_json: a report for scripts.
    """

    url: str | None
    keys: Sequence[PublicKey]
    path: HashPart | None
    token_file: Path | None
    as_json: bool


def examine(options: Options, load: Load) -> int:
    """Look, report, and return the exit status: 1 when something does not work.

    Raises:
        ConfigError: the file of the token cannot be read.
    """
    report = Report(as_json=options.as_json)
    asyncio.run(_from_outside(options, report) if options.url is not None else _this_machine(options, report, load))
    return report.finish()


async def _from_outside(options: Options, report: Report) -> None:
    assert options.url is not None
    store_dir = StoreDir.parse(os.environ["NIX_STORE_DIR"]) if "NIX_STORE_DIR" in os.environ else None
    real_store = Path(store_dir or "/nix/store")
    async with Remote(options.url, _authorization(options)) as remote:
        view = ClientView(
            remote,
            store_dir=store_dir,
            keys=options.keys,
            hash_part=options.path,
            candidates=lambda: candidates_in(real_store),
        )
        await _run(report, f"{remote.url}, as clients see it", view.checks())


async def _this_machine(options: Options, report: Report, load: Load) -> None:
    report.section(f"harmonia-py {__version__}, as {user_name()}")
    try:
        file, config = load()
    except ConfigError as error:
        remedy = "mend that; `harmonia-py check-config` says whether it is right, and doctor looks at the rest then"
        report.add([Finding.failure("configuration", line, remedy) for line in str(error).splitlines()])
        return
    report.add([Finding.ok("configuration", str(file or "no file: the defaults"))])
    view = LocalView(config, os.environ, signing_keys.service_of(file, os.environ))
    for section in view.sections():
        await _run(report, section.title, section.checks)
    await _own_clients(options, report, view, config)


async def _own_clients(options: Options, report: Report, local: LocalView, config: Config) -> None:
    """Look at this machine's server as its clients do: under `base_url`, or else where it was found to listen."""
    url = config.base_url or local.url
    if url is None:
        return
    if config.token_file is not None and options.token_file is None:
        report.section(f"{url}, as clients see it")
        report.add([Finding.ok("connection", "not public, so not looked at; --token-file FILE opens it")])
        return
    ours = None if config.base_url is not None else unverified_tls()
    async with Remote(url, _authorization(options), ours, proxies=config.base_url is not None) as remote:
        view = ClientView(
            remote,
            store_dir=config.store_dir,
            keys=[*options.keys, *local.public_keys()],
            hash_part=options.path,
            candidates=local.candidates,
        )
        await _run(report, f"{remote.url}, as clients see it", view.checks())


def _authorization(options: Options) -> str | None:
    return read_authorization("", None, options.token_file)


async def _run(report: Report, title: str, checks: Sequence[Check]) -> None:
    report.section(title)
    for check in checks:
        with report.looking_at(check.name):
            found = await findings_of(check)
        report.add(found)
