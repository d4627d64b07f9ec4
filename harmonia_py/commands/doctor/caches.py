"""The catalog: caches that cannot sign or are full, tokens that end, files that are lost, and who may read all that."""

import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Final

from rich.filesize import decimal

from harmonia_py.cache.cache_name import DEFAULT
from harmonia_py.catalog.access import TokenRow
from harmonia_py.catalog.caches import CacheRow, Timestamp, iso, time_by
from harmonia_py.catalog.key_encryption import KeyEncryption, secret_key_of
from harmonia_py.catalog.keys import KeyState
from harmonia_py.catalog.paging import all_of
from harmonia_py.catalog.passes import LastPass
from harmonia_py.commands.doctor.finding import Finding, in_thread
from harmonia_py.commands.shared.progress import count
from harmonia_py.commands.shared.user import describe, others_may
from harmonia_py.config import key_files
from harmonia_py.config.settings import Config
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.errors import ConfigError, StorageError
from harmonia_py.wiring.catalog import catalog_file, catalog_place, has_catalog, open_catalog

_NAME: Final = "catalog"
# In time to give every client another one.
_SOON_SECONDS: Final = 14 * 86_400
# The collector has made room long before; what is left is pinned.
_NEARLY_FULL: Final = 0.95
_MAX_NAMED: Final = 5
# There is one each minute, and each that ends is noted within ten.
_LATE_SECONDS: Final = 3600


async def look_at(
    config: Config, environment: Mapping[str, str], clock: Callable[[], float] = time.time
) -> Sequence[Finding]:
    """The findings about the catalog; none where there is none."""
    if not await in_thread(lambda: has_catalog(config)):
        return ()
    place, file = catalog_place(config), None if config.database.url is not None else catalog_file(config)
    findings = [] if file is None else await in_thread(lambda: list(_permissions(file)))
    try:
        encryption = key_files.read_key_encryption(config, environment)
    except ConfigError as error:
        return [*findings, Finding.failure(_NAME, str(error), "mend its path, permissions or contents")]
    if file is not None and not os.access(file, os.R_OK | os.W_OK):
        what = f"{file}: this user may not open it, so nothing is known of caches and tokens"
        return [*findings, Finding.warning(_NAME, what, "run this as root, or as the user of the service")]
    try:
        catalog = await open_catalog(config)
    except ConfigError as error:
        return [*findings, Finding.failure(_NAME, str(error), "mend its path, permissions or contents")]
    except StorageError as error:
        remedy = "restore a copy, or `harmonia-py fsck` it"
        if file is None:
            remedy = "see that PostgreSQL runs, and lets this user in: try the URL with psql"
        return [*findings, Finding.failure(_NAME, f"{place}: {error}", remedy)]
    async with aclosing(catalog):
        size = None if file is None else await in_thread(lambda: _size(file))
        found = [finding async for finding in _in_catalog(catalog, size, encryption, time_by(clock))]
        if config.storage.public_url is not None:
            found += await _shown(catalog, config)
    return [*findings, *found]


def _permissions(file: Path) -> list[Finding]:
    status = file.stat()
    if others_may(status):
        what = f"{file}: others may read it ({describe(status)}), and it holds signing keys"
        return [Finding.warning(_NAME, what, f"chmod 600 {file}")]
    return []


def _size(file: Path) -> int:
    """Bytes of the database and of its log."""
    files = (file, file.with_name(f"{file.name}-wal"))
    return sum(one.stat().st_size for one in files if one.exists())


