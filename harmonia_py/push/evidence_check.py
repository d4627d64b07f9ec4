"""A claim of a push held against the evidence: the facts in the catalog of its file and of the paths in question.

No code here asks or waits for anything, so a transaction can run all of it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from harmonia_py.catalog.evidence import Evidence
from harmonia_py.catalog.nars import NarFile
from harmonia_py.catalog.objects import Document, DocumentKind, Publication
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath
from harmonia_py.push.claims import (
    CheckedFile,
    PushedFile,
    check_address,
    check_file,
    check_references,
    check_trust,
    undeclared,
)
from harmonia_py.push.findings import Findings
from harmonia_py.push.listings import listing_of
from harmonia_py.push.receiving import PushSession


class EvidenceCheck(Struct, frozen=True, eq=False):
    """Holds claims of pushes to one cache against the evidence.

    Attributes:
        store_dir: of the cache.
        trusted_keys: one of these must have signed what is pushed; without any, all is taken.
    """

    store_dir: StoreDir
    trusted_keys: Sequence[PublicKey]

    def check_claim(self, claim: NarInfo, file: PushedFile, evidence: Evidence, findings: Findings) -> CheckedFile:
        """Check all of a claim but its references; returns the facts of the file that the path has.

        Raises:
            PushRefused: names the first field that is wrong.
        """
        row, info = evidence.file, claim.path_info
        if row.file_hash != file.file_hash:
            claim = replace(claim, compression=row.compression, file_hash=None, file_size=None)
            file = PushedFile(row.file_hash, row.compression)
        checked = _checked(file, row, findings)
        check_file(claim, checked)
        check_address(info, self.store_dir)
        check_trust(info, self.store_dir, self.trusted_keys)
        return checked

    def check_references(
        self, info: PathInfo, checked: CheckedFile, evidence: Evidence, elsewhere: Mapping[HashPart, StorePath]
    ) -> None:
        """Hold the references of a claim against those that were found in its NAR.

        Args:
            info: with the references.
            checked: the facts of the file.
            evidence: has the paths that were pushed to this cache.
            elsewhere: paths that the cache has from elsewhere.

        Raises:
            PushRefused: the NAR has others, or one has another name here.
        """
        paths = evidence.paths
        hidden = undeclared(info, checked.candidates, self.store_dir)
        left_out = [paths[hash_part] for hash_part in hidden if hash_part in paths]
        here = {hash_part: paths[hash_part] for hash_part in other_references(info) if hash_part in paths}
        here |= {**elsewhere, info.store_path.hash_part: info.store_path}
        check_references(info, checked, self.store_dir, left_out=left_out, here=here)

    def publication(self, session: PushSession, claim: NarInfo, row: NarFile, findings: Findings) -> Publication:
        """The publication of a checked claim, if all its references are here and it has no verified content address."""
        return Publication(
            cache=session.cache,
            path_info=claim.path_info,
            file=row,
            verified_ca=None,
            elsewhere=frozenset(),
            documents=tuple(_documents(claim.path_info, row, findings)),
            session=session.id,
            pushed_by=session.principal,
        )


class Question:
    """The paths that a claim puts in question; they follow from the findings of its NAR.

    Attributes:
        findings: of the NAR, once `in_question` was called.
    """

    findings: Findings

    def __init__(self, info: PathInfo, store_dir: StoreDir) -> None:
        self._info = info
        self._store_dir = store_dir

    def in_question(self, text: str) -> set[HashPart]:
        """The references, and the other hash parts that stand in the NAR, given its findings as text."""
        self.findings = Findings.parse(text)
        return {*undeclared(self._info, self.findings.all_candidates, self._store_dir), *other_references(self._info)}


def other_references(info: PathInfo) -> list[HashPart]:
    """The references of a path without the path itself."""
    return [path.hash_part for path in info.references if path != info.store_path]


def _documents(info: PathInfo, row: NarFile, findings: Findings) -> Iterator[Document]:
    """The listing and the places of debug files: made here, whether the client sends them or not."""
    assert row.nar_hash is not None
    hash_part = info.store_path.hash_part
    yield listing_of(hash_part, row.nar_hash, findings)
    for build_id in findings.debug_files:
        body = json.dumps({"hash_part": hash_part}).encode()
        yield Document(kind=DocumentKind.DEBUG_FILE, name=build_id, size=len(body), body=body)


def _checked(file: PushedFile, row: NarFile, findings: Findings) -> CheckedFile:
    assert row.nar_hash is not None
    assert row.nar_size is not None
    return CheckedFile(
        file=file,
        file_size=row.file_size,
        nar_hash=row.nar_hash,
        nar_size=row.nar_size,
        candidates=findings.all_candidates,
    )
