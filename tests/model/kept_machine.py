"""The model test: a state machine that does anything to a cache in any order, and looks whether all holds."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from kept_world import GRACE, KEEP_UNUSED, NAMES, World

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.uploads import SESSION_SECONDS
from harmonia_py.database.sqlite import SqliteDatabase

STEPS: Final = 60
"""Of one sequence, at most."""

PATHS = st.sampled_from(NAMES)
CLIENTS = st.integers(0, 2)


class Kept(RuleBasedStateMachine):
    """Pushes, reads, pins, collections, crashes and losses."""

    template: Path | str
    """A file to be copied, or the URL of a database in PostgreSQL, which is emptied."""
    steps = 0
    """How many were taken, over all machines of a class."""

    def __init__(self) -> None:
        super().__init__()
        type(self).steps -= 1  # what holds is looked at before the first one as well
        self.world = World(self.template)

    def teardown(self) -> None:
        try:
            self.world.check_nothing_is_left()
        finally:
            self.world.close()

    def _clients(self, what: str) -> list[int]:
        return [number for number, client in self.world.clients.items() if getattr(client, what)]

    @rule(number=CLIENTS, top=PATHS, references_first=st.booleans())
    def begin_push(self, number: int, top: str, *, references_first: bool) -> None:
        self.world.begin_push(number, top, references_first=references_first)

    @precondition(lambda self: self._clients("to_upload"))
    @rule(data=st.data())
    def upload(self, data: Any) -> None:
        self.world.upload(data.draw(st.sampled_from(self._clients("to_upload"))))

    @precondition(lambda self: self._clients("to_publish"))
    @rule(data=st.data(), with_log=st.booleans())
    def publish(self, data: Any, *, with_log: bool) -> None:
        self.world.publish(data.draw(st.sampled_from(self._clients("to_publish"))), with_log=with_log)

    @precondition(lambda self: self.world.clients)
    @rule(data=st.data(), name=PATHS)
    def ask_bases(self, data: Any, name: str) -> None:
        self.world.ask_bases(data.draw(st.sampled_from(sorted(self.world.clients))), name)

    @precondition(lambda self: self.world.clients)
    @rule(data=st.data(), push_all=st.booleans())
    def finish(self, data: Any, *, push_all: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.world.clients)))
        client = self.world.clients[number]
        if push_all:
            self.world.push_rest(number)
        if not client.to_upload and not client.to_publish:
            self.world.commit(number)

    @precondition(lambda self: self.world.clients)
    @rule(data=st.data())
    def die(self, data: Any) -> None:
        del self.world.clients[data.draw(st.sampled_from(sorted(self.world.clients)))]

    @rule(name=PATHS)
    def publish_another_nar(self, name: str) -> None:
        self.world.publish_another_nar(name)

    @rule(name=PATHS)
    def attach_log(self, name: str) -> None:
        self.world.attach_log(name)

    @rule(name=PATHS)
    def read(self, name: str) -> None:
        self.world.read(name)

    @rule()
    def flush(self) -> None:
        self.world.flush()

    @rule(pin=st.sampled_from(["release", "nightly"]), name=PATHS, revisions=st.integers(1, 2))
    def pin(self, pin: str, name: str, revisions: int) -> None:
        self.world.pin(pin, name, revisions)

    @rule(pin=st.sampled_from(["release", "nightly"]))
    def unpin(self, pin: str) -> None:
        self.world.unpin(pin)

    @rule(seconds=st.sampled_from([1, 100, 500, 501, 3601, 5001, 50_000, 86_401]))
    def wait(self, seconds: int) -> None:
        self.world.now = Timestamp(self.world.now + seconds)

    @rule(name=PATHS)
    def grow_old(self, name: str) -> None:
        """A published closure that is not used for long is condemned, and its time passes."""
        self.world.push_all(name)
        self.world.now = Timestamp(self.world.now + SESSION_SECONDS + 1)
        self.world.sweep()
        self.world.condemn()

    @rule(name=PATHS)
    def push(self, name: str) -> None:
        self.world.push_all(name)

    @rule()
    def collect(self) -> None:
        """What has not been used for just long enough is condemned, and removed as soon as may be."""
        self.world.now = Timestamp(self.world.now + KEEP_UNUSED)
        self.world.condemn()
        self.world.check()
        self.world.now = Timestamp(self.world.now + GRACE)
        self.world.remove()

    @rule()
    def condemn(self) -> None:
        self.world.condemn()

    @rule(too_much=st.integers(1, 500))
    def make_room(self, too_much: int) -> None:
        self.world.make_room(too_much)

    @rule()
    def remove(self) -> None:
        self.world.remove()

    @rule()
    def sweep(self) -> None:
        self.world.sweep()

    @rule()
    def empty_garbage(self) -> None:
        self.world.empty_garbage()

    @rule()
    def make_chunks(self) -> None:
        self.world.make_chunks()

    @rule()
    def collect_packs(self) -> None:
        self.world.collect_packs()

    @rule()
    def count_left_behind(self) -> None:
        self.world.count_left_behind()

    @rule(deleted=st.integers(0, 3))
    def crash_while_deleting(self, deleted: int) -> None:
        self.world.crash_while_deleting(deleted)

    @rule()
    def crash(self) -> None:
        self.world.crash()

    @rule(
        step=st.sampled_from(
            ["push", "another", "condemn", "remove", "make room", "sweep", "delete", "chunks", "packs"]
        ),
        name=PATHS,
        transactions=st.integers(0, 6),
    )
    def crash_within(self, step: str, name: str, transactions: int) -> None:
        world = self.world
        steps: dict[str, Callable[[], None]] = {
            "push": lambda: world.push_all(name),
            "another": lambda: world.publish_another_nar(name),
            "condemn": world.condemn,
            "remove": world.remove,
            "make room": lambda: world.make_room(300),
            "sweep": world.sweep,
            "delete": world.empty_garbage,
            "chunks": world.make_chunks,
            "packs": world.collect_packs,
        }
        world.crash_within(transactions, steps[step])

    @rule(name=PATHS)
    def lose(self, name: str) -> None:
        self.world.lose(name)

    @invariant()
    def all_holds(self) -> None:
        type(self).steps += 1
        self.world.check()


def make_template(directory: Path) -> Path:
    """An empty catalog, to be copied: a migration costs more than fifty steps."""
    path = directory / "catalog.sqlite"

    async def make() -> None:
        await (await SqliteDatabase.open(path)).aclose()

    asyncio.run(make())
    return path


def run(template: Path | str, examples: int, *, seed: int | None = None) -> int:
    """Try so many sequences of steps; returns how many steps were taken.

    With a seed they are the same ones each time, and a failure is not made smaller.
    """

    class Machine(Kept):
        pass

    Machine.template = template
    if seed is not None:
        seeded(seed)(Machine)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink] if seed is None else [Phase.generate],
        ),
    )
    return Machine.steps
