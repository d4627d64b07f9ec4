"""One binary cache: its sources asked in order, then other caches; a policy over what is given out; signatures."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol, Self, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from harmonia_py.cache.found import Found, Origin, through_another
from harmonia_py.cache.policy import Policy, stand_in_for
from harmonia_py.cache.source import UNNAMED, Asker, DocumentKind, Download, Source
from harmonia_py.cache.tree import BuildId, DebugFile, DebugFiles, DebugFilesInOrder, Directory, File, Files
from harmonia_py.cache.trust import rests_on_contents
from harmonia_py.cache.validity import together
from harmonia_py.errors import HarmoniaError
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.narinfo import NarInfo, NarUrl
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.signing import PublicKey, SecretKey, with_signatures
from harmonia_py.nix.store_path import HashPart, StorePath

_log = logging.getLogger(__name__)

T = TypeVar("T")

# Under a policy, so many outputs are asked for with every log that is not given out: then a denied one takes as long as
# an absent one. Few derivations have more outputs.
_OUTPUTS_ASKED_FOR: Final = 4


class Elsewhere(Protocol):
    """Another cache, which a cache asks for what none of its sources has. A `BinaryCache` is one."""

    async def narinfo(self, hash_part: HashPart) -> Found | None:
        """As `BinaryCache.narinfo`."""

    async def nar(self, url: NarUrl, asker: Asker = UNNAMED) -> Download | None:
        """As `BinaryCache.nar`."""

    async def document(self, kind: DocumentKind, name: StorePath | HashPart) -> Download | None:
        """As `BinaryCache.document`."""

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """As `BinaryCache.realisation`."""

    async def debug_file(self, build_id: BuildId) -> DebugFile | None:
        """As `BinaryCache.debug_file`."""


class BinaryCache(Struct, frozen=True, kw_only=True, eq=False):
    """One cache, as a client sees it. Sources that cannot tell raise; an absent thing is None.

    An answer of another cache keeps the signatures that it has there, and gets none of ours. Ours go on what our own
    sources have, except narinfos that only their contents prove (`_sign`).

    Attributes:
        cache_info: answers `/nix-cache-info`.
        sources: are asked in this order.
        secret_keys: sign.
        files: finds single files inside store paths; None: they are not shown.
        debug_files: finds debug information; None: there is none.
        elsewhere: other caches, asked after all sources.
        policy: decides what is given out; None: everything.
        damaged: whether the files of a valid path are known to be damaged.
        outputs_of: the outputs of a derivation that are there: a policy that allows one of them allows its log.
        surely_lacks: whether it is known without waiting that no source has the path with a hash part, which is given
            as ASCII: no other question is put for each absent path. False: it may have it. None: that is never known.
    """

    cache_info: CacheInfo
    sources: Sequence[Source]
    secret_keys: Sequence[SecretKey]
    files: Files | None = None
    debug_files: DebugFiles | None = None
    elsewhere: Sequence[Elsewhere] = ()
    policy: Policy | None = None
    damaged: Callable[[HashPart], Awaitable[bool]] | None = None
    outputs_of: Callable[[HashPart], Awaitable[Sequence[StorePath]]] | None = None
    surely_lacks: Callable[[bytes], bool] | None = None

    def with_first(self, source: Source, debug_files: DebugFiles, elsewhere: Sequence[Elsewhere] = ()) -> Self:
        """This cache with one more source, asked before the others, and with `elsewhere` in place of its own."""
        others = () if self.debug_files is None else (self.debug_files,)
        return replace(
            self,
            sources=(source, *self.sources),
            debug_files=DebugFilesInOrder(debug_files, *others),
            elsewhere=elsewhere,
            surely_lacks=None,  # it does not ask `source`
        )

    @property
    def public_keys(self) -> tuple[PublicKey, ...]:
        """The public halves of the keys that this cache signs with."""
        return tuple(key.public_key for key in self.secret_keys)

    @property
    def shows_files(self) -> bool:
        """Whether files inside store paths can be asked for one by one."""
        return self.files is not None

    @property
    def gives_all(self) -> bool:
        """Whether every path that it has is given out; False where a policy may hide some."""
        return self.policy is None

    async def narinfo(self, hash_part: HashPart) -> Found | None:
        """The answer of the first source that has the path, signed with our keys unless only its contents prove it.

        What none has, other caches are asked for; their narinfos are given as they are.
        """

        async def ask(other: Elsewhere) -> Found | None:
            found = await other.narinfo(hash_part)
            return None if found is None else replace(found, origin=through_another(found.origin))

        return await self._or_elsewhere(partial(self._narinfo, hash_part), ask)

    async def _narinfo(self, hash_part: HashPart) -> Found | None:
        found = await self._found(hash_part)
        return None if found is None else replace(found, narinfo=self._sign(found.narinfo, found.origin))

    async def shown(self, narinfo: NarInfo, origin: Origin) -> NarInfo | None:
        """The answer of `narinfo`, given that of the first source; None where a policy denies the path."""
        return self._sign(narinfo, origin) if await self.allows(narinfo.path_info) else None

    async def nar(self, url: NarUrl, asker: Asker = UNNAMED) -> Download | None:
        """The NAR under a URL of one of our narinfos, also under one that was published in the past."""
        return await self._or_elsewhere(partial(self._nar, url, asker), lambda other: other.nar(url, asker))

    async def _nar(self, url: NarUrl, asker: Asker) -> Download | None:
        if self.policy is not None:
            # Also for a NAR that is kept: the policy may have changed since it was given out.
            found = await self._found(url.hash_part)
            if found is None or url.nar_hash not in {None, found.narinfo.path_info.nar_hash}:
                return None
        return await self._first(lambda source: source.nar(url, asker))

    async def document(self, kind: DocumentKind, name: StorePath | HashPart) -> Download | None:
        """A listing or log. A policy that allows an output of a derivation allows the derivation's log as well."""
        return await self._or_elsewhere(partial(self._document, kind, name), lambda other: other.document(kind, name))

    async def _document(self, kind: DocumentKind, name: StorePath | HashPart) -> Download | None:
        served = self._is_log_served(name) if kind is DocumentKind.LOG else self._is_served(_hash_part_of(name))
        return await self._first(lambda source: source.document(kind, name)) if await served else None

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """The realisation of an output; one of our own sources gets a signature by each of our keys."""
        return await self._or_elsewhere(partial(self._realisation, output), lambda other: other.realisation(output))

    async def _realisation(self, output: DrvOutput) -> Realisation | None:
        realisation = await self._first(lambda source: source.realisation(output))
        out_path = None if realisation is None else realisation.out_path
        if not await self._is_found_served(out_path, output) or realisation is None:
            return None
        # Nix 2.34 forgets what a realisation depends on before it verifies; older ones do not.
        bare = replace(realisation, dependent_realisations=())
        messages = {realisation.fingerprint(), bare.fingerprint()}
        return replace(realisation, signatures=with_signatures(realisation.signatures, self.secret_keys, *messages))

    async def file(self, hash_part: HashPart, components: Sequence[bytes]) -> File | Directory | None:
        """A file or directory inside a store path; None also when this cache shows no files."""
        if self.files is None or not await self._is_served(hash_part):
            return None
        return await self.files.find(hash_part, components)

    async def debug_file(self, build_id: BuildId) -> DebugFile | None:
        """The place of a build's debug information."""
        return await self._or_elsewhere(partial(self._debug_file, build_id), lambda other: other.debug_file(build_id))

    async def _debug_file(self, build_id: BuildId) -> DebugFile | None:
        found = None if self.debug_files is None else await self.debug_files.find(build_id)
        return found if await self._is_found_served(None if found is None else found.store_path, build_id) else None

    async def is_damaged(self, hash_part: HashPart) -> bool:
        """Whether a valid path is not served because its files are damaged; False where a policy may hide the path."""
        return self.damaged is not None and self.policy is None and await self.damaged(hash_part)

    async def _found(self, hash_part: HashPart) -> Found | None:
        """The answer of the first source that has the path in a form that the policy allows.

        A denied path goes through all sources, as an absent one does: otherwise a client could tell the two apart, by
        the time, or by the error of an upstream that does not answer.
        """
        return await self._first(lambda source: self._found_in(source, hash_part))

    async def _found_in(self, source: Source, hash_part: HashPart) -> Found | None:
        found = await source.narinfo(hash_part)
        if found is None or not await self.allows(found.narinfo.path_info):
            return None
        if self.policy is None:
            return found
        return replace(found, validity=together(found.validity, self.policy.validity))

    async def allows(self, info: PathInfo) -> bool:
        """Whether the policy, where there is one, lets a path be given out."""
        return self.policy is None or await self.policy.allows(info)

    async def _is_served(self, hash_part: HashPart) -> bool:
        return self.policy is None or await self._found(hash_part) is not None

    async def _is_found_served(self, path: StorePath | None, what: object) -> bool:
        """Whether the path that was found for `what` is served.

        If none was found, a made-up path is asked for, so that the answer takes as long.
        """
        return await self._is_served(stand_in_for(str(what)) if path is None else path.hash_part) and path is not None

    async def _is_log_served(self, derivation: StorePath | HashPart) -> bool:
        hash_part = _hash_part_of(derivation)
        if await self._is_served(hash_part):
            return True
        outputs = () if self.outputs_of is None else await self.outputs_of(hash_part)
        asked_for = [output.hash_part for output in outputs]
        asked_for += [stand_in_for(f"{hash_part} {number}") for number in range(len(outputs), _OUTPUTS_ASKED_FOR)]
        return any(await asyncio.gather(*map(self._is_served, asked_for)))

    async def _or_elsewhere(
        self, ours: Callable[[], Awaitable[T | None]], ask: Callable[[Elsewhere], Awaitable[T | None]]
    ) -> T | None:
        """Our own answer, or that of the first other cache that has one."""
        if not self.elsewhere:
            return await ours()
        return await _first(ours, *(partial(ask, other) for other in self.elsewhere))

    async def _first(self, ask: Callable[[Source], Awaitable[T | None]]) -> T | None:
        """The answer of the first source that has what is asked for."""
        return await _first(*(partial(ask, source) for source in self.sources))

    def _sign(self, narinfo: NarInfo, origin: Origin) -> NarInfo:
        info, store_dir = narinfo.path_info, self.cache_info.store_dir
        if not self.secret_keys:
            return narinfo
        # A signature does not cover the content address. With ours, clients would believe a NarHash that was not
        # verified, and would not check the address.
        if not origin.vouches_for_nar and rests_on_contents(info, store_dir):
            return narinfo
        signatures = with_signatures(info.signatures, self.secret_keys, info.fingerprint(store_dir))
        return replace(narinfo, path_info=replace(info, signatures=signatures))


async def _first(*asks: Callable[[], Awaitable[T | None]]) -> T | None:
    """The first answer. The error of a place that cannot tell is raised only when no other place has an answer."""
    failure: HarmoniaError | None = None
    for ask in asks:
        try:
            found = await ask()
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


def _hash_part_of(name: StorePath | HashPart) -> HashPart:
    return name.hash_part if isinstance(name, StorePath) else name
