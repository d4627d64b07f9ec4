"""Clients that push at once, in every order of their steps: none hears that a file is gone that it was told is here."""

from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, TypeVar

import pytest
from catalogs import NOW, hash_part, later, nar_file, publication
from kept_machine import make_template
from kept_world import Inline, OnPostgresql
from msgspec.structs import replace
from postgresql import shared

from harmonia_py.catalog.caches import DEFAULT_CACHE, CacheSettings, Timestamp
from harmonia_py.catalog.collection import Reason, Scope
from harmonia_py.catalog.collector import Collector
from harmonia_py.catalog.nars import BeingDeleted, NarFile
from harmonia_py.catalog.objects import Publication
from harmonia_py.catalog.uploads import LET_GO_SECONDS, Session
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.nix.hashes import Hash

CACHE: Final = DEFAULT_CACHE
SCOPE: Final = Scope(cache=CACHE, settings=CacheSettings(keep_unused=1, grace=1), deleted=False)
# What no session has leased is unused for long enough then; what was let go has not stayed for long enough.
HOUSE: Final = later(60)
AFTER: Final = later(60 + LET_GO_SECONDS)

T = TypeVar("T")
Step = Callable[[], Coroutine[Any, Any, object]]


@dataclass
class World:
    """A catalog with the bytes of its files, and its housekeeping.

    Attributes:
        every: number of orders of which one is tried: on PostgreSQL each takes a tenth of a second.
        blobs: the keys of the bytes that are there.
        sessions: of the clients that push to it.
    """

    database: Inline | OnPostgresql
    every: int = 1
    blobs: set[str] = field(default_factory=set)
    sessions: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.catalog = SqlCatalog(self.database)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of what the catalog is asked."""
        return self.database.run(work)

    async def keep_house(self, now: Timestamp = HOUSE) -> None:
        """All that housekeeping does, with the shortest limits: unused paths and garbage go at once."""

        async def delete(keys: Sequence[str]) -> Collection[str]:
            self.blobs -= set(keys)
            return ()

        collector = Collector(self.catalog.collection, self.catalog.garbage, delete)
        await collector.condemn_unused(SCOPE, Reason.UNUSED, now, now)
        await collector.remove(SCOPE, now, now)
        await collector.sweep(now)
        await collector.empty_garbage(now)

    async def named(self) -> set[str]:
        """The keys of all files that the catalog has."""
        return {file.blob_key for file in await self.catalog.file_checks.page(None, 1000)}

    async def end(self, session: str) -> None:
        row = Session(id=session, cache=CACHE, principal="token ci", begun=NOW, seen=NOW)
        await self.catalog.uploads.session(row, end=True)


@dataclass
class Push:
    """A path that one session pushes with one file. Its steps are those of a client and of the server that serves it.

    Attributes:
        references: of the path, none of which ever comes: then it waits.
        looked: the file that it is to be published with.
    """

    world: World
    session: str
    name: str
    file: NarFile
    references: tuple[str, ...] = ()
    looked: NarFile | None = None

    def __post_init__(self) -> None:
        self.world.sessions.add(self.session)

    async def asks(self) -> None:
        """Asks whether the file is here, and sends it if not, as Nix does."""
        uploads = self.world.catalog.uploads
        if await uploads.claim(CACHE, self.session, self.file.file_hash, now=NOW) is None:
            await self.begins()
            await self.sends()

    async def begins(self) -> None:
        file = self.file
        await self.world.catalog.uploads.expect(CACHE, self.session, file.file_hash, file.blob_key, now=NOW)

    async def sends(self) -> None:
        await self.writes()
        await self.is_noted()

    async def writes(self) -> None:
        self.world.blobs.add(self.file.blob_key)

    async def is_noted(self) -> None:
        await self.world.catalog.uploads.received(CACHE, self.session, self.file, findings="{}", now=NOW)

    async def is_noted_or_comes_again(self) -> None:
        """Its client, which is refused when the session ended meanwhile, sends the file once more."""
        try:
            await self.is_noted()
        except BeingDeleted:
            await self.begins()
            await self.sends()

    async def is_noted_or_stays_away(self) -> None:
        """Its client, which is refused when the session ended meanwhile, does not come again."""
        with suppress(BeingDeleted):
            await self.is_noted()

    async def is_checked(self) -> None:
        info = self._publication.path_info
        evidence = await self.world.catalog.evidence.find(CACHE, self.file.file_hash, info, lambda _: ())
        assert evidence is not None, "its client was told that the file is here"
        self.looked = evidence.file

    async def is_published(self) -> None:
        assert self.looked is not None
        await self.world.catalog.objects.publish(replace(self._publication, file=self.looked), now=NOW)

    async def ends(self) -> None:
        await self.world.end(self.session)

    async def is_named(self) -> None:
        await self.is_checked()
        await self.is_published()

    async def is_pushed(self) -> None:
        await self.asks()
        await self.is_named()

    @property
    def _publication(self) -> Publication:
        given = publication(CACHE, self.name, self.references, session=self.session)
        assert self.file.nar_hash is not None
        assert self.file.nar_size is not None
        info = replace(given.path_info, nar_hash=self.file.nar_hash, nar_size=self.file.nar_size)
        return replace(given, path_info=info)

    async def is_served(self) -> bool:
        found = await self.world.catalog.objects.find(CACHE, hash_part(self.name))
        return found is not None and found.file.blob_key in self.world.blobs


def files(name: str) -> tuple[NarFile, NarFile]:
    """Two files of one NAR, as two versions of Nix compress it."""
    first = nar_file(name)
    file_hash = Hash.of(f"another file {name}".encode())
    return first, replace(first, file_hash=file_hash, blob_key=f"nar/{file_hash.nix32}.nar.zst")


def orders(*lengths: int) -> Iterator[tuple[int, ...]]:
    """All orders of the steps of sequences that have these lengths: the numbers of the sequences that take a step."""
    if not any(lengths):
        yield ()
    for number, length in enumerate(lengths):
        if length:
            for order in orders(*lengths[:number], length - 1, *lengths[number + 1 :]):
                yield (number, *order)


class Scene:
    """The sequences of steps that come between each other, what comes before, and what is served at the end.

    Housekeeping is one of the sequences, of one step.
    """

    def __init__(
        self, world: World, *sequences: Sequence[Step], served: Sequence[Push], before: Sequence[Step] = ()
    ) -> None:
        self.sequences = (*sequences, [world.keep_house])
        self.served = served
        self.before = before


def one_file(world: World, name: str) -> Scene:
    a, b = (Push(world, session, name, nar_file(name)) for session in ("a", "b"))
    return Scene(
        world,
        (a.begins, a.sends, a.is_named, a.ends),
        (b.asks, b.is_checked, b.is_published),
        served=(b,),
    )


def another_file_that_is_published(world: World, name: str) -> Scene:
    """The first client has another Nix than the two that follow."""
    first, second = files(name)
    a, b, c = (Push(world, session, name, file) for session, file in (("a", first), ("b", second), ("c", second)))
    return _after_another(world, a, b, c)


def another_nar_that_is_published(world: World, name: str) -> Scene:
    """A build that is not reproducible: the first one stays."""
    a = Push(world, "a", name, nar_file(f"{name}-other"))
    b, c = (Push(world, session, name, nar_file(name)) for session in ("b", "c"))
    return _after_another(world, a, b, c)


def _after_another(world: World, a: Push, b: Push, c: Push) -> Scene:
    return Scene(
        world,
        (b.asks, b.is_named, b.ends),
        (c.asks, c.is_checked, c.is_published),
        served=(c,),
        before=(a.is_pushed,),
    )


def two_paths_of_one_nar(world: World, name: str) -> Scene:
    """One client pushes two paths with one file, of which another client has published the first."""
    first, second = files(name)
    a, b = Push(world, "a", name, first), Push(world, "b", name, second)
    other = Push(world, "b", f"{name}-too", second)
    return Scene(
        world,
        (b.asks, b.is_checked, b.is_published),
        (other.asks, other.is_checked, other.is_published),
        served=(b, other),
        before=(a.is_pushed,),
    )


def a_path_that_waits(world: World, name: str) -> Scene:
    """A path that waits for a reference is pushed again, without that; its first file is that of another path too."""
    first, second = files(name)
    a, b = Push(world, "a", name, first, ("never",)), Push(world, "b", name, second)
    other = Push(world, "a", f"{name}-too", first)
    return Scene(
        world, (a.is_pushed,), (b.is_pushed,), (other.asks, other.is_checked, other.is_published), served=(b, other)
    )


def a_session_that_ends_while_it_sends(world: World, name: str) -> Scene:
    """A client gives up its session while a request of its own still brings a file, and pushes the path once more."""
    a = Push(world, "a", name, nar_file(name))
    return Scene(world, (a.begins, a.writes, a.is_noted_or_comes_again, a.is_pushed), (a.ends,), served=())


def a_client_that_stays_away_after_its_session_ended(world: World, name: str) -> Scene:
    """What it had written stayed until the next start of the server when the collector had been there before."""
    a = Push(world, "a", name, nar_file(name))
    return Scene(world, (a.begins, a.writes, a.is_noted_or_stays_away), (a.ends,), served=())


def two_sessions_one_of_which_ends_while_it_sends(world: World, name: str) -> Scene:
    """Another client begins to send the same file, and is cut."""
    a, b = (Push(world, session, name, nar_file(name)) for session in ("a", "b"))
    return Scene(world, (a.begins, a.writes, a.is_noted_or_comes_again, a.is_pushed), (a.ends,), (b.begins,), served=())


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "sqlite":
        # In memory, where there is some: what is waited for in this test is only the disk.
        memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
        with TemporaryDirectory(dir=memory) as directory, closing(Inline(make_template(Path(directory)))) as database:
            yield World(database)
    else:
        url = shared().database()
        with closing(OnPostgresql(url)) as on_postgresql:
            yield World(on_postgresql, every=16)
        shared().drop(url)


@pytest.mark.parametrize(
    "scene",
    [
        one_file,
        another_file_that_is_published,
        another_nar_that_is_published,
        two_paths_of_one_nar,
        a_path_that_waits,
        a_session_that_ends_while_it_sends,
        a_client_that_stays_away_after_its_session_ended,
        two_sessions_one_of_which_ends_while_it_sends,
    ],
)
def test_in_every_order(world: World, scene: Callable[[World, str], Scene]) -> None:
    """What two clients had sent was dropped when the path of one was published: the narinfo of the other got 409."""
    lengths = [len(sequence) for sequence in scene(world, "count").sequences]
    for number, order in enumerate(islice(orders(*lengths), None, None, world.every)):
        made = scene(world, f"p{number}")
        steps = [iter(sequence) for sequence in made.sequences]
        for step in (*made.before, *(next(steps[one]) for one in order)):
            world.run(step())
            assert world.run(world.named()) <= world.blobs, order
        assert all(world.run(push.is_served()) for push in made.served), order
        for session in world.sessions:
            world.run(world.end(session))
        world.run(world.keep_house(AFTER))
        assert not world.blobs, "nothing is left"
    assert not world.run(world.catalog.repairs.wrong_totals())
