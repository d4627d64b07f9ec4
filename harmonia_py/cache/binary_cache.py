"""What a binary cache does: ask its sources in order, and sign."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from harmonia_py.cache.checks import Check, Failure, failures
from harmonia_py.cache.explore import Explorer
from harmonia_py.cache.lasting import Lasting, together
from harmonia_py.cache.origin import LOCAL, origin_of
from harmonia_py.cache.policy import Policy
from harmonia_py.cache.source import Download, Source
from harmonia_py.cache.tree import BuildId, DebugFile, DebugFiles, Directory, File, Files
from harmonia_py.cache.trust import rests_on_contents
from harmonia_py.errors import HarmoniaError
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.narinfo import NarInfo, NarUrl
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.signing import PublicKey, SecretKey, Signature
from harmonia_py.nix.store_path import HashPart, StorePath

_log = logging.getLogger(__name__)

T = TypeVar("T")


class BinaryCache:
    """One cache, as a client sees it. Sources that cannot tell raise; an absent thing is None.

    Attributes:
        cache_info: what `/nix-cache-info` says.
        explorer: answers what people ask about the store, when there is one.
        base_url: how clients reach this cache, when somebody said so.
        upstreams: the names of the caches that this one mirrors.
    """

    def __init__(
        self,
        *,
        cache_info: CacheInfo,
        sources: Sequence[Source],
        secret_keys: Sequence[SecretKey],
        explorer: Explorer | None = None,
        files: Files | None = None,
        debug_files: DebugFiles | None = None,
        checks: Sequence[Check] = (),
        base_url: str | None = None,
        upstreams: Sequence[str] = (),
        policy: Policy | None = None,
        outputs_of: Callable[[StorePath], Awaitable[Sequence[StorePath]]] | None = None,
        lasting: Sequence[Callable[[NarInfo], Lasting | None]] = (),
    ) -> None:
        self.cache_info = cache_info
        self.explorer = explorer
        self.base_url = base_url
        self.upstreams = tuple(upstreams)
        self._policy = policy
        self._outputs_of = outputs_of
        self._files = files
        self._debug_files = debug_files
        self._checks = tuple(checks)
        self._sources = tuple(sources)
        # Who knows how long a narinfo of a source is right; all of them have to, and without any nobody does.
        self._lasting = tuple(lasting)
        self._secret_keys = tuple(secret_keys)

    @property
    def public_keys(self) -> tuple[PublicKey, ...]:
        """The keys whose signatures every narinfo of this cache carries."""
        return tuple(key.public_key for key in self._secret_keys)

    @property
    def shows_files(self) -> bool:
        """Whether files inside store paths can be asked for one by one."""
        return self._files is not None

    async def narinfo(self, hash_part: HashPart) -> NarInfo | None:
        """The narinfo of a path, with the signatures its source knows and one by each of our keys."""
        return (await self.lasting_narinfo(hash_part))[0]

    async def lasting_narinfo(self, hash_part: HashPart) -> tuple[NarInfo | None, Lasting | None]:
        """The same, and how long it is right, when that is known."""
        narinfo = await self._served(hash_part)
        if narinfo is None:
            return None, None
        return self._sign(narinfo), together(lasting(narinfo) for lasting in self._lasting)

    async def nar(self, url: NarUrl) -> Download | None:
        """The NAR that one of our narinfos named; also by a name it had in the past."""
        if self._policy is not None:
            # Also where the NAR is kept: who may have it is not.
            narinfo = await self._served(url.hash_part)
            if narinfo is None or url.nar_hash not in {None, narinfo.path_info.nar_hash}:
                return None
        return await self._first(lambda source: source.nar(url))

    async def listing(self, hash_part: HashPart) -> Download | None:
        """The listing of a path's NAR."""
        if not await self._serves(hash_part):
            return None
        return await self._first(lambda source: source.listing(hash_part))

    async def log(self, derivation: StorePath | HashPart) -> Download | None:
        """The build log of a derivation. A policy that allows one of its outputs allows the log as well."""
        if not await self._serves_log(derivation):
            return None
        return await self._first(lambda source: source.log(derivation))

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """What an output was realised as, with a signature by each of our keys added."""
        realisation = await self._first(lambda source: source.realisation(output))
        if realisation is None or not await self._serves(realisation.out_path.hash_part):
            return None
        # Nix 2.34 forgets what a realisation depends on before it verifies; older ones do not.
        bare = replace(realisation, dependent_realisations=())
        messages = {realisation.fingerprint(), bare.fingerprint()}
        return replace(realisation, signatures=self._with_ours(realisation.signatures, *messages))

    async def file(self, hash_part: HashPart, components: Sequence[bytes]) -> File | Directory | None:
        """A file or directory inside a store path; None also where files are not shown."""
        if self._files is None or not await self._serves(hash_part):
            return None
        return await self._files.find(hash_part, components)

    async def debug_file(self, build_id: BuildId) -> DebugFile | None:
        """Where the debug information of a build is."""
        found = None if self._debug_files is None else await self._debug_files.find(build_id)
        return found if found is not None and await self._serves(found.store_path.hash_part) else None

    async def failures(self) -> list[Failure]:
        """What does not work of all that has to."""
        return await failures(self._checks)

    async def _served(self, hash_part: HashPart) -> NarInfo | None:
        """The narinfo of a path, as its source has it, when the policy allows it."""
        narinfo = await self._first(lambda source: source.narinfo(hash_part))
        if narinfo is None or self._policy is None or await self._policy.allows(narinfo.path_info):
            return narinfo
        return None

    async def _serves(self, hash_part: HashPart) -> bool:
        return self._policy is None or await self._served(hash_part) is not None

    async def _serves_log(self, derivation: StorePath | HashPart) -> bool:
        hash_part = derivation.hash_part if isinstance(derivation, StorePath) else derivation
        if self._policy is None or await self._served(hash_part) is not None:
            return True
        narinfo = await self._first(lambda source: source.narinfo(hash_part))
        if narinfo is None or self._outputs_of is None or not narinfo.path_info.store_path.is_derivation:
            return False
        outputs = await self._outputs_of(narinfo.path_info.store_path)
        return any([await self._serves(output.hash_part) for output in outputs])

    async def _first(self, ask: Callable[[Source], Awaitable[T | None]]) -> T | None:
        """The first answer. What one source cannot tell, another may have; if none has it, nobody knows."""
        failure: HarmoniaError | None = None
        for source in self._sources:
            try:
                found = await ask(source)
            except HarmoniaError as error:
                failure = failure or error
                continue
            if found is not None:
                if failure is not None:
                    _log.warning("answered by another source: %s", failure)
                return found
        if failure is not None:
            raise failure
        return None

    def _sign(self, narinfo: NarInfo) -> NarInfo:
        info = narinfo.path_info
        store_dir = self.cache_info.store_dir
        if not self._secret_keys:
            return narinfo
        # No signature covers the address that clients hold this NarHash against: with ours it would be believed alone.
        if origin_of(narinfo) != LOCAL and rests_on_contents(info, store_dir):
            return narinfo
        signatures = self._with_ours(info.signatures, info.fingerprint(store_dir))
        return replace(narinfo, path_info=replace(info, signatures=signatures))

    def _with_ours(self, signatures: tuple[Signature, ...], *messages: bytes) -> tuple[Signature, ...]:
        ours = {key.sign(message) for key in self._secret_keys for message in messages}
        return tuple(sorted({*signatures, *ours}))
