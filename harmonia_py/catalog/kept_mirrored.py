"""The narinfos, documents and realisations of upstreams that a mirror keeps in the catalog with its NARs."""

from collections.abc import Mapping
from functools import partial
from typing import Final

from harmonia_py.catalog.caches import MIRROR, Timestamp
from harmonia_py.catalog.kept import Kept, KeptPorts, now
from harmonia_py.catalog.kept_objects import CheckedFile, is_made_at, stays_offered, whole_file
from harmonia_py.catalog.mirrored import MirroredObject, UpstreamNarInfo, UpstreamRealisation
from harmonia_py.catalog.objects import Document, DocumentKind, Publication
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.storage import NotKept
from harmonia_py.nix.store_path import HashPart

# How long a file stays in a compression that no narinfo names any more: clients that remember an old narinfo often come
# together, after an upgrade, and it is fetched once for them.
_OLD_SECONDS: Final = 3600


class KeptMirrored:
    """Files of upstreams in the catalog. While it fails, nothing is known, and what is written is lost or owed.

    Args:
        kept: the files and the catalog.
    """

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    async def find(self, hash_part: HashPart) -> MirroredObject | None:
        """The upstream's narinfo of a path that is kept, with what is known of its file; None also for unknown."""
        if await self._kept.has_nothing_of(hash_part):
            return None
        try:
            return await self._kept.catalog.ask(lambda ports: ports.mirrored.find(hash_part))
        except NotKept:
            return None

    async def keep(
        self, key: BlobKey, upstream_narinfo: UpstreamNarInfo, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Enter the NAR under this key, which was verified against this narinfo of an upstream.

        Args:
            key: of the file.
            upstream_narinfo: of its path.
            metadata: that the file has just been kept with; None to look at the file.
        """
        await self._kept.owed.enter(key, partial(self._keep, key, upstream_narinfo, metadata))

    async def _keep(
        self, key: BlobKey, told: UpstreamNarInfo, metadata: Mapping[str, str] | None, ports: KeptPorts
    ) -> None:
        info = told.narinfo.path_info
        whole = whole_file(key, info, metadata or await self._kept.storage.metadata(key))
        # Nearly always the path is new, and this is all.
        if whole is not None and await self._publish(ports, key, told, whole):
            return
        async with self._kept.entering:
            stored = await ports.objects.find(MIRROR, info.store_path.hash_part)
            # The narinfo of a file in chunks may have changed.
            there = whole or (
                None if stored is None or not is_made_at(stored, key) else (stored.file, stored.verified_ca)
            )
            if there is None:
                return
            if stored is not None and stays_offered(stored.file, there[0], told):
                await ports.repairs.discard([key], garbage_from=Timestamp(now() + _OLD_SECONDS))
                return
            await self._publish(ports, key, told, there, replace=True)

    async def _publish(
        self, ports: KeptPorts, key: BlobKey, told: UpstreamNarInfo, checked: CheckedFile, *, replace: bool = False
    ) -> bool:
        """Enter the file of a path that has no object, or any path's where it is to `replace` one; whether it is."""
        info, (file, verified_ca) = told.narinfo.path_info, checked
        publication = Publication(
            cache=MIRROR,
            path_info=info,
            file=file,
            verified_ca=verified_ca,
            elsewhere=frozenset(path.hash_part for path in info.references),
            pushed_by=told.upstream,
            replace=replace,
        )
        removals, _ = self._kept.epochs()
        published = await ports.mirrored.keep(publication, told, now=now())
        if published is None:
            return False
        self._kept.remember(key, published, removals)
        return True

    async def refresh(self, upstream_narinfo: UpstreamNarInfo) -> None:
        """Renew the upstream's narinfo of a path that is kept."""
        await self._kept.write(lambda ports: ports.mirrored.refresh(upstream_narinfo))

    async def keep_document(self, key: BlobKey, name: str, size: int, *, is_listing: bool) -> None:
        """Enter the file of a listing, whose `name` is a hash part, or of a log, whose `name` is a derivation."""
        kind = DocumentKind.LISTING if is_listing else DocumentKind.LOG
        document = Document(kind=kind, name=name, size=size, blob_key=key)
        keepers = [HashPart(name)] if is_listing else []
        await self._kept.owed.enter(key, lambda ports: ports.uploads.attach(MIRROR, None, document, keepers, now=now()))

    async def realisation(self, output: str) -> UpstreamRealisation | None:
        """The remembered answer of an upstream for an output; None also when the catalog does not answer."""
        try:
            return await self._kept.catalog.ask(lambda ports: ports.realisations.realisation(output))
        except NotKept:
            return None

    async def keep_realisation(self, realisation: UpstreamRealisation) -> None:
        """Remember what an upstream said of an output."""
        await self._kept.write(lambda ports: ports.realisations.keep_realisation(realisation, now=now()))
