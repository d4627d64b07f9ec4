"""Where a soaked server keeps what is pushed (tests/backing.py), and what can go wrong there.

places = Places(root, state)
places.ask("select … where hash_part = $1", hash_part)      # rows of the catalog, beside the server
async with places.catalog() as catalog: …
places.lose(key), places.cut(key), places.change(key, chance)   # a file, by the key of its bytes
places.size()                                               # of all NARs, in bytes
places.restart_database(how), places.storm(weather)
"""

import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from signal import Signals
from typing import Any, Final

import backing
from postgresql import shared
from s3_double import Weather

from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.database.postgresql.connections import Address
from harmonia_py.database.postgresql.database import PostgresDatabase
from harmonia_py.database.sqlite import SqliteDatabase
from harmonia_py.database.transaction import Database

_NOISE: Final = b"harmonia"


class Places:
    """The catalog and the files of one soaked server, for the soak to look into and to damage.

    Attributes:
        settings: what the configuration says of it beside what tests/backing.py does.
    """

    def __init__(self, root: Path, state: Path) -> None:
        self._root = root
        self._sqlite = state / "catalog.sqlite"
        self._files = backing.directory(root, str((state / "pushed").relative_to(root)))
        self.settings: dict[str, Any] = {}
        if backing.IN_BUCKET:
            # Another name of this machine than the one in the URL of the cache: clients are sent to no other host.
            endpoint = backing.double().endpoint.replace("127.0.0.1", "localhost")
            self.settings = {"public_endpoint": endpoint, "redirect_from": "128 KiB"}

    def ask(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of the catalog; `$1` and so on in the statement stand for the parameters."""
        return backing.ask(self._root, self._sqlite, statement, *parameters)

    @asynccontextmanager
    async def catalog(self) -> AsyncIterator[SqlCatalog]:
        """The catalog, as a process of its own opens it."""
        database: Database
        if backing.IN_POSTGRESQL:
            database = await PostgresDatabase.open(Address(backing.database(self._root)))
        else:
            database = await SqliteDatabase.open(self._sqlite)
        catalog = SqlCatalog(database)
        try:
            yield catalog
        finally:
            await catalog.aclose()

    def restart_database(self, how: Signals) -> None:
        """End PostgreSQL, in order or at once, and start it again."""
        shared().restart(how)

    @contextmanager
    def storm(self, weather: Weather) -> Iterator[None]:
        """Requests to the bucket fail meanwhile."""
        backing.double().weather = weather
        try:
            yield
        finally:
            backing.double().weather = None

    def lose(self, key: str) -> None:
        """Delete a file. This and its siblings raise FileNotFoundError where there is none."""
        (self._files / key).unlink()

    def cut(self, key: str) -> None:
        """Leave the first half of a file."""
        file = self._files / key
        if backing.IN_BUCKET:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        else:
            os.truncate(file, file.stat().st_size // 2)

    def change(self, key: str, chance: random.Random) -> None:
        """Write other bytes into a file, which keeps its size."""
        file = self._files / key
        place = chance.randrange(file.stat().st_size)
        if backing.IN_BUCKET:
            data = file.read_bytes()
            file.write_bytes((data[:place] + _NOISE + data[place + len(_NOISE) :])[: len(data)])
            return
        with file.open("r+b") as opened:
            opened.seek(place)
            opened.write(_NOISE)

    def size(self) -> int:
        """What all NARs take, in bytes."""
        if backing.IN_BUCKET:
            backing.double().seen.clear()  # of an hour, they would take more than the objects
        size = 0
        for file in (self._files / "nar").glob("*"):
            try:
                size += file.stat().st_size
            except FileNotFoundError:
                continue
        return size
