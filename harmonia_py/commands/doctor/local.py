"""This machine as its configuration describes it: sections of checks, in the order in which an administrator looks."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from harmonia_py.catalog.quota import Limits
from harmonia_py.commands.doctor import (
    cache_info,
    caches,
    certificate,
    daemon,
    directories,
    importing,
    issuers,
    kept,
    limits,
    listening,
    machine,
    mirrored,
    policy,
    signing_keys,
    token_file,
)
from harmonia_py.commands.doctor.finding import Check, Finding, in_thread
from harmonia_py.config.settings import Config
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import HashPart
from harmonia_py.store.daemon.store import DaemonStore
from harmonia_py.store.metadata import StoreMetadata
from harmonia_py.store.sqlite import SqliteStore
from harmonia_py.wiring import bucket
from harmonia_py.wiring.store_choice import Lack, Way, choose_store, lack_of_store

_SECONDS: Final = 15.0
_UPSTREAM_SECONDS: Final = 45.0
_DISK_HANGS: Final = "a file system does not answer: look at `mount` for a network one whose server is away"
_HANGS: Final = "it hangs, or is far too slow"


class Section(Struct, frozen=True):
    """Checks that belong together."""

    title: str
    checks: Sequence[Check]


class LocalView:
    """The checks of this machine.

    Args:
        config: what is in effect.
        environment: of the process.
        service: the directory of the credentials of the service; None where it is no service that is looked at.

    Attributes:
        url: where a server of ours answers; None until it was looked for, and where there is none.
    """

    def __init__(self, config: Config, environment: Mapping[str, str], service: Path | None = None) -> None:
        self.url: str | None = None
        self._config = config
        self._environment = environment
        self._service = service

    def sections(self) -> Iterator[Section]:
        """All checks, in sections."""
        config = self._config
        nix_daemon = Check("nix-daemon", partial(daemon.look_at, config), _SECONDS, "its log says what it waits for")
        yield Section("store", [nix_daemon, Check("store", self._look_at_store, _SECONDS, _DISK_HANGS)])
        yield Section("serving", list(self._serving()))
        for upstream in () if config.mirror.offline else config.upstream:
            look_at = partial(mirrored.look_at, upstream, config.store_dir, self.candidates)
            yield Section(f"upstream {upstream.label}", [Check("connection", look_at, _UPSTREAM_SECONDS, _HANGS)])
        for name in config.oidc:
            keys = Check("keys", partial(issuers.look_at, config, name), _SECONDS, _HANGS)
            yield Section(f"issuer {name}", [keys])
        yield Section("machine", [_in_thread("machine", partial(machine.look_at, config))])

    def _serving(self) -> Iterator[Check]:
        config, environment = self._config, self._environment
        yield _in_thread("signing key", partial(signing_keys.look_at, config, environment, self._service))
        if config.token_file is not None:
            yield _in_thread("token_file", partial(token_file.look_at, Path(config.token_file), environment))
        yield Check("catalog", partial(caches.look_at, config, environment), _SECONDS, _DISK_HANGS)
        for key, path, room in _directories(config):
            yield _in_thread(key, partial(_look_at_directory, key, path, room))
        yield Check("kept files", partial(kept.look_at, config), _SECONDS, _DISK_HANGS)
        if config.storage.url is not None:
            late = "see that this machine reaches the bucket"
            yield Check("bucket", partial(kept.look_at_bucket, config), _SECONDS, late)
        yield Check("address", self._look_at_addresses, _SECONDS, "name resolution hangs: use numbers in `bind`")
        if config.tls_cert_path is not None and config.tls_key_path is not None:
            chain, key_file = Path(config.tls_cert_path), Path(config.tls_key_path)
            host = urlsplit(config.base_url or "").hostname
            yield _in_thread("certificate", partial(certificate.look_at, chain, key_file, host))
        yield _in_thread("priority", lambda: [cache_info.judge_priority(config.priority)])
        yield _in_thread("limits", partial(limits.judge, config))
        yield Check("policy", self._look_at_policy, _SECONDS, _DISK_HANGS)
        look_at_import = partial(importing.look_at, config, self.public_keys, environment)
        yield Check("import", look_at_import, _SECONDS, _DISK_HANGS)

    def public_keys(self) -> list[PublicKey]:
        """The public keys of the secret keys that sign here; none where they are credentials that we may not see."""
        files = signing_keys.files_of(self._config, self._service)
        if files is None:
            return []
        found = [signing_keys.read(file, self._environment).public_key for file in files]
        return [key for key in found if key is not None]

    async def candidates(self) -> Sequence[HashPart]:
        """Store paths that are here, and that another cache may have."""
        return await candidates_in(self._config.real_store)

    async def _look_at_store(self) -> Sequence[Finding]:
        config = self._config
        choice = await in_thread(lambda: choose_store(config))
        if choice.way is Way.NONE and await in_thread(lambda: lack_of_store(config)) is not Lack.FAULT:
            return ()
        try:
            names = await in_thread(lambda: directories.store_paths_in(config.real_store))
        except OSError as error:
            return [directories.explain_unreadable(config.real_store, error)]
        async with aclosing(_metadata(config, choice.way)) as metadata:
            return await directories.look_at_store(config, metadata, names)

    async def _look_at_addresses(self) -> Sequence[Finding]:
        served = await listening.look_at(self._config)
        self.url = served.url
        return served.findings

    async def _look_at_policy(self) -> Sequence[Finding]:
        config = self._config
        if config.policy.serve == "everything":
            return ()
        findings = policy.judge(config, await in_thread(self.public_keys))
        if config.policy.serve == "roots":
            return [*findings, *await policy.look_at_roots(config)]
        choice = await in_thread(lambda: choose_store(config))
        if choice.way is Way.NONE:
            return findings
        async with aclosing(_metadata(config, choice.way)) as metadata:
            names = await in_thread(lambda: directories.store_paths_in(config.real_store))
            return [*findings, *await policy.look_at_paths(config, metadata, names)]


def _in_thread(name: str, look_at: Callable[[], Sequence[Finding]]) -> Check:
    """A check by a function that may block."""
    return Check(name, partial(in_thread, look_at), _SECONDS, _DISK_HANGS)


def _metadata(config: Config, way: Way) -> StoreMetadata:
    if way is Way.DATABASE:
        return SqliteStore(config.nix_database, config.store_dir)
    return DaemonStore(Path(config.daemon_socket), config.store_dir)


async def candidates_in(real_store: Path) -> Sequence[HashPart]:
    """Hash parts of store paths in a directory; none where there is no store."""
    try:
        names = await in_thread(lambda: directories.store_paths_in(real_store))
    except OSError:
        return ()
    return [name.hash_part for name in names if not name.is_derivation]


def _directories(config: Config) -> list[tuple[str, Path, Limits]]:
    """The directories of NARs, each with its setting and its limits."""
    found = []
    if config.compression != "none" or (config.upstream and config.mirror.directory is None):
        room = Limits(max_size=config.cache.max_bytes, min_free=config.cache.min_free_bytes)
        found.append(("cache.directory", Path(config.cache.directory or "."), room))
    if config.upstream and config.mirror.directory is not None:
        room = Limits(max_size=config.mirror.max_bytes, min_free=config.mirror.min_free_bytes)
        found.append(("mirror.directory", Path(config.mirror.directory), room))
    hot = bucket.hot_directory(config)
    if hot is not None:
        room = Limits(max_size=config.storage.hot_max_bytes, min_free=config.cache.min_free_bytes)
        found.append((directories.HOT, hot, room))
    return found


def _look_at_directory(key: str, path: Path, room: Limits) -> Sequence[Finding]:
    try:
        facts = directories.facts_of(key, path)
    except OSError as error:
        what = f"{path}: {(error.strerror or os.strerror(error.errno or 0)).lower()}"
        return [Finding.failure(key.replace(".", " "), what, f"name a directory that can be written as {key}")]
    return directories.judge(facts, room)
