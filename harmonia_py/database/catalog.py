"""All ports of the catalog over one database."""

from functools import partial
from importlib import import_module
from secrets import token_hex
from typing import TYPE_CHECKING, Final

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.database import migrations, progress
from harmonia_py.database.transaction import Database

if TYPE_CHECKING:
    from harmonia_py.database.access import SqlAccess
    from harmonia_py.database.arrivals import SqlArrivals
    from harmonia_py.database.audit import SqlAudit
    from harmonia_py.database.awaiting import SqlAwaiting
    from harmonia_py.database.bases import SqlBases
    from harmonia_py.database.caches import SqlCaches
    from harmonia_py.database.chunk_work import SqlChunkWork
    from harmonia_py.database.chunks import SqlChunks
    from harmonia_py.database.collection import SqlCollection
    from harmonia_py.database.deleting import SqlDeletions
    from harmonia_py.database.documents import SqlDocuments
    from harmonia_py.database.evidence import SqlEvidence
    from harmonia_py.database.file_checks import SqlFileChecks
    from harmonia_py.database.garbage import SqlGarbage
    from harmonia_py.database.keys import SqlKeys
    from harmonia_py.database.mirrored import SqlMirrored, SqlMismatches
    from harmonia_py.database.nars import SqlNars
    from harmonia_py.database.objects import SqlObjects
    from harmonia_py.database.packs import SqlPacks
    from harmonia_py.database.passes import SqlPasses
    from harmonia_py.database.pins import SqlPins
    from harmonia_py.database.repairs import SqlRepairs
    from harmonia_py.database.room_wanted import SqlRoomWanted
    from harmonia_py.database.sessions import SqlSessions
    from harmonia_py.database.uploads import SqlUploads

# Where the class of a port is not in the module of its name.
_MODULES: Final = {"mismatches": "mirrored", "deletions": "deleting"}


def port_modules() -> list[str]:
    """The names of the modules of all ports, in this package."""
    return [_MODULES.get(name, name) for name in SqlCatalog.__annotations__]


class SqlCatalog:
    """The ports, each an attribute.

    Attributes:
        database: that they ask.
        caches: `Caches`.
        objects: `Objects`, `ObjectIndex` and `StaticObjects`.
        nars: `Nars`.
        uploads: `Uploads` and `Adoption`.
        arrivals: `Arrivals`.
        awaiting: `Awaiting`.
        evidence: `EvidenceOf`.
        sessions: `Sessions`.
        passes: `Passes`.
        room_wanted: `RoomWanted`.
        pins: `Pins`.
        mirrored: `Mirrored`.
        mismatches: `Mismatches`.
        access: `Access`.
        keys: `Keys`.
        audit: `Audit`.
        collection: `Collection` and `Survey`.
        garbage: `Garbage`.
        deletions: `Deletions`.
        file_checks: `FileChecks`.
        repairs: `Repairs`.
        documents: `DocumentIndex` and `DocumentChecks`.
        bases: `Bases`.
        chunks: `Chunks`.
        packs: `Packs`.
        chunk_work: `ChunkWork`.
    """

    caches: "SqlCaches"
    objects: "SqlObjects"
    nars: "SqlNars"
    uploads: "SqlUploads"
    arrivals: "SqlArrivals"
    awaiting: "SqlAwaiting"
    evidence: "SqlEvidence"
    sessions: "SqlSessions"
    passes: "SqlPasses"
    room_wanted: "SqlRoomWanted"
    pins: "SqlPins"
    mirrored: "SqlMirrored"
    mismatches: "SqlMismatches"
    access: "SqlAccess"
    keys: "SqlKeys"
    audit: "SqlAudit"
    collection: "SqlCollection"
    garbage: "SqlGarbage"
    deletions: "SqlDeletions"
    file_checks: "SqlFileChecks"
    repairs: "SqlRepairs"
    documents: "SqlDocuments"
    bases: "SqlBases"
    chunks: "SqlChunks"
    packs: "SqlPacks"
    chunk_work: "SqlChunkWork"

    def __init__(self, database: Database) -> None:
        self.database = database

    if not TYPE_CHECKING:  # for the type checker the attributes are those above, and no others

        def __getattr__(self, name: str) -> object:
            """Import and make a port that is asked for: what keeps files, and takes no pushes, needs half of them."""
            if name not in type(self).__annotations__:
                raise AttributeError(name)
            module = import_module(f"{__package__}.{_MODULES.get(name, name)}")
            port = getattr(module, type(self).__annotations__[name])(self.database)
            setattr(self, name, port)
            return port

    async def made(self) -> Timestamp:
        """When the catalog was made.

        Raises:
            StorageError: that cannot be told.
        """
        return Timestamp(await self.database.read(migrations.made))

    async def identity(self) -> str:
        """What tells this catalog from all others: 32 hexadecimal digits, drawn once. A copy of it has the same.

        Raises:
            StorageError: that cannot be told.
        """
        found = await self.database.read(partial(progress.noted, progress.IDENTITY, str))
        if found is not None:
            return found
        return await self.database.write(partial(progress.identity, token_hex(16)))

    async def aclose(self) -> None:
        """Close the database."""
        await self.database.aclose()
