"""This machine as its configuration describes it: sections of checks, in the order in which an administrator looks."""

import os
from collections.abc import Mapping, Sequence
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
from harmonia_py.config.upstream_tables import Upstream
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.store.daemon.store import DaemonStore
from harmonia_py.store.metadata import StoreMetadata
from harmonia_py.store.sqlite import SqliteStore
from harmonia_py.wiring import bucket
from harmonia_py.wiring.store_choice import Lack, Way, choose_store, lack_of_store

_SECONDS: Final = 15.0
_UPSTREAM_SECONDS: Final = 45.0
_DISK_HANGS: Final = "a file system does not answer: look at `mount` for a network one whose server is away"


class Section(Struct, frozen=True):
    """Checks that belong together."""

    title: str
    checks: Sequence[Check]


class LocalView:
    """The checks of this machine.

    Args:
        file: the configuration file; None for none.
        config: what is in effect.
        environment: of the process.
        service: the directory of the credentials of the service; None where it is no service that is looked at.

    Attributes:
        url: where a server of ours answers; None until it was looked for, and where there is none.
    """

    def __init__(
        self,
        file: Path | None,
        config: Config,
        environment: Mapping[str, str],
        service: Path | None = None,
    ) -> None:
        self.url: str | None = None
        self._file = file
        self._config = config
        self._environment = environment
        self._service = service
        self._names: Sequence[StorePath] | None = None

    def sections(self) -> list[Section]:
        """All checks, in sections."""
        config = self._config
        store = [
            Check("nix-daemon", partial(daemon.look_at, config), _SECONDS, "its log says what it waits for"),
            Check("store", self._look_at_store, _SECONDS, _DISK_HANGS),
        ]
        serving = [
            Check("signing key", self._look_at_keys, _SECONDS, _DISK_HANGS),
            Check("token_file", self._look_at_tokens, _SECONDS, _DISK_HANGS),
            Check("catalog", self._look_at_catalog, _SECONDS, _DISK_HANGS),
            *(Check(key, partial(_look_at_directory, key, path, room), _SECONDS, _DISK_HANGS)
              for key, path, room in _directories(config)),
            Check("kept files", partial(kept.look_at, config), _SECONDS, _DISK_HANGS),
            Check("address", self._look_at_addresses, _SECONDS, "name resolution hangs: use numbers in `bind`"),
            Check("certificate", self._look_at_certificate, _SECONDS, _DISK_HANGS),
            Check("priority", self._look_at_priority, _SECONDS, ""),
            Check("limits", self._look_at_limits, _SECONDS, ""),
            Check("policy", self._look_at_policy, _SECONDS, _DISK_HANGS),
            Check("import", self._look_at_import, _SECONDS, _DISK_HANGS),
        ]  # fmt: skip
        of_machine = [Check("machine", self._look_at_machine, _SECONDS, _DISK_HANGS)]
        upstreams = [
            Section(f"upstream {one.label}", [Check("connection", partial(self._look_at_upstream, one),
                                                    _UPSTREAM_SECONDS, "it hangs, or is far too slow")])
            for one in (() if config.mirror.offline else config.upstream)
        ]  # fmt: skip
        of_issuers = [
            Section(f"issuer {name}", [Check("keys", partial(issuers.look_at, config, name),
                                             _SECONDS, "it hangs, or is far too slow")])
            for name in config.oidc
        ]  # fmt: skip
        others = [*upstreams, *of_issuers]
        return [Section("store", store), Section("serving", serving), *others, Section("machine", of_machine)]

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
        metadata = _metadata(config, choice.way)
        try:
            return await directories.look_at_store(config, metadata, names)
        finally:
            await metadata.aclose()

    async def _look_at_keys(self) -> Sequence[Finding]:
        return await in_thread(lambda: signing_keys.look_at(self._config, self._environment, self._service))

    async def _look_at_tokens(self) -> Sequence[Finding]:
        file = self._config.token_file
        return () if file is None else await in_thread(lambda: token_file.look_at(Path(file), self._environment))

    async def _look_at_catalog(self) -> Sequence[Finding]:
        return await caches.look_at(self._config, self._environment)

    async def _look_at_addresses(self) -> Sequence[Finding]:
        served = await listening.look_at(self._config)
        self.url = served.url
        return served.findings

    async def _look_at_certificate(self) -> Sequence[Finding]:
        chain, key = self._config.tls_cert_path, self._config.tls_key_path
        if chain is None or key is None:
            return ()
        host = urlsplit(self._config.base_url or "").hostname
        return await in_thread(lambda: certificate.look_at(Path(chain), Path(key), host))

    async def _look_at_priority(self) -> Sequence[Finding]:
        return [cache_info.judge_priority(self._config.priority)]

    async def _look_at_limits(self) -> Sequence[Finding]:
        return limits.judge(self._config)

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
        metadata = _metadata(config, choice.way)
        try:
            names = await in_thread(lambda: directories.store_paths_in(config.real_store))
            return [*findings, *await policy.look_at_paths(config, metadata, names)]
        finally:
            await metadata.aclose()

    async def _look_at_upstream(self, upstream: Upstream) -> Sequence[Finding]:
        return await mirrored.look_at(upstream, self._config.store_dir, self.candidates)

    async def _look_at_import(self) -> Sequence[Finding]:
        return await importing.look_at(self._config, self.public_keys, self._environment)

    async def _look_at_machine(self) -> Sequence[Finding]:
        return await in_thread(lambda: machine.look_at(self._config))


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


async def _look_at_directory(key: str, path: Path, room: Limits) -> Sequence[Finding]:
    try:
        facts = await in_thread(lambda: directories.facts_of(key, path))
    except OSError as error:
        what = f"{path}: {(error.strerror or os.strerror(error.errno or 0)).lower()}"
        return [Finding.failure(key.replace(".", " "), what, f"name a directory that can be written as {key}")]
    return directories.judge(facts, room)
