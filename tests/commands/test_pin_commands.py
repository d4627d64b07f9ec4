"""`pin`: what it prints, what it refuses, and that a pin keeps what it names from then on."""

import asyncio
from pathlib import Path
from typing import Final

import pytest
from administering import Machine
from catalogs import publication, store_path

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.sqlite import SqliteDatabase

NOW: Final = Timestamp(1_700_000_000)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.do("cache", "create", "team")
    return machine


def publish(machine: Machine, *names: str) -> None:
    async def work() -> None:
        file = machine.root / "server" / "state" / "catalog.sqlite"
        catalog = SqlCatalog(await SqliteDatabase.open(file))
        try:
            row = await catalog.caches.find(CacheName("team"))
            assert row is not None
            for name in names:
                await catalog.objects.publish(publication(CacheId(row.id), name), now=NOW)
        finally:
            await catalog.aclose()

    asyncio.run(work())


def test_a_pin_is_set_listed_shown_and_removed(machine: Machine) -> None:
    publish(machine, "one", "two")
    assert (
        machine.do("pin", "set", "team", "release", store_path("one"))
        == f"release: revision 1 is {store_path('one')}\n"
    )
    rule = ("--keep-revisions", "5", "--keep-days", "30")
    machine.do("pin", "set", "team", "release", f"/nix/store/{store_path('two')}/bin/x", *rule)
    assert machine.do("pin", "list", "team") == (
        f"release: {store_path('two')}, revision 2, keeps the newest 5, and those of 30 days\n"
    )
    [listed] = machine.lines("pin", "list", "team", "--json")
    assert (listed["name"], listed["keep_revisions"], listed["keep_days"]) == ("release", 5, 30)
    shown = machine.lines("pin", "show", "team", "release", "--json")
    assert [(row["revision"], row["path"], row["keeps"]) for row in shown] == [
        (2, store_path("two"), True),
        (1, store_path("one"), True),
    ]
    machine.do("pin", "remove", "team", "release")
    assert machine.do("pin", "list", "team") == ""
    actions = [(entry["action"], entry["subject"]) for entry in machine.lines("audit", "--cache", "team")]
    assert actions.count(("pin.set", "release")) == 2
    assert actions[-1] == ("pin.remove", "release")


def test_a_link_to_a_store_path_is_pinned_as_that_path(machine: Machine) -> None:
    publish(machine, "one")
    (machine.root / "result").symlink_to(f"/nix/store/{store_path('one')}")
    done = machine.do("pin", "set", "team", "release", str(machine.root / "result"))
    assert store_path("one") in done


def test_a_path_that_is_not_published_yet_is_said_to_be_waited_for(machine: Machine) -> None:
    told = machine.do("pin", "set", "team", "release", store_path("later"))
    assert told == f"release: revision 1 waits: {store_path('later')} is not published in team yet\n"
    assert f"waits for {store_path('later')}" in machine.do("pin", "list", "team")
    assert "waits" in machine.do("pin", "show", "team", "release")
    publish(machine, "later")
    assert machine.lines("pin", "list", "team", "--json")[0]["newest"]["path"] == store_path("later")


def test_what_makes_no_sense_is_refused_in_a_line(machine: Machine) -> None:
    assert "no cache other" in machine.refusal("pin", "list", "other")
    assert "no pin release" in machine.refusal("pin", "show", "team", "release")
    assert "no pin release" in machine.refusal("pin", "remove", "team", "release")
    assert "not the name of a pin" in machine.refusal("pin", "set", "team", "re/lease", store_path("one"))
    assert "path in /nix/store" in machine.refusal("pin", "set", "team", "release", "hello")
    done = machine.run("pin", "set", "team", "release", store_path("one"), "--keep-revisions", "0")
    assert done.returncode == 2
    assert "0 is not between 1 and 1000000" in done.stderr
