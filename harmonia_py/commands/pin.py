"""`harmonia-py pin`: names in a cache that keep closures, set, listed, shown, removed."""

import argparse
import json
from functools import partial
from typing import Any

from harmonia_py.catalog.paging import all_of
from harmonia_py.catalog.pins import DAY, Pin, PinName, PinRevision, PinRuleChange
from harmonia_py.commands.shared.catalog import any_cache, found_cache, in_catalog, now, user
from harmonia_py.commands.shared.options import add_config, add_json_lines, load
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.commands.shared.path_arguments import parse_store_path
from harmonia_py.config.settings import Config
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.errors import ConfigError, naming

_MOST: int = 1_000_000
_MOST_DAYS: int = 36_500


def add_arguments(parser: Parser) -> None:
    """The commands, each with the cache and the pin."""
    parser.describe(
        """
        A pin is a name in a cache that keeps a store path and all that it refers to, however long nothing asks for it.
        Setting it to another path makes a new revision. The newest revision always keeps its closure; others do as the
        rule of the pin says. What an option does not say of the rule stays as it is. A path that has not been published
        yet may be pinned as well: the pin waits, and is set with the last path of the closure.""",
        ("harmonia-py pin set team release ./result", "keep what was built and pushed, until there is a newer release"),
        ("harmonia-py pin set team nightly ./result --keep-revisions 5 --keep-days 30", "and what was pinned before"),
        ("harmonia-py pin list team", "which there are, and where they lead"),
        ("harmonia-py pin show team nightly", "all revisions, and which of them keep"),
        ("harmonia-py pin remove team nightly", "let its closures go, as their last use says"),
    )
    verbs = parser.add_actions()
    setting = verbs.add_parser("set", help="let a pin name a path")
    listing = verbs.add_parser("list", help="show the pins of a cache")
    show = verbs.add_parser("show", help="show the revisions of a pin")
    remove = verbs.add_parser("remove", help="remove a pin with all its revisions")
    for verb in (setting, listing, show, remove):
        verb.add_argument("cache", metavar="CACHE", help="the name of the cache")
    for verb in (setting, show, remove):
        verb.add_argument("name", metavar="NAME", help="of the pin: letters, digits and _.+-")
    setting.add_argument("path", metavar="PATH", help="a store path, its base name, or a link to one such as ./result")
    _add_rule(setting)
    for verb in (setting, listing, show, remove):
        add_json_lines(verb)
        add_config(verb)


def _add_rule(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep-revisions", metavar="N", type=_whole(1, _MOST), help="keep so many of the newest revisions"
    )
    parser.add_argument(
        "--keep-days", metavar="N", type=_whole(0, _MOST_DAYS), help="keep revisions that were set in so many days"
    )
    parser.add_argument("--keep-forever", action=argparse.BooleanOptionalAction, help="keep all revisions")


def _whole(least: int, most: int) -> Any:
    def number(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{value} is not between {least} and {most}")
        return value

    return number


def run(options: argparse.Namespace) -> None:
    """Do it."""
    config = load(options)
    {"set": _set, "list": _list, "show": _show, "remove": _remove}[options.action](options, config)


def _set(options: argparse.Namespace, config: Config) -> None:
    cache, name = any_cache(options.cache), _name(options.name)
    path = parse_store_path(options.path, config.store_dir)
    change = PinRuleChange(
        keep_revisions=options.keep_revisions,
        keep_seconds=None if options.keep_days is None else options.keep_days * DAY,
        keep_forever=options.keep_forever,
    )

    async def set_pin(catalog: SqlCatalog) -> PinRevision:
        row = await found_cache(catalog, cache)
        revision: PinRevision = await catalog.pins.set(row.id, name, path, change, set_by=user(), now=now())
        return revision

    revision = in_catalog(config, set_pin)
    if options.json:
        print(json.dumps({"name": name, **revision.to_json()}))
    elif revision.set_at is None:
        print(f"{name}: revision {revision.revision} waits: {path} is not published in {cache} yet")
    else:
        print(f"{name}: revision {revision.revision} is {path}")


def _list(options: argparse.Namespace, config: Config) -> None:
    cache = any_cache(options.cache)

    async def pins(catalog: SqlCatalog) -> list[Pin]:
        row = await found_cache(catalog, cache)
        return await all_of(partial(catalog.pins.page, row.id), lambda pin: pin.name)

    for pin in in_catalog(config, pins):
        print(json.dumps(pin.to_json()) if options.json else _line(pin))


def _line(pin: Pin) -> str:
    leads = f"{pin.newest.path}, revision {pin.newest.revision}, " if pin.newest is not None else ""
    waits = f"; waits for {pin.waiting.path}" if pin.waiting is not None else ""
    return f"{pin.name}: {leads}keeps {pin.rule.words}{waits}"


def _show(options: argparse.Namespace, config: Config) -> None:
    cache, name = any_cache(options.cache), _name(options.name)

    async def revisions(catalog: SqlCatalog) -> list[tuple[PinRevision, bool]]:
        row = await found_cache(catalog, cache)
        if await catalog.pins.find(row.id, name) is None:
            raise _no_pin(cache, name)
        return list(await catalog.pins.revisions(row.id, name, now=now()))

    for one, keeps in in_catalog(config, revisions):
        if options.json:
            print(json.dumps({**one.to_json(), "keeps": keeps}))
        else:
            state = "waits" if one.set_at is None else "keeps" if keeps else "keeps nothing any more"
            at = "" if one.set_at is None else f", set {one.to_json()['set']}"
            print(f"{one.revision}: {one.path}, {state}{at} by {one.set_by}")


def _remove(options: argparse.Namespace, config: Config) -> None:
    cache, name = any_cache(options.cache), _name(options.name)

    async def remove(catalog: SqlCatalog) -> None:
        row = await found_cache(catalog, cache)
        if not await catalog.pins.remove(row.id, name, removed_by=user(), now=now()):
            raise _no_pin(cache, name)

    in_catalog(config, remove)
    if options.json:
        print(json.dumps({"name": name}))


def _name(text: str) -> PinName:
    with naming(repr(text)):
        return PinName.parse(text)


def _no_pin(cache: str, name: str) -> ConfigError:
    return ConfigError(f"there is no pin {name} in the cache {cache}; `pin list {cache}` shows which there are")
