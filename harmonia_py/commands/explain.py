"""`harmonia-py explain`: where one store path would come from, and why it would or would not."""

import argparse
import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from msgspec.structs import replace
from rich.markup import escape

from harmonia_py.cache.access import may_look_into
from harmonia_py.cache.cache_name import DEFAULT, CacheName
from harmonia_py.cache.found import Found
from harmonia_py.cache.trust import rests_on_contents
from harmonia_py.catalog.caches import CacheRow, iso
from harmonia_py.catalog.objects import ObjectState
from harmonia_py.commands.doctor import signing_keys
from harmonia_py.commands.shared.catalog import any_cache, found_cache, in_catalog
from harmonia_py.commands.shared.node import open_node
from harmonia_py.commands.shared.options import add_config, add_upstream, load_file
from harmonia_py.commands.shared.parser import Parser
from harmonia_py.commands.shared.path_arguments import parse_hash_part, parse_url
from harmonia_py.commands.shared.progress import hanging, results
from harmonia_py.config.settings import Config
from harmonia_py.contents.kept_files import key_of
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.errors import ConfigError, HarmoniaError
from harmonia_py.mirror.explain import Verdict, explain_upstream
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import HashPart
from harmonia_py.wiring.node import Node

_MAX_NAMED: Final = 3


def add_arguments(parser: Parser) -> None:
    """The arguments: the path, and the upstreams to ask."""
    parser.describe(
        """
        Ask the local store, what is kept, and every upstream for one store path, and say in plain words what each has,
        by which key it is signed, and whether a client would get it, with whose signature: policy and keys are those of
        the server. Exit status 1: it would not be served.""",
        ("harmonia-py explain /nix/store/…-hello-2.12.1", "why a client gets it, or why it does not"),
        ("harmonia-py explain --cache team /nix/store/…-hello-2.12.1", "whether it was pushed, and what it waits for"),
    )
    parser.add_argument("--cache", metavar="NAME", help="say what was pushed to this cache; default is the one at /")
    parser.add_argument("path", metavar="HASH-OR-PATH", help="a hash part, a store path, or the URL of one")
    add_upstream(parser)
    add_config(parser)


def run(options: argparse.Namespace) -> int:
    """Say in plain words which source has it; exit status 1 when it would not be served."""
    file, config = load_file(options)
    cache: str | None = options.cache
    if "://" in options.path:
        named, hash_part = parse_url(options.path, config.base_url)
        cache = cache or named
    else:
        hash_part = parse_hash_part(options.path, config.store_dir)
    if cache is not None:
        return explain_cache(config, cache, hash_part)
    return asyncio.run(_explain(config, hash_part, signing_keys.service_of(file, os.environ)))


class _Answer(NamedTuple):
    """The words of a source about a path, and whether it has the path."""

    words: str
    good: bool


async def _explain(config: Config, hash_part: HashPart, service: Path | None) -> int:
    keys, fault = _secret_keys(config, service)
    async with open_node(config, keys) as node:
        out = results()
        out.print(f"[bold]{hash_part}[/]")
        local = await _local(node, hash_part, restricted=config.policy.serve != "everything")
        kept = await _kept(node, hash_part)
        # In the order in which they are asked.
        answers = [local, kept, *await _upstreams(node, config, hash_part)]
        for answer in answers:
            out.print(hanging(out, "[green]yes[/]" if answer.good else "[red]no [/]", answer.words))
        # The answer of the cache itself: it is what clients get.
        try:
            found = await node.cache.narinfo(hash_part)
        except HarmoniaError as error:
            out.print(f"It would not be served. A client gets an error: {escape(str(error))}.")
            return 1
    if found is None:
        has_it = any(answer.good for answer in answers)
        denied = has_it and config.policy.serve != "everything"
        why = f' The policy does not allow it (policy.serve = "{config.policy.serve}").' if denied else ""
        out.print(f"It would not be served.{why}")
        return 1
    out.print(escape(f"It would be served, {_signed(config, found, keys, fault)}."))
    return 0


def _secret_keys(config: Config, service: Path | None) -> tuple[Sequence[SecretKey], str | None]:
    """The keys that the server signs with, or why they cannot be known here."""
    try:
        return signing_keys.keys_of(config, service, os.environ), None
    except ConfigError as error:
        return (), str(error)


def _signed(config: Config, found: Found, keys: Sequence[SecretKey], fault: str | None) -> str:
    if not found.origin.vouches_for_nar and rests_on_contents(found.narinfo.path_info, config.store_dir):
        return "not signed by us: its content address is the proof, and no signature covers that"
    if fault is not None:
        return f"signed by us if the server can read what cannot be read here ({fault})"
    if not keys and config.generated_key_file is not None:
        return "signed by us with the key that the first start makes"
    return f"signed by us with {' and '.join(key.name for key in keys)}" if keys else "not signed by us"


async def _local(node: Node, hash_part: HashPart, *, restricted: bool) -> _Answer:
    if node.local is None or node.metadata is None:
        return _Answer("local store: there is none", good=False)
    try:
        found = await node.local.narinfo(hash_part)
        info = None if found is None else found.narinfo.path_info
        # Under a policy, denied paths are absent in the local store that is served.
        if info is None and restricted:
            info = await node.metadata.path_info(hash_part)
    except HarmoniaError as error:
        return _Answer(f"local store: cannot tell: {error}", good=False)
    if info is None:
        return _Answer("local store: does not have it", good=False)
    names = ", ".join(signature.key_name for signature in info.signatures) or "no key"
    return _Answer(f"local store: has {info.store_path}, signed by {names}", good=True)


