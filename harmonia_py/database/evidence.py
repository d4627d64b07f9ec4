"""`EvidenceOf` over a database."""

from typing import Final

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.evidence import Evidence, InQuestion, Judge
from harmonia_py.catalog.objects import Published
from harmonia_py.database.nars import findings_of
from harmonia_py.database.object_rows import FILES, READABLE, digits, nar_file
from harmonia_py.database.objects import paths
from harmonia_py.database.ports import Transactions, reads, writes
from harmonia_py.database.publishing import publish
from harmonia_py.database.transaction import Topic, Transaction, ask_as
from harmonia_py.database.uploads import find_file
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo

# Characters, among them two thousand hash parts at most. Of more than that, other writers do not wait for the look-up.
_LONGEST_FINDINGS: Final = 64 * 1024
_PUBLISHED_FILE: Final = f"""
    {FILES} join objects o on o.file_hash = f.file_hash
    where o.cache_id = $1 and o.hash_part = $2 and o.nar_hash = $3 and {READABLE}
"""


class SqlEvidence(Transactions):
    """`EvidenceOf` in rows of the catalog."""

    @reads
    def find(
        self, cache: CacheId, file_hash: Hash, info: PathInfo, in_question: InQuestion
    ) -> Transaction[Evidence | None]:
        """As in `EvidenceOf`."""
        return _find(cache, file_hash, info, in_question)

    @writes(Topic.OBJECTS)
    def publish(
        self, cache: CacheId, file_hash: Hash, info: PathInfo, in_question: InQuestion, judge: Judge, *, now: Timestamp
    ) -> Transaction[Published | None]:
        """As in `EvidenceOf`."""
        evidence = yield from _find(cache, file_hash, info, in_question, _LONGEST_FINDINGS)
        publication = None if evidence is None else judge(evidence)
        return None if publication is None else (yield from publish(publication, now))


def _find(
    cache: CacheId, file_hash: Hash, info: PathInfo, in_question: InQuestion, longest: int | None = None
) -> Transaction[Evidence | None]:
    published = ask_as(nar_file, _PUBLISHED_FILE, cache, info.store_path.hash_part, digits(info.nar_hash))
    file = (yield from find_file(cache, file_hash)) or (yield from published)
    if file is None or file.nar_hash is None:
        return None
    findings = yield from findings_of(file.nar_hash)
    if findings is None or (longest is not None and len(findings) > longest):
        return None
    here = yield from paths(cache, in_question(findings))
    return Evidence(file=file, findings=findings, paths=here)
