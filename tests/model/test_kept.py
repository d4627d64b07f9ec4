"""The rules of what is kept, under anything that can happen, in any order; and that the model finds real faults."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from kept_machine import STEPS, make_template, run
from postgresql import shared

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.collection import Removed
from harmonia_py.database import (
    chunks,
    collection,
    document_changes,
    keepers,
    object_rows,
    objects,
    packs,
    publishing,
    removing,
    uploads,
)
from harmonia_py.database.transaction import Transaction, ask
from harmonia_py.nix.store_path import HashPart


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.mark.timeout(600)  # ten seconds alone; what the limit cuts off looks to Hypothesis like flaky data
def test_what_can_be_had_is_had_with_all_it_refers_to_whatever_happens(template: Path) -> None:
    run(template, 60)


@pytest.mark.postgresql
def test_it_holds_on_postgresql() -> None:
    url = shared().database()
    run(url, 10)
    shared().drop(url)


@pytest.mark.slow
def test_it_holds_for_twenty_thousand_steps(template: Path) -> None:
    examples = 20_000 // STEPS
    taken = run(template, examples + examples // 5)  # some sequences are shorter
    assert taken >= 20_000


# Faults that other caches had, or could have. Each is built in on purpose, and the model has to find it.

Patch = pytest.MonkeyPatch
NOTHING: Final = "delete from progress where $1 = $2 and $3 <> $3"


def grace_is_not_reset_on_revival(patch: Patch, template: Path) -> None:
    """An object that was revived keeps the time of its first condemnation, and goes at once at the second."""
    with closing(sqlite3.connect(template)) as connection:
        connection.execute("pragma writable_schema = on")
        connection.execute(
            "update sqlite_master set sql = replace(sql, 'check ((state = ''condemned'') = (condemned_s is not null))',"
            " 'check (1)') where name = 'objects'"
        )
        connection.commit()
    patch.setattr(object_rows, "_REVIVE", object_rows._REVIVE.replace("condemned_s = null, ", ""))
    condemn = collection._CONDEMN.replace("condemned_s = $2", "condemned_s = coalesce(o.condemned_s, $2)")
    patch.setattr(collection, "_CONDEMN", condemn)
    # Nor does a look at the last use help, where only the collector's own times are believed.
    patch.setattr(removing, "_DUE", removing._DUE.replace("o.used_s > o.condemned_s", "0"))


def present_gives_no_lease(patch: Patch, template: Path) -> None:
    """A client hears that a path is here, and it is collected before the client is done."""
    patch.setattr(objects, "_PRESENT_IS_LEASED", objects._PRESENT_IS_LEASED.replace("where ", "where 1 = 0 and ", 1))


def documents_have_no_edges(patch: Patch, template: Path) -> None:
    """Logs and listings go with the session that brought them, although their objects live."""
    patch.setattr(document_changes, "KEEP_DOCUMENT", f"{NOTHING} and $4 = $4")
    patch.setattr(uploads, "KEEP_DOCUMENT", f"{NOTHING} and $4 = $4")
    shown = objects._DOCUMENT  # as if everything that is there could be had
    patch.setattr(objects, "_PUBLISHED_DOCUMENT", shown)


def what_was_condemned_goes_without_another_look(patch: Patch, template: Path) -> None:
    """What is due is listed in one transaction and removed in the next, whatever has happened in between."""
    due: list[tuple[str, str]] = []

    def remove(cache: CacheId, before: Timestamp, limit: int, now: Timestamp) -> Transaction[Removed]:
        yield from removing.forget_objects(cache, due, now)
        due[:] = [row[:2] for row in (yield from ask(removing._DUE, cache, now, before, limit))]
        return Removed()

    patch.setattr(collection, "remove", remove)


def references_are_counted_in_a_column(patch: Patch, template: Path) -> None:
    """A counter goes up with each narinfo that is published, and down with each that goes: it misses some.

    What waited first was published by another statement.
    """
    with closing(sqlite3.connect(template)) as connection:
        connection.executescript("""
            create table reference_counts (hash_part text primary key, count integer not null);
            create trigger up after insert on object_references
            when exists (
                select 1 from objects
                where cache_id = new.cache_id and hash_part = new.hash_part and state = 'published'
            ) begin
                insert into reference_counts values (new.reference, 1)
                on conflict (hash_part) do update set count = count + 1;
            end;
            create trigger down after delete on object_references begin
                update reference_counts set count = count - 1 where hash_part = old.reference;
            end;
        """)
    counted = "exists (select 1 from reference_counts where hash_part = o.hash_part and count > 0)"
    patch.setattr(collection, "_CONDEMN", collection._CONDEMN.replace(keepers.IS_REFERENCED, counted))
    for name in ("_OLDEST", "_THESE"):
        statement = getattr(collection, name).replace(collection._REFERRED, f"case when {counted} then 0 end")
        patch.setattr(collection, name, statement)
    patch.setattr(collection, "_REFERRER_AFTER", f"select '' where $1 = $1 and $3 = $3 and $2 in ({COUNTED})")
    patch.setattr(removing, "_REFERRERS", f"{removing._REFERRERS} and 1 = 0")


COUNTED: Final = "select hash_part from reference_counts where count > 0"


def narinfos_are_published_before_their_references(patch: Patch, template: Path) -> None:
    """A narinfo can be had as soon as it comes, whether what it references is here or not."""

    def all_present(_cache: CacheId, references: set[HashPart]) -> Transaction[publishing._Found]:
        yield from ask("select 1")
        return publishing._Found(references, set(), set())

    patch.setattr(publishing, "_find", all_present)


def uses_of_chunks_are_not_noted(patch: Patch, template: Path) -> None:
    """A pack is collected although a file is made of a chunk in it."""
    patch.setattr(chunks, "_USE", "delete from progress where $1 = $2 and 1 = 0")


def uses_go_with_the_first_of_two_files(patch: Patch, template: Path) -> None:
    """A chunk that two files have counts as unused when one of them goes."""
    drop = "delete from chunk_uses where chunk_id in ($list) and $1 = $1"
    patch.setattr(packs, "_NO_USE", drop)


# With a seed by which each is found soon: others take up to half a minute.
FAULTS: Final[tuple[tuple[Callable[[Patch, Path], None], int], ...]] = (
    (grace_is_not_reset_on_revival, 0),
    (present_gives_no_lease, 0),
    (documents_have_no_edges, 0),
    (what_was_condemned_goes_without_another_look, 1),
    (references_are_counted_in_a_column, 2),
    (narinfos_are_published_before_their_references, 0),
    (uses_of_chunks_are_not_noted, 0),
    (uses_go_with_the_first_of_two_files, 3),
)


@pytest.mark.timeout(600)  # steps bound it: a second alone, or a minute where the fault is not found
@pytest.mark.parametrize(("fault", "seed"), [pytest.param(*one, id=one[0].__name__) for one in FAULTS])
def test_the_model_finds_the_fault_that(
    fault: Callable[[Patch, Path], None], seed: int, template: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    faulty = tmp_path / "catalog.sqlite"
    faulty.write_bytes(template.read_bytes())
    fault(monkeypatch, faulty)
    with pytest.raises(AssertionError):
        search(faulty, seed)


def search(template: Path, seed: int) -> None:
    """Find a fault by its seed, among few sequences, or, when the steps of the model are others now, among many."""
    # Among how many it is decides which ones they are.
    run(template, 30, seed=seed)
    run(template, 400, seed=0)