async def _in_catalog(
    catalog: SqlCatalog, size: int | None, encryption: KeyEncryption | None, now: Timestamp
) -> AsyncIterator[Finding]:
    rows = [row for row in await all_of(catalog.caches.page, lambda row: row.name) if row.name != DEFAULT]
    tokens = [row for row in await all_of(catalog.access.page, lambda row: row.id) if row.revoked is None]
    good = sum(token.is_good(now) for token in tokens)
    counts = f"{count(len(rows), 'cache')}, {count(good, 'token')}"
    room = "in PostgreSQL" if size is None else f"{size / 1e6:.1f} MB"
    yield Finding.ok(_NAME, f"{counts}; {room}, begun at {iso(await catalog.made())}")
    unsigned = []
    for row in rows:
        signs, fault = await _signs(catalog, row, encryption, now)
        if fault is not None:
            yield fault
        elif not signs:
            unsigned.append(str(row.name))
    if unsigned:
        what = f"{_listed(unsigned)}: no key signs what is pushed there, so clients want the signatures of the pushers"
        yield Finding.warning(_NAME, what, f"make one with `harmonia-py key create {unsigned[0]}`")
    full = [str(row.name) for row in rows if await _is_full(catalog, row)]
    if full:
        what = f"{_listed(full)}: full, and what is there is kept; pushes are refused"
        yield Finding.warning(_NAME, what, "raise max_size, or see `harmonia-py gc --dry-run`")
    for finding in _judge_tokens(tokens, now):
        yield finding
    last = await catalog.passes.last()
    if last is not None:
        yield _judge_pass(last, now)
    health = await catalog.file_checks.health()
    if health.quarantined:
        files, hidden = count(health.quarantined, "file"), count(health.hidden, "path")
        what = f"{files} missing or damaged; for that {hidden} cannot be served"
        yield Finding.warning(_NAME, what, "`harmonia-py fsck` names them; pushing them again puts them right")


async def _shown(catalog: SqlCatalog, config: Config) -> list[Finding]:
    """Private caches in a bucket that everybody may read."""
    rows = await all_of(catalog.caches.page, lambda row: row.name)
    is_public = {row.name: row.settings.public for row in rows if row.name != DEFAULT}
    if config.default_cache is not None or config.storage.keep_in_bucket == "everything":
        is_public[DEFAULT] = config.is_public
    private = [str(name) for name, public in is_public.items() if not public]
    if not private:
        return []
    url = config.storage.public_url
    what = f"{_listed(private)}: private, and public_url says that everybody may read the bucket {url}"
    return [Finding.warning(_NAME, what, "keep private caches with another server, in a bucket of their own")]


async def _signs(
    catalog: SqlCatalog, row: CacheRow, encryption: KeyEncryption | None, now: Timestamp
) -> tuple[bool, Finding | None]:
    """Whether a cache signs; and a finding where its key cannot be read: then it is not served at all."""
    signs = False
    for key in await catalog.keys.of(row.id):
        if not key.signs(now):
            continue
        try:
            secret_key_of(key, row.name, encryption)
        except StorageError as error:
            remedy = "give the credential with which it was made as key_encryption_file"
            return False, Finding.failure(_NAME, f"{row.name}: {error}; the cache is not served", remedy)
        signs = signs or key.state is KeyState.ACTIVE
    return signs, None


async def _is_full(catalog: SqlCatalog, row: CacheRow) -> bool:
    most = row.settings.max_size
    return most is not None and (await catalog.objects.size(row.id)).size > _NEARLY_FULL * most


def _judge_pass(last: LastPass, now: Timestamp) -> Finding:
    freed = "nothing went yet"
    if last.freed is not None:
        freed = f"{count(last.freed.paths, 'path')}, {decimal(last.freed.size)}, went until {iso(last.freed.ended)}"
    what = f"the last collection ended at {iso(last.ended)}; {freed}"
    if now - last.ended > _LATE_SECONDS:
        return Finding.warning(_NAME, what, "see that the server runs, and what its log says of collecting")
    return Finding.ok(_NAME, what)


def _judge_tokens(tokens: Sequence[TokenRow], now: Timestamp) -> list[Finding]:
    findings = []
    ended = [token.name for token in tokens if not token.is_good(now)]
    if ended:
        remedy = f"`harmonia-py token revoke {ended[0]}`, and `token create` if it is needed"
        findings.append(Finding.warning("tokens", f"{_listed(ended)}: expired", remedy))
    soon = [token for token in tokens if token.is_good(now) and token.expires and token.expires < now + _SOON_SECONDS]
    if soon:
        first = min(soon, key=lambda token: token.expires or 0)
        what = (
            f"{_listed([token.name for token in soon])}: expire within two weeks, the first one at {iso(first.expires)}"
        )
        findings.append(Finding.warning("tokens", what, "make successors with `harmonia-py token create`"))
    return findings


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
