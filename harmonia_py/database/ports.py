"""Ports of the catalog over a database, whose methods are transactions."""

from collections.abc import Callable, Coroutine
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from harmonia_py.database.transaction import Database, Topic, Transaction

T = TypeVar("T")
P = ParamSpec("P")


class Transactions:
    """Ports of the catalog over a database: their methods are transactions, which `reads`, `scans` and `writes` run.

    Args:
        database: runs them.
    """

    def __init__(self, database: Database) -> None:
        self._database = database


Port = TypeVar("Port", bound=Transactions)
Method = Callable[Concatenate[Port, P], Transaction[T]]
Run = Callable[Concatenate[Port, P], Coroutine[Any, Any, T]]


def reads(method: Method[Port, P, T]) -> Run[Port, P, T]:
    """Run a method as `Database.read` does."""

    @wraps(method)
    async def run(self: Port, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._database.read(partial(method, self, *args, **kwargs))

    return run


def scans(method: Method[Port, P, T]) -> Run[Port, P, T]:
    """Run a method as `Database.scan` does."""

    @wraps(method)
    async def run(self: Port, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._database.scan(partial(method, self, *args, **kwargs))

    return run


def writes(*changes: Topic, durable: bool = True) -> Callable[[Method[Port, P, T]], Run[Port, P, T]]:
    """Run a method as `Database.write` does, with these `changes` and this `durable`."""

    def writing(method: Method[Port, P, T]) -> Run[Port, P, T]:
        @wraps(method)
        async def run(self: Port, /, *args: P.args, **kwargs: P.kwargs) -> T:
            return await self._database.write(partial(method, self, *args, **kwargs), *changes, durable=durable)

        return run

    return writing
