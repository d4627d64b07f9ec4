"""`Pins` over a database."""

from collections.abc import Sequence
from typing import Final

from msgspec.structs import asdict

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.pins import Pin, PinName, PinRevision, PinRule, PinRuleChange
from harmonia_py.database.audit import note_in_cache
from harmonia_py.database.keepers import REVISION_KEEPS
from harmonia_py.database.object_rows import revive
from harmonia_py.database.ports import Transactions, reads, writes
from harmonia_py.database.transaction import Row, Topic, Transaction, ask, ask_one, ask_row
from harmonia_py.nix.store_path import HashPart, StorePath

_COLUMNS: Final = "cache_id, name, revision, hash_part, path_name, set_by, set_s"
_RULE: Final = "keep_revisions, keep_s, keep_forever"
_FIND: Final = f"select name, {_RULE} from pins where cache_id = $1 and name = $2"
_PAGE: Final = f"select name, {_RULE} from pins where cache_id = $1 and name > $2 order by name limit $3"
_PUT_RULE: Final = f"""
    insert into pins (cache_id, name, {_RULE}) values ($1, $2, $3, $4, $5)
    on conflict (cache_id, name) do update set keep_revisions = excluded.keep_revisions, keep_s = excluded.keep_s,
        keep_forever = excluded.keep_forever
"""
_NEWEST: Final = f"""
    select {_COLUMNS} from pin_revisions where cache_id = $1 and name = $2 order by revision desc limit 1
"""
_NEWEST_SET: Final = f"""
    select {_COLUMNS} from pin_revisions where cache_id = $1 and name = $2 and set_s is not null
    order by revision desc limit 1
"""
_IS_PUBLISHED: Final = "select 1 from objects where cache_id = $1 and hash_part = $2 and state <> 'waiting'"
_SET: Final = f"insert into pin_revisions ({_COLUMNS}) values ($1, $2, $3, $4, $5, $6, $7) returning {_COLUMNS}"
_KEEPS: Final = REVISION_KEEPS.replace("$now", "$3")
_REVISIONS: Final = f"""
    select pr.cache_id, pr.name, pr.revision, pr.hash_part, pr.path_name, pr.set_by, pr.set_s,
        pr.set_s is not null and ({_KEEPS})
    from pin_revisions pr join pins p on p.cache_id = pr.cache_id and p.name = pr.name
    where pr.cache_id = $1 and pr.name = $2 order by pr.revision desc
"""
_FORGET: Final = f"""
    delete from pin_revisions as pr where cache_id = $1 and name = $2 and revision <= $4 and not exists (
        select 1 from pins p where p.cache_id = pr.cache_id and p.name = pr.name and ({_KEEPS})
    )
"""
# Another rule can make an old revision keep again, as long as its path is here; older than that it is forgotten.
_REVISIONS_LEFT: Final = 1000
_REMOVE_REVISIONS: Final = "delete from pin_revisions where cache_id = $1 and name = $2"
_REMOVE: Final = "delete from pins where cache_id = $1 and name = $2 returning name"


class SqlPins(Transactions):
    """`Pins` in rows of the catalog."""

    @writes(Topic.OBJECTS)
    def set(
        self,
        cache: CacheId,
        name: PinName,
        path: StorePath,
        change: PinRuleChange | None = None,
        *,
        set_by: str,
        now: Timestamp,
    ) -> Transaction[PinRevision]:
        """As in `Pins`."""
        standing = yield from ask_one(_FIND, cache, name)
        rule = (change or PinRuleChange()).of(PinRule() if standing is None else _rule(standing))
        yield from ask(_PUT_RULE, cache, name, rule.keep_revisions, rule.keep_seconds, int(rule.keep_forever))
        revision = yield from _revise(cache, name, path, set_by, now)
        yield from ask(_FORGET, cache, name, now, revision.revision - _REVISIONS_LEFT)
        yield from note_in_cache(
            cache, set_by, "pin.set", name, now=now, path=path, revision=revision.revision, **asdict(rule)
        )
        return revision

    @reads
    def find(self, cache: CacheId, name: PinName) -> Transaction[Pin | None]:
        """As in `Pins`."""
        row = yield from ask_one(_FIND, cache, name)
        return None if row is None else (yield from _pin(cache, row))

    @reads
    def page(self, cache: CacheId, after: PinName | None, limit: int) -> Transaction[Sequence[Pin]]:
        """As in `Pins`."""
        pins = []
        for row in (yield from ask(_PAGE, cache, after or "", limit)):
            pins.append((yield from _pin(cache, row)))  # noqa: PERF401  # a comprehension cannot yield
        return pins

    @reads
    def revisions(
        self, cache: CacheId, name: PinName, *, now: Timestamp
    ) -> Transaction[Sequence[tuple[PinRevision, bool]]]:
        """As in `Pins`."""
        rows = yield from ask(_REVISIONS, cache, name, now)
        return [(_revision(row[:-1]), bool(row[-1])) for row in rows]

    @writes(Topic.OBJECTS)
    def remove(self, cache: CacheId, name: PinName, *, removed_by: str, now: Timestamp) -> Transaction[bool]:
        """As in `Pins`."""
        yield from ask(_REMOVE_REVISIONS, cache, name)
        if (yield from ask_one(_REMOVE, cache, name)) is None:
            return False
        yield from note_in_cache(cache, removed_by, "pin.remove", name, now=now)
        return True


def _revise(cache: CacheId, name: PinName, path: StorePath, set_by: str, now: Timestamp) -> Transaction[PinRevision]:
    """A new revision, unless the newest one has this path already."""
    newest = yield from ask_one(_NEWEST, cache, name)
    if newest is not None and newest[3] == path.hash_part:
        return _revision(newest)
    published = (yield from ask_one(_IS_PUBLISHED, cache, path.hash_part)) is not None
    if published:
        yield from revive(cache, {path.hash_part}, now)
    number = 1 if newest is None else newest[2] + 1
    values = (cache, name, number, path.hash_part, path.name, set_by, now if published else None)
    return _revision((yield from ask_row(_SET, *values)))


def _pin(cache: CacheId, row: Row) -> Transaction[Pin]:
    name = PinName(row[0])
    newest = yield from ask_one(_NEWEST, cache, name)
    newest_set = yield from ask_one(_NEWEST_SET, cache, name)
    return Pin(
        name=name,
        rule=_rule(row),
        newest=None if newest_set is None else _revision(newest_set),
        waiting=None if newest is None or newest[6] is not None else _revision(newest),
    )


def _rule(row: Row) -> PinRule:
    _, revisions, seconds, forever = row
    return PinRule(keep_revisions=revisions, keep_seconds=seconds, keep_forever=bool(forever))


def _revision(row: Row) -> PinRevision:
    cache, name, revision, hash_part, path_name, set_by, set_at = row
    return PinRevision(
        cache=CacheId(cache),
        name=PinName(name),
        revision=revision,
        path=StorePath(f"{HashPart(hash_part)}-{path_name}"),
        set_by=set_by,
        set_at=None if set_at is None else Timestamp(set_at),
    )
