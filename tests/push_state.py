"""What must hold of the catalog and the files of pushes, whatever happened to the processes: looked at directly.

    violations(root, whole=True)    # a line for each rule that does not hold; [] is what a test wants

`root` is the folder that the test's server was made with: where that keeps things says tests/backing.py. `whole`: all
clients have ended well, so that nothing may wait or be left over.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import backing

from harmonia_py.nix.hashes import Hash

# A published object, a reference of it, and what that is in the same cache.
_BROKEN_CLOSURES = """
    select o.cache_id, o.hash_part, r.reference from objects o
        join object_references r on r.cache_id = o.cache_id and r.hash_part = o.hash_part and r.elsewhere = 0
        left join objects t on t.cache_id = r.cache_id and t.hash_part = r.reference and t.state <> 'waiting'
    where o.state <> 'waiting' and t.hash_part is null
"""
_WITHOUT_LISTING = """
    select o.hash_part from objects o where o.state <> 'waiting' and not exists (
        select 1 from object_documents e join documents d
            on d.cache_id = e.cache_id and d.kind = e.kind and d.name = e.name
        where e.cache_id = o.cache_id and e.hash_part = o.hash_part and e.kind = 'ls')
"""
_PUBLISHED_TWICE = (
    "select subject, count(*) from audit where action = 'push' group by cache, subject having count(*) > 1"
)
_NOT_IN_AUDIT = """
    select o.hash_part from objects o where o.state <> 'waiting'
        and not exists (select 1 from audit where action = 'push' and subject = o.hash_part || '-' || o.name)
"""
# What a client was told is here stays as long as its session lives.
_LEASED_AND_GONE = """
    select l.session_id, l.hash_part from leases l
        left join objects o on o.cache_id = l.cache_id and o.hash_part = l.hash_part
    where o.hash_part is null
"""
_NAMED = """
    select blob_key from nar_files union select blob_key from received
    union select blob_key from garbage union select blob_key from documents where blob_key is not null
"""


def violations(root: Path, *, whole: bool) -> list[str]:
    return list(_violations(_Catalog(root), backing.directory(root, "server/state/pushed"), root, whole=whole))


def published(root: Path, cache: str) -> dict[str, str]:
    """The NAR hash of every object that readers of the cache see, by hash part."""
    query = """
        select o.hash_part, o.nar_hash from objects o join caches c on c.id = o.cache_id
            join nar_files f on f.file_hash = o.file_hash
        where c.name = $1 and o.state <> 'waiting' and f.quarantined_s is null
    """
    return dict(_Catalog(root).execute(query, cache))


class _Catalog:
    """The rows of what a server in `root` keeps."""

    def __init__(self, root: Path) -> None:
        self.execute = partial(backing.ask, root, root / "server" / "state" / "catalog.sqlite")


def _violations(catalog: _Catalog, pushed: Path, root: Path, *, whole: bool) -> Iterator[str]:
    if not backing.IN_POSTGRESQL:
        yield from _damaged(catalog)
    for row in catalog.execute(_BROKEN_CLOSURES):
        yield f"a published object refers to one that is not: {row}"
    for row in catalog.execute(_WITHOUT_LISTING):
        yield f"a published object has no listing: {row}"
    for row in catalog.execute(_PUBLISHED_TWICE):
        yield f"published more than once: {row}"
    for row in catalog.execute(_NOT_IN_AUDIT):
        yield f"published, and not in the audit log: {row}"
    for row in catalog.execute(_LEASED_AND_GONE):
        yield f"a session was told that a path is here, and it is gone: {row}"
    yield from _wrong_files(catalog, pushed)
    yield from _wrong_static_side(pushed)
    if whole:
        yield from _left_over(catalog, pushed)
        # On their way in files are on the disk, wherever they go.
        for path in (root / "server" / "state" / "pushed" / "growing").glob("*"):
            yield f"{path.name} is left in the directory of growing files"


def _damaged(catalog: _Catalog) -> Iterator[str]:
    for (said,) in catalog.execute("pragma integrity_check"):
        if said != "ok":
            yield f"the catalog is damaged: {said}"
    for row in catalog.execute("pragma foreign_key_check"):
        yield f"a row refers to one that is not there: {row}"


def _wrong_files(catalog: _Catalog, pushed: Path) -> Iterator[str]:
    """What a row names is there, whole, and what it says."""
    files = catalog.execute("select file_hash, file_size, blob_key, quarantined_for from nar_files")
    for file_hash, file_size, blob_key, quarantined_for in files:
        if quarantined_for is not None:
            yield f"{blob_key} was put into quarantine: {quarantined_for}"
            continue
        try:
            data = (pushed / blob_key).read_bytes()
        except FileNotFoundError:
            yield f"{blob_key} is named and not there"
            continue
        if len(data) != file_size or Hash("sha256", hashlib.sha256(data).digest()).nix32 != file_hash:
            yield f"{blob_key} has other bytes than its name says"
    for blob_key, size in catalog.execute("select blob_key, size from documents where blob_key is not null"):
        path = pushed / blob_key
        if not path.is_file() or path.stat().st_size != size:
            yield f"the document {blob_key} is not there, or not whole"


def _wrong_static_side(pushed: Path) -> Iterator[str]:
    """What other programs read is whole, and names files that are there."""
    for listing in pushed.glob("*/*.ls"):
        if listing.parent.name == "nar":  # the long ones of the catalog
            continue
        with suppress(FileNotFoundError):
            if not _is_listing(listing.read_bytes()):
                yield f"{listing.parent.name}/{listing.name} is no listing"
    for narinfo in pushed.glob("*/*.narinfo"):
        try:
            text = narinfo.read_text()
        except FileNotFoundError:  # the server runs, and writes anew what was published again: it names nothing now
            continue
        fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
        if "URL" not in fields or not (narinfo.parent / fields["URL"]).is_file():
            yield f"{narinfo.parent.name}/{narinfo.name} names a file that is not there"
        # The listing is written before the narinfo, and goes after it.
        if not narinfo.with_suffix(".ls").is_file() and narinfo.exists():
            yield f"{narinfo.parent.name}/{narinfo.name} has no listing beside it"


def _is_listing(data: bytes) -> bool:
    try:
        value = json.loads(data)
    except ValueError:
        return False
    return isinstance(value, dict) and value.get("version") == 1 and "root" in value


def _left_over(catalog: _Catalog, pushed: Path) -> Iterator[str]:
    for (hash_part,) in catalog.execute("select hash_part from objects where state = 'waiting'"):
        yield f"{hash_part} still waits"
    named = {key for (key,) in catalog.execute(_NAMED)}
    for path in (pushed / "nar").glob("*"):
        if str(path.relative_to(pushed)) not in named and not path.name.startswith("."):
            yield f"nothing names {path.relative_to(pushed)}"
