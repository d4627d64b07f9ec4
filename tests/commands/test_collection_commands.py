"""`gc`, `why-kept` and `delete` on a catalog of real rows: what goes, what stays, and what is said of both."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
from administering import Machine
from catalogs import nar_file, publication, store_path

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.collecting_lock import CollectingLock
from harmonia_py.database.sqlite import SqliteDatabase

DAY: Final = 86_400
MONTH: Final = 30 * DAY
# app and tool share libc; what is old was pushed, and last used, two months ago.
REFERENCES: Final = {"libc": (), "curl": ("libc",), "app": ("curl",), "tool": ("libc",)}


class House:
    """A machine with the cache `team`, which keeps what was used within a month."""

    def __init__(self, root: Path) -> None:
        self.machine = Machine(root)
        state = root / "server" / "state"
        self.catalog_file = state / "catalog.sqlite"
        self.files = state / "pushed"
        self.machine.do("cache", "create", "team")
        self.machine.do("cache", "configure", "team", "--keep-unused", "30d")

    def in_catalog(self, work: Callable[[SqlCatalog, CacheId], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            catalog = SqlCatalog(await SqliteDatabase.open(self.catalog_file))
            try:
                row = await catalog.caches.find(CacheName("team"))
                assert row is not None
                return await work(catalog, row.id)
            finally:
                await catalog.aclose()

        return asyncio.run(run())

    def publish(self, *names: str, ago: int, session: str | None = None) -> None:
        at = Timestamp(int(time.time()) - ago)

        async def work(catalog: SqlCatalog, cache: CacheId) -> None:
            for name in names:
                key = nar_file(name).blob_key
                (self.files / key).parent.mkdir(parents=True, exist_ok=True)
                (self.files / key).write_bytes(bytes(100))
                await catalog.objects.publish(publication(cache, name, REFERENCES[name], session=session), now=at)

        self.in_catalog(work)

    def has(self, name: str) -> bool:
        return (self.files / nar_file(name).blob_key).exists()

    def report(self, *options: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """What `gc --json` says of each path by its name, and its sums."""
        *lines, last = self.machine.lines("gc", "--json", *options)
        return {line["path"][33:]: line for line in lines if "path" in line}, last["sums"]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_dry_run_says_what_would_go_and_why_and_changes_nothing(house: House) -> None:
    house.publish(*REFERENCES, ago=2 * MONTH)
    house.machine.do("pin", "set", "team", "release", store_path("tool"))
    before = house.catalog_file.read_bytes()
    going, sums = house.report("--dry-run")
    assert set(going) == {"app", "curl"}
    assert {line["why"] for line in going.values()} == {"unused"}
    assert {line["size"] for line in going.values()} == {100}
    assert all(line["goes"] > line["used"] for line in going.values())
    assert (sums["condemned"], sums["condemned_size"], sums["removed"]) == (2, 200, 0)
    text = house.machine.do("gc", "--dry-run")
    assert f"team: {store_path('app')}, 100 bytes, goes at " in text
    assert "not used for longer than keep_unused" in text
    assert "team: 2 paths stay, 200 bytes" in text
    assert "  the pin release keeps 2 paths, 200 bytes" in text
    assert "what no pin keeps stays while it was used within 30 days" in text
    assert house.catalog_file.read_bytes() == before
    assert house.report("--dry-run")[0].keys() == {"app", "curl"}


def test_a_collection_condemns_and_removes_what_was_condemned_for_an_hour(house: House) -> None:
    house.publish("libc", "curl", "app", ago=2 * MONTH)
    house.publish("tool", ago=0)
    going, sums = house.report()
    assert (set(going), sums["condemned"], sums["removed"]) == ({"app", "curl"}, 2, 0)
    let_an_hour_pass(house)
    assert set(house.report("--dry-run")[0]) == {"app", "curl"}
    assert house.has("app")
    done, sums = house.report()
    assert {name: (line["why"], line["goes"]) for name, line in done.items()} == {
        "app": ("unused", None),
        "curl": ("unused", None),
    }
    assert (sums["removed"], sums["removed_size"]) == (2, 200)
    assert [house.has(name) for name in ("app", "curl", "libc", "tool")] == [False, False, True, True]
    collected = [line for line in house.machine.lines("audit") if line["action"] == "collect"]
    assert {(line["principal"], line["subject"][33:], line["detail"]["why"]) for line in collected} == {
        ("collector", "app", "unused"),
        ("collector", "curl", "unused"),
    }


def test_a_collection_waits_for_the_one_that_is_under_way(house: House) -> None:
    async def hold() -> str:
        lock = CollectingLock(house.catalog_file.with_suffix(".collecting"))
        async with lock.hold() as is_ours:
            assert is_ours
            collecting = asyncio.create_task(asyncio.to_thread(house.machine.do, "gc"))
            dry = await asyncio.to_thread(house.machine.do, "gc", "--dry-run")
            assert not collecting.done()
            assert "0 paths would go" in dry
        return await collecting

    house.publish("libc", ago=0)
    assert "0 paths went" in asyncio.run(hold())


def test_a_path_is_kept_by_the_nearest_reason(house: House) -> None:
    house.publish(*REFERENCES, ago=2 * MONTH)
    assert "is kept by nothing: the next collection condemns it" in house.machine.do("why-kept", store_path("app"))
    house.machine.do("pin", "set", "team", "release", store_path("app"))
    [told] = house.machine.lines("why-kept", store_path("libc"), "--json")
    assert (told["cache"], told["by"], told["name"]) == ("team", "pin", "release")
    assert told["chain"] == [store_path("app"), store_path("curl"), store_path("libc")]
    assert house.machine.do("why-kept", store_path("libc")).splitlines() == [
        f"team: {store_path('libc')} is kept by the pin release",
        f"  {store_path('app')}",
        f"    └─ {store_path('curl')}",
        f"      └─ {store_path('libc')}",
    ]
    house.publish("tool", ago=DAY)
    [told] = house.machine.lines("why-kept", store_path("libc").hash_part, "--json")
    assert (told["by"], told["chain"]) == ("use", [store_path("tool"), store_path("libc")])
    assert "is kept by a use within 30 days, of\n" in house.machine.do("why-kept", store_path("libc"))
    assert "is kept by a use within 30 days, at 20" in house.machine.do("why-kept", store_path("tool"))
    house.machine.do("cache", "configure", "team", "--keep-unused", "forever")
    assert "is kept by no limit of time, last used 20" in house.machine.do("why-kept", store_path("tool"))


def test_the_operator_learns_of_a_path_that_is_hidden_and_keeps_another(house: House) -> None:
    house.publish(*REFERENCES, ago=2 * MONTH)
    house.machine.do("pin", "set", "team", "release", store_path("app"))
    at = Timestamp(int(time.time()))
    house.in_catalog(lambda catalog, _: catalog.nars.quarantine(nar_file("curl").file_hash, "gone", now=at))
    [told] = house.machine.lines("why-kept", store_path("libc"), "--json")
    assert (told["name"], told["chain"]) == ("release", [store_path("app"), store_path("curl"), store_path("libc")])
    hidden = house.machine.do("why-kept", store_path("curl"))
    assert "is not shown: its file is missing or damaged, and asked for at the next push" in hidden


def test_what_is_on_its_way_in_or_out_is_said_to_be(house: House) -> None:
    house.publish("app", ago=0)
    assert f"waits for {store_path('curl').hash_part}" in house.machine.do("why-kept", store_path("app"))
    house.publish("libc", ago=2 * MONTH)
    house.machine.do("gc")
    assert "is kept by nothing: it goes at " in house.machine.do("why-kept", store_path("libc"))
    assert "no cache has" in house.machine.refusal("why-kept", store_path("tool"))
    assert "the cache team does not have" in house.machine.refusal("why-kept", store_path("tool"), "--cache", "team")


def test_a_path_that_waits_keeps_what_it_references(house: House) -> None:
    house.publish("libc", ago=2 * MONTH)

    async def push(catalog: SqlCatalog, cache: CacheId) -> None:
        waiting = publication(cache, "tool", ["libc", "later"])
        await catalog.objects.publish(waiting, now=Timestamp(int(time.time())))

    house.in_catalog(push)
    [told] = house.machine.lines("why-kept", store_path("libc"), "--json")
    assert (told["by"], told["chain"]) == ("waiting", [store_path("tool"), store_path("libc")])
    assert "is kept by a path that waits for other references" in house.machine.do("why-kept", store_path("libc"))


def test_a_push_under_way_keeps_what_it_was_told_is_here(house: House) -> None:
    house.publish("libc", ago=2 * MONTH)

    async def ask(catalog: SqlCatalog, cache: CacheId) -> None:
        now = Timestamp(int(time.time()))
        assert await catalog.objects.present(cache, "run-1", [store_path("libc").hash_part], now=now)

    house.in_catalog(ask)
    assert "a push under way, run-1" in house.machine.do("why-kept", store_path("libc"))
    refusal = house.machine.refusal("delete", "team", store_path("libc"))
    assert "a push was told within a day that it is here (--despite-pushes deletes it all the same)" in refusal
    house.machine.do("delete", "team", store_path("libc"), "--despite-pushes")


def test_what_is_referenced_or_pinned_is_not_deleted_and_the_refusal_says_by_what(house: House) -> None:
    house.publish(*REFERENCES, ago=0)
    house.machine.do("pin", "set", "team", "release", store_path("app"))
    refusal = house.machine.refusal("delete", "team", store_path("libc"))
    assert f"{store_path('curl')} references it" in refusal
    assert f"{store_path('tool')} references it" in refusal
    assert "the pin release names it" in house.machine.refusal("delete", "team", store_path("app"))
    assert "does not have" in house.machine.refusal("delete", "team", "0" * 32)
    assert "no cache other" in house.machine.refusal("delete", "other", store_path("app"))
    assert {name for name in REFERENCES if house.has(name)} == set(REFERENCES)


def test_a_path_is_deleted_with_what_it_alone_kept(house: House) -> None:
    house.publish(*REFERENCES, ago=0)
    deleted = house.machine.lines("delete", "team", store_path("app"), "--closure", "--json")
    assert [line["path"] for line in deleted] == [store_path("app"), store_path("curl")]
    house.machine.do("gc")
    assert [house.has(name) for name in REFERENCES] == [True, False, False, True]
    entries = [line for line in house.machine.lines("audit") if line["action"] == "delete"]
    assert [entry["subject"] for entry in entries] == [store_path("app"), store_path("curl")]
    assert all(entry["principal"].startswith("user ") and entry["detail"]["size"] == 100 for entry in entries)


def test_one_path_alone_is_deleted_and_what_it_referenced_stays(house: House) -> None:
    house.publish(*REFERENCES, ago=0)
    assert house.machine.do("delete", "team", store_path("app")) == f"{store_path('app')}\n1 path deleted, 100 bytes\n"
    house.machine.do("gc")
    assert [house.has(name) for name in REFERENCES] == [True, True, False, True]
    house.publish("app", ago=0)
    assert house.has("app"), "and it can be pushed again"


def test_commands_on_no_catalog_say_so(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for command in (("gc",), ("gc", "--dry-run"), ("why-kept", "0" * 32), ("delete", "team", "0" * 32)):
        assert "no catalog yet" in machine.refusal(*command)


def let_an_hour_pass(house: House) -> None:
    """Condemned objects were condemned an hour earlier than they were."""
    with closing(sqlite3.connect(house.catalog_file)) as connection:
        connection.execute("update objects set condemned_s = condemned_s - 3601 where state = 'condemned'")
        connection.commit()


def test_json_of_a_dry_run_is_one_object_a_line(house: House) -> None:
    house.publish("libc", ago=2 * MONTH)
    lines = [json.loads(line) for line in house.machine.do("gc", "--dry-run", "--json").splitlines()]
    assert [sorted(line) for line in lines[-1:]] == [["dry_run", "sums"]]
    assert [line["stays"]["cache"] for line in lines if "stays" in line] == ["default", "team"]
