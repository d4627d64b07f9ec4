"""`harmonia-py explain --cache NAME`: the answer of a cache of the catalog for one store path, and its reasons."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace
from rich.markup import escape

from harmonia_py.cache.access import may_look_into
from harmonia_py.cache.cache_name import DEFAULT, CacheName
from harmonia_py.catalog.caches import CacheRow, iso
from harmonia_py.catalog.objects import ObjectState
from harmonia_py.commands.catalog import any_cache, found_cache, in_catalog
from harmonia_py.commands.progress import hanging, results
from harmonia_py.config.settings import Config
from harmonia_py.nix.store_path import HashPart

if TYPE_CHECKING:
    from harmonia_py.database.catalog import SqlCatalog

_MAX_NAMED: Final = 3


def explain_cache(config: Config, cache: str, hash_part: HashPart) -> int:
    """Say it in plain words; exit status 1 when neither the cache nor one that it looks into was pushed this path."""
    name = any_cache(cache)

    async def explain(catalog: "SqlCatalog") -> int:
        row = await found_cache(catalog, name)
        if name == DEFAULT:
            row = _as_configured(config, row)
        out = results()
        out.print(f"[bold]{hash_part}[/]")
        has_it = False
        async for good, words in _answers(catalog, row, hash_part):
            has_it = has_it or good
            out.print(hanging(out, "[green]yes[/]" if good else "[red]no [/]", escape(words)))
        out.print(escape(_readers(row)))
        out.print("Clients get it." if has_it else "Clients get 404 unless what follows has it.")
        for place in _places(row):
            out.print(escape(place))
        return 0 if has_it else 1

    return in_catalog(config, explain)


async def _answers(catalog: "SqlCatalog", row: CacheRow, hash_part: HashPart) -> AsyncIterator[tuple[bool, str]]:
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


async def _answer(catalog: "SqlCatalog", row: CacheRow, hash_part: HashPart) -> tuple[bool, str]:
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
