"""`harmonia-py key`: the keys that caches of the catalog sign with, made, listed, rotated, retired."""

import argparse
import json
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheRow, Timestamp, iso
from harmonia_py.catalog.key_encryption import KeyEncryption, new_row, secret_key_of
from harmonia_py.catalog.keys import KeyRow, KeyState
from harmonia_py.commands.shared.catalog import entry, found_cache, in_catalog, named_cache, now, seconds_of
from harmonia_py.commands.shared.options import add_config, add_json_lines, load
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.config import key_files
from harmonia_py.config.settings import Config
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.errors import ConfigError, naming
from harmonia_py.nix.signing import PublicKey, SecretKey


def add_arguments(parser: Parser) -> None:
    """The commands, each with the cache whose keys it is about."""
    parser.describe(
        """
        A cache beside the one at / signs what it serves with keys of its own. They are made here, kept in the catalog,
        and take effect at once, also in a server that runs. The public half is printed: clients need it in
        trusted-public-keys. With key_encryption_file in harmonia.toml the secret halves are encrypted.""",
        ("harmonia-py key create team", "let the cache team sign, and print the key that clients must trust"),
        ("harmonia-py key list team", "its keys, and until when clients must trust each"),
        ("harmonia-py key rotate team --overlap 60d", "make a successor; for 60 days both keys sign"),
        ("harmonia-py key retire team cache.example.org-team-1", "let a key sign no more, from now on"),
    )
    verbs = parser.add_actions()
    create = verbs.add_parser("create", help="make the key of a cache that has none, and print its public half")
    listing = verbs.add_parser("list", help="show the keys of a cache, and until when clients must trust each")
    rotate = verbs.add_parser("rotate", help="make a successor of the present key, and print its public half")
    retire = verbs.add_parser("retire", help="let a key sign no more, from now on")
    for verb in (create, listing, rotate, retire):
        verb.add_argument("cache", metavar="CACHE", help="whose keys they are")
    for verb in (create, rotate):
        verb.add_argument("--name", metavar="KEY", help="what clients call the key, by custom HOST-CACHE-1")
    add_json_lines(listing)
    rotate.add_argument(
        "--overlap",
        metavar="TIME",
        default="30d",
        help="how long the present key signs beside the new one: 30d unless given; 12h, 2w, 1y",
    )
    retire.add_argument("name", metavar="KEY", help="its name, as `key list` shows it")
    for verb in (create, listing, rotate, retire):
        add_config(verb)


def run(options: argparse.Namespace) -> None:
    """Do it."""
    actions = {"create": _create, "list": _list, "rotate": _rotate, "retire": _retire}
    config = load(options)
    actions[options.action](options, config)


def _create(options: argparse.Namespace, config: Config) -> None:
    name, encryption = named_cache(options.cache), key_files.read_key_encryption(config, os.environ)

    async def create(catalog: SqlCatalog) -> PublicKey:
        cache, rows = await _keys_of(catalog, name)
        if signing := _signing(rows, name, encryption):
            raise ConfigError(f"the cache {name} signs with {signing[-1].name}; `key rotate` makes a successor")
        key = _new_key(options, config, name, rows)
        noted = entry("key.create", cache=name, subject=key.name, public_key=str(key.public_key))
        await catalog.keys.add(new_row(cache, key, encryption, now=now()), noted)
        return key.public_key

    print(in_catalog(config, create))


def _rotate(options: argparse.Namespace, config: Config) -> None:
    name, encryption = named_cache(options.cache), key_files.read_key_encryption(config, os.environ)
    until = Timestamp(now() + seconds_of("--overlap", options.overlap))

    async def rotate(catalog: SqlCatalog) -> tuple[PublicKey, list[str]]:
        cache, rows = await _keys_of(catalog, name)
        signing = _signing(rows, name, encryption)
        if not signing:
            raise ConfigError(f"the cache {name} has no key that signs; `key create` makes one")
        key = _new_key(options, config, name, rows)
        noted = entry("key.rotate", cache=name, subject=key.name, public_key=str(key.public_key), until=until)
        await catalog.keys.add(new_row(cache, key, encryption, now=now()), noted, retire_others=until)
        return key.public_key, [row.name for row in signing if row.state is KeyState.ACTIVE]

    public_key, others = in_catalog(config, rotate)
    for other in others:
        print(f"{other} signs as well until {iso(until)}; give every client the new key before that", file=sys.stderr)
    print(public_key)


def _retire(options: argparse.Namespace, config: Config) -> None:
    name = named_cache(options.cache)

    async def retire(catalog: SqlCatalog) -> bool:
        cache, rows = await _keys_of(catalog, name)
        at = now()
        signing = [row.name for row in rows if row.signs(at)]
        if options.name not in signing:
            raise ConfigError(f"no key {options.name} signs for the cache {name}; `key list {name}` shows which do")
        noted = entry("key.retire", cache=name, subject=options.name)
        await catalog.keys.retire(cache.id, options.name, noted, until=at, now=at)
        return len(signing) == 1

    if in_catalog(config, retire):
        print(f"the cache {name} signs nothing now; `key create {name}` makes another key", file=sys.stderr)


def _list(options: argparse.Namespace, config: Config) -> None:
    name = named_cache(options.cache)

    async def keys(catalog: SqlCatalog) -> Sequence[KeyRow]:
        return (await _keys_of(catalog, name))[1]

    for row in in_catalog(config, keys):
        print(json.dumps(_fields(row)) if options.json else f"{row.public_key}  {_words(row)}")


async def _keys_of(catalog: SqlCatalog, name: CacheName) -> tuple[CacheRow, Sequence[KeyRow]]:
    cache = await found_cache(catalog, name)
    return cache, await catalog.keys.of(cache.id)


def _signing(rows: Sequence[KeyRow], cache: CacheName, encryption: KeyEncryption | None) -> list[KeyRow]:
    """The keys that sign now. Each is read: a new key must not be encrypted otherwise than they are.

    Raises:
        StorageError: one cannot be read.
    """
    at = now()
    signing = [row for row in rows if row.signs(at)]
    for row in signing:
        secret_key_of(row, cache, encryption)
    return signing


def _new_key(options: argparse.Namespace, config: Config, cache: CacheName, rows: Sequence[KeyRow]) -> SecretKey:
    """A key by the name that is given, or the first that the cache has not had: clients tell keys by their names."""
    host = urlsplit(config.base_url).hostname if config.base_url else socket.gethostname()
    taken = {row.name for row in rows}
    numbered = (f"{host}-{cache}-{number}" for number in range(1, len(rows) + 2))
    name = options.name or next(name for name in numbered if name not in taken)
    with naming(f"--name {name!r}"):
        return SecretKey.generate(name)


def _state(row: KeyRow) -> KeyState:
    """As it is at this time: the server may not have ended the overlap yet, or not run."""
    return row.state if row.signs(now()) else KeyState.RETIRED


def _words(row: KeyRow) -> str:
    match _state(row):
        case KeyState.ACTIVE:
            return "signs: clients must trust it"
        case KeyState.RETIRING:
            return f"signs until {iso(row.until)}: clients that do not trust its successor must trust it until then"
        case KeyState.RETIRED:
            return f"signs no more since {iso(row.until)}: clients need not trust it"


def _fields(row: KeyRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "public_key": row.public_key,
        "state": _state(row).value,
        "created": iso(row.created),
        "until": iso(row.until),
        "encryption": row.encryption or None,
    }
