"""`harmonia-py doctor`, from its options to its exit status."""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harmonia_py import __version__
from harmonia_py.config import Config
from harmonia_py.doctor.client_view import ClientView
from harmonia_py.doctor.finding import Check, Finding, findings_of
from harmonia_py.doctor.listening import whoever_it_is
from harmonia_py.doctor.local import LocalView, candidates_in
from harmonia_py.doctor.remote import Remote
from harmonia_py.doctor.report import Report
from harmonia_py.doctor.user import user_name
from harmonia_py.errors import ConfigError, FormatError
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath
from harmonia_py.upstream.credentials import read_authorization

Load = Callable[[], tuple[Path | None, Config]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to look at.

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


def parse_path(text: str) -> HashPart:
    """The hash part of a store path, of something inside one, or of what a link such as `./result` leads to.

    Raises:
        FormatError: there is none in it.
    """
    try:
        return HashPart.parse(text)
    except FormatError:
        for component in (*text.split("/"), *os.path.realpath(text).split("/")):
            try:
                return StorePath.parse(component).hash_part
            except FormatError:
                continue
    raise FormatError(f"{text!r} is no store path, and does not lead to one")


def examine(wanted: Wanted, load: Load) -> int:
    """Look, report, and return the exit status: 1 when something does not work.

    Raises:
        ConfigError: the file of the token cannot be read.
    """
    report = Report(as_json=wanted.as_json)
    asyncio.run(_from_outside(wanted, report) if wanted.url is not None else _this_machine(wanted, report, load))
    return report.finish()


async def _from_outside(wanted: Wanted, report: Report) -> None:
    assert wanted.url is not None
    store_dir = StoreDir.parse(os.environ["NIX_STORE_DIR"]) if "NIX_STORE_DIR" in os.environ else None
    real_store = Path(store_dir or "/nix/store")
    async with Remote(wanted.url, _authorization(wanted)) as remote:
        view = ClientView(
            remote,
            store_dir=store_dir,
            keys=wanted.keys,
            wanted=wanted.path,
            candidates=lambda: candidates_in(real_store),
        )
        report.section(f"{remote.url}, as clients see it")
        await _run(view.checks(), report)


async def _this_machine(wanted: Wanted, report: Report, load: Load) -> None:
    report.section(f"harmonia-py {__version__}, as {user_name()}")
    try:
        file, config = load()
    except ConfigError as error:
        remedy = "mend that; `harmonia-py check-config` says whether it is right, and doctor looks at the rest then"
        report.add([Finding.failure("configuration", str(error), remedy)])
        return
    report.add([Finding.ok("configuration", str(file or "no file: the defaults"))])
    view = LocalView(file, config, os.environ)
    for section in view.sections():
        report.section(section.title)
        await _run(section.checks, report)
    await _own_clients(wanted, report, view, config)


async def _own_clients(wanted: Wanted, report: Report, local: LocalView, config: Config) -> None:
    """What clients see of us, by the name they use where it is known, or else where we found ourselves."""
    url = config.base_url or local.url
    if url is None:
        return
    if config.token_file is not None and wanted.token_file is None:
        report.section(f"{url}, as clients see it")
        report.add([Finding.ok("connection", "not public, so not looked at; --token-file FILE opens it")])
        return
    ours = None if config.base_url is not None else whoever_it_is()
    async with Remote(url, _authorization(wanted), ours, proxies=config.base_url is not None) as remote:
        view = ClientView(
            remote,
            store_dir=config.store_dir,
            keys=[*wanted.keys, *local.public_keys()],
            wanted=wanted.path,
            candidates=local.candidates,
        )
        report.section(f"{remote.url}, as clients see it")
        await _run(view.checks(), report)


def _authorization(wanted: Wanted) -> str | None:
    return None if wanted.token_file is None else read_authorization("", None, wanted.token_file)


async def _run(checks: Sequence[Check], report: Report) -> None:
    for check in checks:
        with report.looking_at(check.name):
            found = await findings_of(check)
        report.add(found)
