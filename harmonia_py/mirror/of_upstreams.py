"""Some of the upstreams of a mirror as a source, for a cache that has the paths of these alone."""

from collections.abc import Collection

from harmonia_py.cache.found import Found
from harmonia_py.cache.source import UNNAMED, Asker, DocumentKind, Download
from harmonia_py.mirror.mirror import Mirror
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StorePath


class OfUpstreams:
    """A `Source`. Paths that only other upstreams have are absent, even if their NARs are kept.

    Args:
        mirror: over all upstreams.
        names: of the upstreams that count.
    """

    def __init__(self, mirror: Mirror, names: Collection[str]) -> None:
        self._mirror = mirror
        self._names = frozenset(names)

    async def narinfo(self, hash_part: HashPart) -> Found | None:
        """As in `Source`."""
        return await self._mirror.narinfo_of(hash_part, self._names)

    async def nar(self, url: NarUrl, asker: Asker = UNNAMED) -> Download | None:
        """As in `Source`."""
        found = await self.narinfo(url.hash_part)
        if found is None or url.nar_hash not in {None, found.narinfo.path_info.nar_hash}:
            return None
        return await self._mirror.nar(url, asker)

    async def document(self, kind: DocumentKind, name: StorePath | HashPart) -> Download | None:
        """As in `Source`; a log only if the derivation is there as well."""
        hash_part = name.hash_part if isinstance(name, StorePath) else name
        return None if await self.narinfo(hash_part) is None else await self._mirror.document(kind, name)

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """As in `Source`."""
        found = await self._mirror.realisation(output)
        return None if found is None or await self.narinfo(found.out_path.hash_part) is None else found
