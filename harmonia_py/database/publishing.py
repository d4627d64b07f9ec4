"""The transaction that makes an object visible with everything that goes with it."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from msgspec import Struct

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.nars import BeingDeleted, NarFile
from harmonia_py.catalog.objects import ObjectState, Publication, Published
from harmonia_py.database.blob_keys import list_as_garbage, take_from_garbage
from harmonia_py.database.closures import arrive, break_referrers, noting_push, setting_pins
from harmonia_py.database.document_changes import DocumentChanges, documents_of
from harmonia_py.database.nars import keep_file, naming
from harmonia_py.database.object_rows import OF_STORE, READABLE, digits, drop_unused_files, revive, sha256
from harmonia_py.database.received import ending_claim
from harmonia_py.database.totals import add_objects, one_more_file, one_more_object
from harmonia_py.database.transaction import Statement, Transaction, ask, ask_for_each, ask_row, do_together
from harmonia_py.database.uploads import let_go
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.signing import parse_signatures
from harmonia_py.nix.store_path import HashPart

# What stands where something is to be published: its key among what is deleted, the file, another file under its key,
# the object, and whether others wait for it. A path that is there is not asked for all that refer to it.
_STANDING: Final = """
    select g.claimed, f.blob_key, f.quarantined_s,
        exists (select 1 from nar_files other where other.blob_key = $3 and other.file_hash <> $4),
        case when o.hash_part is not null then 1 = 1 else exists (
            select 1 from object_references r where r.cache_id = $1 and r.reference = $2 and (
                select w.state = 'waiting' or w.broken_s is not null from objects w
                where w.cache_id = r.cache_id and w.hash_part = r.hash_part
            )
        ) end,
        o.nar_hash, o.file_hash, o.state, o.signatures, own.quarantined_s, o.broken_s
    from (select 1 as one) this
        left join garbage g on g.blob_key = $3
        left join nar_files f on f.file_hash = $4
        left join objects o on o.cache_id = $1 and o.hash_part = $2
        left join nar_files own on own.file_hash = o.file_hash
"""
# A broken reference counts as absent: it is asked for again.
_PRESENT: Final = f"""
    select o.hash_part, {READABLE}, o.broken_s is not null, o.state = 'condemned' from objects o
    where o.cache_id = $1 and o.hash_part in ($list)
"""
_PUT: Final = """
    insert into objects (cache_id, hash_part, name, nar_hash, file_hash, file_size, store_references, deriver,
        signatures, ca, verified_ca, state, broken_s, session_id, pushed_by, pushed_s, used_s, aged_from_s)
    values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $16, $16)
    on conflict (cache_id, hash_part) do update set
        name = excluded.name, nar_hash = excluded.nar_hash, file_hash = excluded.file_hash,
        file_size = excluded.file_size, store_references = excluded.store_references, deriver = excluded.deriver,
        signatures = excluded.signatures, ca = excluded.ca, verified_ca = excluded.verified_ca, state = excluded.state,
        session_id = excluded.session_id, pushed_by = excluded.pushed_by, pushed_s = excluded.pushed_s,
        used_s = excluded.used_s, aged_from_s = excluded.aged_from_s,
        broken_s = excluded.broken_s, condemned_s = null, condemned_for = null, condemned_rank = null
"""
_TOUCH: Final = """
    update objects set signatures = $3, used_s = $4, aged_from_s = $4, verified_ca = coalesce($5, verified_ca)
    where cache_id = $1 and hash_part = $2
"""
_FORMER: Final = "select state, file_size from objects where cache_id = $1 and hash_part = $2"
_NO_REFERENCES: Final = "delete from object_references where cache_id = $1 and hash_part = $2"
_REFERENCES: Final = """
    select reference from object_references where cache_id = $1 and hash_part = $2 and elsewhere = 0
"""
_REFERENCE: Final = """
    insert into object_references (cache_id, hash_part, reference, elsewhere) values ($1, $2, $3, $4)
"""
_LEASE: Final = """
    insert into leases (session_id, cache_id, hash_part) select id, $2, $3 from sessions where id = $1
    on conflict do nothing