async def _upstreams(node: Node, config: Config, hash_part: HashPart) -> list[_Answer]:
    if node.upstreams is None:
        return []
    if config.mirror.offline:
        return [_Answer("upstreams: none is asked (mirror.offline)", good=False)]
    ordered = sorted(node.upstreams.all, key=lambda state: state.upstream.priority)
    verdicts: list[Verdict] = await asyncio.gather(
        *[explain_upstream(state.upstream, hash_part, config.store_dir) for state in ordered]
    )
    return [_Answer(f"upstream {verdict.upstream}: {verdict.words}", verdict.good) for verdict in verdicts]


async def _kept(node: Node, hash_part: HashPart) -> _Answer:
    if node.mirror is None:
        return _Answer("kept: nothing, as there is no upstream", good=False)
    entry = await node.mirror.index.find(hash_part)
    if entry is None or entry.facts is None:
        return _Answer("kept: nothing", good=False)
    age = int(time.time() - entry.fetched)
    words = f"kept: {key_of(entry.url)}, {entry.facts.file_size} bytes, from upstream {entry.upstream}, {age} s ago"
    return _Answer(words, good=True)


def explain_cache(config: Config, cache: str, hash_part: HashPart) -> int:
    """Say it in plain words; exit status 1 when neither the cache nor one that it looks into was pushed this path."""
    name = any_cache(cache)

    async def explain(catalog: SqlCatalog) -> int:
        row = await found_cache(catalog, name)
        if name == DEFAULT:
            row = _as_configured(config, row)
        out = results()
        out.print(f"[bold]{hash_part}[/]")
        has_it = False
        async for good, words in _answers(catalog, row, hash_part):
            has_it = has_it or good
            out.print(hanging(out, "[green]yes[/]" if good else "[red]no [/]", words))
        out.print(escape(_readers(row)))
        out.print("Clients get it." if has_it else "Clients get 404 unless what follows has it.")
        for place in _places(row):
            out.print(escape(place))
        return 0 if has_it else 1

    return in_catalog(config, explain)


async def _answers(catalog: SqlCatalog, row: CacheRow, hash_part: HashPart) -> AsyncIterator[tuple[bool, str]]:
    """Whether something was pushed to the cache, and to those it looks into, in the order in which they are asked."""
    rows, seen = [row], {row.name}
    while rows:
        asked = rows.pop(0)
        good, words = await _answer(catalog, asked, hash_part)
        yield good, f"cache {asked.name}: {words}"
        for text in asked.settings.caches:
            name = CacheName(text)
            if name in seen or name == DEFAULT:
                continue
            seen.add(name)
            other = await catalog.caches.find(name)
            if other is None:
                yield False, f"cache {name}: there is none of this name any more"
            elif not may_look_into(public=row.settings.public, other_public=other.settings.public):
                yield False, f"cache {name}: is not public, so {row.name}, which is, shows nothing of it"
            else:
                rows.append(other)


async def _answer(catalog: SqlCatalog, row: CacheRow, hash_part: HashPart) -> tuple[bool, str]:
    stored = await catalog.objects.find(row.id, hash_part)
    if stored is not None:
        info = stored.path_info
        names = ", ".join(signature.key_name for signature in info.signatures) or "no key"
        words = f"has {info.store_path}, pushed by {stored.pushed_by} at {iso(stored.pushed)}, came signed by {names}"
        if stored.state is ObjectState.CONDEMNED:
            words += "; it goes soon unless it is asked for"
        return True, words
    missing = await catalog.objects.waiting(row.id, hash_part)
    if missing:
        some = ", ".join(sorted(missing)[:_MAX_NAMED])
        return False, f"it was pushed and waits for {len(missing)} of its references to be pushed: {some}"
    if missing is not None:
        return False, "it was pushed and waits for the local store to take it, which the log of the server says more of"
    if await catalog.objects.paths(row.id, [hash_part]):
        return False, "it was pushed, and its file is missing or damaged: push it again"
    return False, "it was not pushed, or has gone since: see `harmonia-py audit`"


def _as_configured(config: Config, row: CacheRow) -> CacheRow:
    """The cache at `/`, of which harmonia.toml says how it behaves."""
    settings = row.settings if config.default_cache is None else config.default_cache.settings
    upstreams = tuple(upstream.label for upstream in config.upstream)
    return replace(
        row, settings=replace(settings, public=config.is_public, local_store=True, upstreams=upstreams, caches=())
    )


def _readers(row: CacheRow) -> str:
    if row.settings.public:
        return f"{row.name} is public: reading takes no token."
    return f"{row.name} is private: 401 without a good token, 403 with one that does not allow to read it."


def _places(row: CacheRow) -> list[str]:
    """The further places of the cache, which `explain` without --cache looks at."""
    settings = row.settings
    places = ["the local store"] if settings.local_store else []
    places += [f"the upstream {name}" for name in settings.upstreams]
    places += ["the cache at /"] if DEFAULT in settings.caches else []
    return (
        [f"It has what {', '.join(places)} has as well: see `harmonia-py explain` without --cache."] if places else []
    )
