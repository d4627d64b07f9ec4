"""From a narinfo that is pushed to an object of a cache: checked, and published with everything that goes with it."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum, auto
from functools import partial
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from harmonia_py.cache.trust import is_its_own_proof
from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.evidence import Evidence
from harmonia_py.catalog.nars import BeingDeleted, NarFile
from harmonia_py.catalog.objects import Publication, Published
from harmonia_py.contents.codecs import Unpacker
from harmonia_py.contents.pieces import feed_all, portions
from harmonia_py.errors import PushConflict, PushRefused, naming
from harmonia_py.nix.content_check import ContentCheck, content_check
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.push.claims import (
    CheckedFile,
    PushedFile,
    parse_claim,
)
from harmonia_py.push.evidence_check import EvidenceCheck, Question, other_references
from harmonia_py.push.ports import PushPorts
from harmonia_py.push.receiving import PushSession
from harmonia_py.runtime.threads import in_thread

# References of one path that are asked for elsewhere at the same time.
_ASKED_AT_ONCE: Final = 16

FindElsewhere = Callable[[HashPart], Awaitable[StorePath | None]]
"""The path with this hash part that a cache has from its local store, its upstreams or another cache."""

ToCome = Callable[[Collection[HashPart]], Awaitable[frozenset[HashPart]]]
"""Selects the paths that a client is going to push."""


async def all_to_come(hash_parts: Collection[HashPart]) -> frozenset[HashPart]:
    """A `ToCome` of a client that may bring any path."""
    return frozenset(hash_parts)


class PushOrder(Enum):
    """The order in which a client pushes paths, which says what it may still bring.

    Attributes:
        REFERENCES_FIRST: after their references, as Nix does; it hears of success or failure, and nothing of waiting.
        ANNOUNCED: in any order, those that it has announced, as Attic's client does.
        ANY: in any order; it is told of each path that waits what that waits for.
    """

    REFERENCES_FIRST = auto()
    ANNOUNCED = auto()
    ANY = auto()


class CheckedClaim(Struct, frozen=True):
    """A path whose narinfo agrees with what the catalog knows of its file: ready to be published."""

    publication: Publication
    checked: CheckedFile


class Publisher:
    """Publishes what is pushed to one cache.

    Args:
        ports: where paths are published, and their files are.
        trusted_keys: one of these must have signed what is pushed; without any, all is taken.
        find_elsewhere: finds references that were not pushed to the cache.
    """

    def __init__(self, ports: PushPorts, trusted_keys: Sequence[PublicKey], find_elsewhere: FindElsewhere) -> None:
        self._ports = ports
        self._evidence_check = EvidenceCheck(ports.store_dir, trusted_keys)
        self._find_elsewhere = find_elsewhere

    async def check(self, session: PushSession, hash_part: HashPart, data: bytes) -> CheckedClaim:
        """Hold a narinfo against what the catalog knows of its file; the path, ready to be published.

        Args:
            session: of the client.
            hash_part: of the path.
            data: the narinfo.

        Raises:
            FormatError: `data` is no narinfo of this path.
            PushRefused: one of its claims is wrong.
            PushConflict: its file is not here.
            StorageError: the catalog or the storage does not answer.
        """
        claim, file = parse_claim(data, hash_part, self._ports.store_dir)
        return await self._check(session, claim, file, None)

    async def check_and_publish(
        self, session: PushSession, hash_part: HashPart, data: bytes, to_come: ToCome | None = None
    ) -> Published:
        """`check`, then `publish`; raises what these raise.

        One transaction does both when the catalog knows everything that the check needs, as it does for most paths.

        Args:
            session: of the client.
            hash_part: of the path.
            data: the narinfo.
            to_come: tells which absent references the client will still push: the path waits for these, and the cache
                is trusted to have the others from elsewhere. None: the path waits for all of them.
        """
        claim, file = parse_claim(data, hash_part, self._ports.store_dir)
        if to_come is None and not is_its_own_proof(claim.path_info, self._ports.store_dir):
            published = await self._publish_at_once(session, claim, file)
            if published is not None:
                return published
        return await self.publish(await self._check(session, claim, file, to_come))

    async def _publish_at_once(self, session: PushSession, claim: NarInfo, file: PushedFile) -> Published | None:
        info, asking = claim.path_info, Question(claim.path_info, self._ports.store_dir)

        def judge(evidence: Evidence) -> Publication | None:
            if any(hash_part not in evidence.paths for hash_part in other_references(info)):
                return None  # the cache may have it from elsewhere, where no transaction can ask
            checked = self._evidence_check.check_claim(claim, file, evidence, asking.findings)
            self._evidence_check.check_references(info, checked, evidence, {})
            return self._evidence_check.publication(session, claim, evidence.file, asking.findings)

        with deleted_as_conflict(file):
            return await self._ports.evidence.publish(
                session.cache, file.file_hash, info, asking.in_question, judge, now=self._ports.now()
            )

    async def _check(
        self, session: PushSession, claim: NarInfo, file: PushedFile, to_come: ToCome | None
    ) -> CheckedClaim:
        info, asking = claim.path_info, Question(claim.path_info, self._ports.store_dir)
        evidence = await self._ports.evidence.find(session.cache, file.file_hash, info, asking.in_question)
        if evidence is None:
            raise not_here(file)
        checked = self._evidence_check.check_claim(claim, file, evidence, asking.findings)
        elsewhere = await self._check_references(info, checked, evidence, to_come)
        verified_ca = await self._verified_address(info, checked.file, evidence.file)
        publication = self._evidence_check.publication(session, claim, evidence.file, asking.findings)
        return CheckedClaim(replace(publication, elsewhere=elsewhere, verified_ca=verified_ca), checked)

    async def publish(self, claim: CheckedClaim, *, waits_from: Timestamp | None = None) -> Published:
        """Publish a path, or let it wait for its references for an hour, which begins at `waits_from` (None: now).

        Raises:
            PushConflict: its file is not here any more.
            StorageError: it cannot be kept.
        """
        now = self._ports.now() if waits_from is None else waits_from
        with deleted_as_conflict(claim.checked.file):
            return await self._ports.objects.publish(claim.publication, now=now)

    async def _check_references(
        self, info: PathInfo, checked: CheckedFile, evidence: Evidence, to_come: ToCome | None
    ) -> frozenset[HashPart]:
        """Hold the references of a claim against its NAR; returns those that the cache has from elsewhere."""
        others = other_references(info)
        elsewhere = await self._elsewhere([hash_part for hash_part in others if hash_part not in evidence.paths])
        self._evidence_check.check_references(info, checked, evidence, elsewhere)
        absent = [hash_part for hash_part in others if hash_part not in evidence.paths and hash_part not in elsewhere]
        if to_come is None or not absent:
            return frozenset(elsewhere)
        return frozenset(elsewhere) | (set(absent) - await to_come(absent))

    async def _elsewhere(self, hash_parts: Sequence[HashPart]) -> dict[HashPart, StorePath]:
        found: dict[HashPart, StorePath] = {}
        for start in range(0, len(hash_parts), _ASKED_AT_ONCE):
            some = hash_parts[start : start + _ASKED_AT_ONCE]
            answers = await asyncio.gather(*map(self._find_elsewhere, some))
            found |= {hash_part: path for hash_part, path in zip(some, answers, strict=True) if path is not None}
        return found

    async def _verified_address(self, info: PathInfo, file: PushedFile, row: NarFile) -> str | None:
        """The content address as text, which the NAR was found to have; None when there is none to verify.

        Most content addresses are the NarHash, which is known. For the others the file is read once more. Those belong
        to derivations, to single files (both small) and to paths that contain their own name.
        """
        if not is_its_own_proof(info, self._ports.store_dir):
            return None
        check = content_check(info)
        if check is not None:
            download = await self._ports.open_blob(row.blob_key)
            if download is None:
                await self._ports.quarantine.finds(row)
                raise not_here(file)
            with download:
                unpacker, parts = Unpacker(file.compression), portions(download.pieces(0, None))
                with naming("CA", PushRefused):
                    await feed_all(self._ports.threads, parts, partial(_feed, unpacker, check))
                    await in_thread(self._ports.threads, check.finish)
        return str(info.ca)


def not_here(file: PushedFile) -> PushConflict:
    """The refusal of a narinfo whose file is not here: the client can push the file again."""
    return PushConflict(f"URL: nar/{file} is not here: run the same command again with --refresh")


@contextmanager
def deleted_as_conflict(file: PushedFile) -> Iterator[None]:
    """Turn `BeingDeleted` of a file into `PushConflict`: the client can push the file again."""
    try:
        yield
    except BeingDeleted:
        raise PushConflict(f"nar/{file} has just been deleted: run the same command again with --refresh") from None


def _feed(unpacker: Unpacker, check: ContentCheck, data: bytes | memoryview) -> None:
    for portion in unpacker.feed(data):
        check.update(bytes(portion))
