"""What doctor says of the caches, keys and tokens of a catalog."""

import dataclasses
import re
import time
from pathlib import Path

import pytest
from administering import Machine
from msgspec.structs import replace as replace_fields

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.audit import entry_now
from harmonia_py.catalog.caches import Timestamp
from harmonia_py.commands.doctor import caches
from harmonia_py.config.settings import Config
from harmonia_py.config.storage_tables import Storage
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.wiring.catalog import catalog_file, open_catalog


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def config(machine: Machine) -> Config:
    return Config(state_directory=str(machine.root / "server" / "state"))


async def said(machine: Machine, *, seconds: float = 0.0) -> list[str]:
    found = await caches.look_at(config(machine), {}, lambda: time.time() + seconds)
    return [f"{one.verdict.value}: {one.what}" for one in found]


async def test_nothing_is_said_where_there_is_no_catalog(machine: Machine) -> None:
    assert await said(machine) == []


async def test_a_cache_without_a_key_is_named_with_what_to_do(machine: Machine) -> None:
    machine.do("cache", "create", "team")
    machine.do("cache", "create", "signs")
    machine.do("key", "create", "signs", "--name", "signs-1")
    first, *others = await said(machine)
    assert re.fullmatch(r"ok: 2 caches, 0 tokens; [0-9]+\.[1-9] MB, begun at 20[0-9-]+T[0-9:]+\+00:00", first)
    assert others == [
        "warning: team: no key signs what is pushed there, so clients want the signatures of the pushers",
    ]
    remedies = [one.remedy for one in await caches.look_at(config(machine), {})]
    assert remedies == [None, "make one with `harmonia-py key create team`"]


async def test_private_caches_in_a_bucket_that_everybody_may_read_are_named(machine: Machine) -> None:
    """Narinfos and files of every cache lie there, and no token is asked for."""
    machine.do("cache", "create", "open", "--public")
    machine.do("cache", "create", "secret", "--no-public")
    storage = Storage(url="s3://kept?endpoint=http://127.0.0.1:1", public_url="https://kept.example.org")
    found = await caches.look_at(replace_fields(config(machine), storage=storage), {})
    assert "secret: private, and public_url says that everybody may read the bucket https://kept.example.org" in [
        one.what for one in found
    ]
    assert not any("everybody" in one.what for one in await caches.look_at(config(machine), {}))
    # Of the cache at `/`, which takes a token, nothing is in the bucket.
    closed = replace_fields(config(machine), storage=storage, token_file="tokens")
    assert not any("default" in one.what for one in await caches.look_at(closed, {}))


async def test_tokens_that_end_soon_or_have_ended_are_named(machine: Machine) -> None:
    for name, lasts in (("old", "1h"), ("soon", "10d"), ("fine", "90d")):
        machine.do("token", "create", name, "--cache", "*", "--expires", lasts)
    first, ended, soon = await said(machine, seconds=7200)
    assert first.startswith("ok: 0 caches, 2 tokens; ")
    assert ended == "warning: old: expired"
    assert soon.startswith("warning: soon: expire within two weeks, the first one at 20")
    machine.do("token", "revoke", "old")
    assert len(await said(machine, seconds=7200)) == 2


async def test_a_catalog_that_others_may_read_is_complained_of(machine: Machine) -> None:
    machine.do("token", "create", "ci", "--cache", "*", "--expires", "never")
    catalog_file(config(machine)).chmod(0o644)
    assert (await said(machine))[0].startswith(f"warning: {catalog_file(config(machine))}: others may read it")


async def test_a_key_that_cannot_be_read_is_a_failure(machine: Machine) -> None:
    machine.do("cache", "create", "team")
    machine.do("key", "create", "team", "--name", "team-1")
    catalog: SqlCatalog = await open_catalog(config(machine))
    team = await catalog.caches.find(CacheName("team"))
    assert team is not None
    [key] = await catalog.keys.of(team.id)
    other = await catalog.caches.create(CacheName("other"), team.settings, declared=False, now=team.created)
    # Another cache's secret, as if a row had been copied by hand.
    await catalog.keys.add(dataclasses.replace(key, cache=other.id), entry_now("tests", "key.create"))
    await catalog.aclose()
    assert any(line.startswith("failure: other: ") and "not served" in line for line in await said(machine))


async def test_when_collections_ended_and_what_they_freed_is_said(machine: Machine) -> None:
    machine.do("cache", "create", "team")
    machine.do("gc")
    assert (await said(machine))[-1].startswith("ok: the last collection ended at 20")
    assert (await said(machine))[-1].endswith("; nothing went yet")
    catalog: SqlCatalog = await open_catalog(config(machine))
    await catalog.passes.note(Timestamp(1_700_000_000), 2, 3_000_000)
    await catalog.passes.note(Timestamp(int(time.time())), 0, 0)
    await catalog.aclose()
    assert "; 2 paths, 3.0 MB, went until 2023-11-14" in (await said(machine))[-1]
    assert (await said(machine, seconds=7200))[-1].startswith("warning: the last collection ended at 20")