"""


class _Object(Struct, frozen=True):
    """The object under a hash part, before a publication."""

    nar_hash: str
    file_hash: str
    state: ObjectState
    signatures: str
    is_quarantined: bool
    is_broken: bool

    def stays(self, publication: Publication) -> bool:
        """Whether it stays as it is: it has the same NAR and file, or came first."""
        if self.is_quarantined or self.state is ObjectState.WAITING:
            return False
        new = digits(publication.path_info.nar_hash), digits(publication.file.file_hash)
        return (self.nar_hash, self.file_hash) == new if publication.replace else True

    def stands_for(self, publication: Publication) -> bool:
        """Whether what is published already has the NAR of a publication whose file is gone."""
        return self.stays(publication) and self.nar_hash == digits(publication.path_info.nar_hash)


class _Standing(Struct, frozen=True):
    """The rows that a publication meets.

    Attributes:
        file_is_new: no row names the file.
        file_is_simple: it is new under a new key, or named where it is.
        is_awaited: others may wait for the object.
        former: the object, if there is one.
    """

    file_is_new: bool
    file_is_simple: bool
    is_awaited: bool
    former: _Object | None


def publish(publication: Publication, now: Timestamp) -> Transaction[Published]:
    """As `Objects.publish`. A path that is new takes four questions: so many ways lead to a database far away."""
    info, cache = publication.path_info, publication.cache
    hash_part = info.store_path.hash_part
    standing = yield from _look(publication)
    former = standing.former
    if former is not None and former.stays(publication):
        return (yield from _publish_again(former, publication, now))
    if not standing.file_is_simple:
        yield from keep_file(publication.file, now)
    references = {path.hash_part for path in info.references} - {hash_part}
    found = yield from _find(cache, references)
    missing = publication.awaited | (references - publication.elsewhere - found.present)
    was_published = former is not None and former.state is not ObjectState.WAITING
    # An object that was published before is broken rather than waiting: it stays until its lost reference comes again.
    is_broken = was_published and bool(missing) and missing <= found.broken
    state = ObjectState.WAITING if missing and not is_broken else ObjectState.PUBLISHED
    if former is not None:
        yield from ask(_NO_REFERENCES, cache, hash_part)
        # The change of the file may have changed the size of the object, and its state.
        former_state, former_size = yield from ask_row(_FORMER, cache, hash_part)
        yield from add_objects(cache, ObjectState(former_state), [former_size], sign=-1)
    documents = yield from documents_of(publication, now)
    yield from do_together(
        [
            *_naming(publication.file, standing, now),
            _putting(publication, state, now, is_broken=is_broken),
            one_more_object(cache, state, publication.file.file_size),
            _referring(publication, references, state),
            *documents.statements,
            *_settling(publication),
            *([] if missing else _showing(publication, now)),
        ]
    )
    yield from list_as_garbage(documents.replaced, now)
    # An object keeps its references, also while it waits.
    yield from revive(cache, found.condemned, now)
    if former is not None and former.file_hash != digits(publication.file.file_hash):
        yield from _do_without(publication, former.file_hash, now)
    if missing:
        yield from break_referrers(cache, hash_part, now)
        return Published(state=ObjectState.WAITING, missing=frozenset(missing))
    promoted = (yield from arrive(cache, hash_part, now)) if standing.is_awaited else ()
    return Published(state=state, promoted=promoted)


def _look(publication: Publication) -> Transaction[_Standing]:
    """The rows of the path and of its file, whose bytes no collector deletes from now on."""
    file = publication.file
    hash_part, file_hash = publication.path_info.store_path.hash_part, digits(file.file_hash)
    row = yield from ask_row(_STANDING, publication.cache, hash_part, file.blob_key, file_hash)
    claimed, key, quarantined, is_taken, is_awaited, *others = row
    former = _former(others)
    is_elsewhere = key not in {None, file.blob_key} and quarantined is None
    # What is published already needs no other file of its NAR: that one may be gone, or going.
    if former is None or not former.stands_for(publication):
        if claimed is not None and not is_elsewhere:
            yield from take_from_garbage(file.blob_key)
        # A pushed file has a row before its path is published.
        if key is None and publication.session is not None:
            raise BeingDeleted("its file has gone since it was looked at")
    return _Standing(
        file_is_new=key is None,
        file_is_simple=not is_taken and quarantined is None and not is_elsewhere,
        is_awaited=bool(is_awaited),
        former=former,
    )


def _former(row: Sequence[Any]) -> _Object | None:
    nar_hash, file_hash, state, signatures, quarantined, broken = row
    if nar_hash is None:
        return None
    return _Object(nar_hash, file_hash, ObjectState(state), signatures, quarantined is not None, broken is not None)


def _publish_again(former: _Object, publication: Publication, now: Timestamp) -> Transaction[Published]:
    """A path that is published already: it counts as used, and signatures of the same NAR are added."""
    info, cache = publication.path_info, publication.cache
    hash_part, signatures = info.store_path.hash_part, former.signatures
    verified_ca, documents = None, DocumentChanges([], [])
    same = former.nar_hash == digits(info.nar_hash)
    if same:
        signatures = _signatures(info, signatures)
        verified_ca = publication.verified_ca
        documents = yield from documents_of(publication, now)
    touch = Statement(_TOUCH, (cache, hash_part, signatures, now, verified_ca))
    pins = setting_pins(cache, hash_part, now)
    yield from do_together([touch, *documents.statements, *_settling(publication), pins])
    yield from list_as_garbage(documents.replaced, now)
    yield from revive(cache, {hash_part}, now)
    new = digits(publication.file.file_hash)
    if new != former.file_hash:
        yield from _do_without(publication, new, now)
        yield from list_as_garbage([publication.file.blob_key], now)
    first = None if same else sha256(former.nar_hash)
    if not former.is_broken:
        return Published(state=ObjectState.PUBLISHED, first=first)
    references = [row[0] for row in (yield from ask(_REFERENCES, cache, hash_part))]
    missing = set(references) - (yield from _find(cache, references)).present
    return Published(state=ObjectState.WAITING, missing=frozenset(missing), first=first)


def _do_without(publication: Publication, file_hash: str, now: Timestamp) -> Transaction[None]:
    """Do without a file that the path does not have."""
    if publication.session is not None:
        yield from let_go(publication.cache, file_hash, now)
    yield from drop_unused_files([file_hash], now)


class _Found(Struct, frozen=True):
    """The references that are objects: those that readers see, the broken ones, and the condemned ones."""

    present: set[HashPart]
    broken: set[HashPart]
    condemned: set[HashPart]


def _find(cache: CacheId, references: Collection[HashPart]) -> Transaction[_Found]:
    rows = yield from ask_for_each(_PRESENT, sorted(references), cache)
    return _Found(*({HashPart(row[0]) for row in rows if row[column]} for column in (1, 2, 3)))


def _naming(file: NarFile, standing: _Standing, now: Timestamp) -> list[Statement]:
    if not standing.file_is_simple:
        return []
    return [*naming(file, now), *([one_more_file(file.file_size)] if standing.file_is_new else [])]


def _putting(publication: Publication, state: ObjectState, now: Timestamp, *, is_broken: bool) -> Statement:
    info, file, cache = publication.path_info, publication.file, publication.cache
    path = info.store_path
    identity = (cache, path.hash_part, path.name, digits(info.nar_hash), digits(file.file_hash), file.file_size)
    facts = (
        " ".join(info.references),
        info.deriver,
        _signatures(info),
        None if info.ca is None else str(info.ca),
        publication.verified_ca,
    )
    states = (state.value, now if is_broken else None)
    return Statement(_PUT, (*identity, *facts, *states, publication.session, publication.pushed_by, now))


def _referring(publication: Publication, references: Iterable[HashPart], state: ObjectState) -> Statement:
    cache, hash_part = publication.cache, publication.path_info.store_path.hash_part
    elsewhere = publication.elsewhere
    # What readers have had before, and is broken, is theirs again when its lost reference comes.
    of_store = [OF_STORE] if publication.awaited and state is ObjectState.WAITING else []
    named = [*sorted(references), *of_store]
    return Statement(_REFERENCE, (), [(cache, hash_part, name, int(name in elsewhere)) for name in named])


def _settling(publication: Publication) -> list[Statement]:
    """The object keeps the file from now on, the session the object."""
    cache, session, file_hash = publication.cache, publication.session, digits(publication.file.file_hash)
    if session is None:
        return []
    lease = Statement(_LEASE, (session, cache, publication.path_info.store_path.hash_part))
    return [lease, *ending_claim(cache, file_hash, session)]


def _showing(publication: Publication, now: Timestamp) -> list[Statement]:
    """Pins that waited for the object are set, and it is noted that it was published."""
    cache, info = publication.cache, publication.path_info
    pins = setting_pins(cache, info.store_path.hash_part, now)
    return [pins, *([] if publication.session is None else [noting_push(cache, info, publication.pushed_by, now)])]


def _signatures(info: PathInfo, others: str = "") -> str:
    known = {*info.signatures, *parse_signatures(others.split())}
    return " ".join(str(signature) for signature in sorted(known))
