"""All ports of the catalog over one database."""

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.database import migrations
from harmonia_py.database.access import SqlAccess
from harmonia_py.database.adoption import SqlAdoption
from harmonia_py.database.arrivals import SqlArrivals
from harmonia_py.database.audit import SqlAudit
from harmonia_py.database.awaiting import SqlAwaiting
from harmonia_py.database.bases import SqlBases
from harmonia_py.database.caches import SqlCaches
from harmonia_py.database.chunk_rebuilding import SqlChunkRebuilding
from harmonia_py.database.chunk_work import SqlChunkWork
from harmonia_py.database.chunks import SqlChunks
from harmonia_py.database.collection import SqlCollection
from harmonia_py.database.deleting import SqlDeletions
from harmonia_py.database.document_checks import SqlDocumentChecks
from harmonia_py.database.documents import SqlDocuments
from harmonia_py.database.evidence import SqlEvidence
from harmonia_py.database.file_checks import SqlFileChecks
from harmonia_py.database.garbage import SqlGarbage
from harmonia_py.database.keys import SqlKeys
from harmonia_py.database.mirrored import SqlMirrored, SqlMismatches
from harmonia_py.database.nars import SqlNars
from harmonia_py.database.objects import SqlObjects
from harmonia_py.database.passes import SqlPasses
from harmonia_py.database.pins import SqlPins
from harmonia_py.database.repairs import SqlRepairs
from harmonia_py.database.room_wanted import SqlRoomWanted
from harmonia_py.database.sessions import SqlSessions
from harmonia_py.database.static_objects import SqlStaticObjects
from harmonia_py.database.transaction import Database
from harmonia_py.database.uploads import SqlUploads


class SqlCatalog:
    """The ports, each an attribute.

    Attributes:
        database: that they ask.
        caches: `Caches`.
        objects: `Objects` and `ObjectIndex`.
        static_objects: `StaticObjects`.
        nars: `Nars`.
        uploads: `Uploads`.
        adoption: `Adoption`.
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
        documents: `DocumentIndex`.
        document_checks: `DocumentChecks`.
        bases: `Bases`.
        chunks: `Chunks` and `Packs`.
        chunk_rebuilding: `ChunkRebuilding`.
        chunk_work: `ChunkWork`.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.caches = SqlCaches(database)
        self.objects = SqlObjects(database)
        self.static_objects = SqlStaticObjects(database)
        self.nars = SqlNars(database)
        self.uploads = SqlUploads(database)
        self.adoption = SqlAdoption(database)
        self.arrivals = SqlArrivals(database)
        self.awaiting = SqlAwaiting(database)
        self.evidence = SqlEvidence(database)
        self.sessions = SqlSessions(database)
        self.passes = SqlPasses(database)
        self.room_wanted = SqlRoomWanted(database)
        self.pins = SqlPins(database)
        self.mirrored = SqlMirrored(database)
        self.mismatches = SqlMismatches(database)
        self.access = SqlAccess(database)
        self.keys = SqlKeys(database)
        self.audit = SqlAudit(database)
        self.collection = SqlCollection(database)
        self.garbage = SqlGarbage(database)
        self.deletions = SqlDeletions(database)
        self.file_checks = SqlFileChecks(database)
        self.repairs = SqlRepairs(database)
        self.documents = SqlDocuments(database)
        self.document_checks = SqlDocumentChecks(database)
        self.bases = SqlBases(database)
        self.chunks = SqlChunks(database)
        self.chunk_rebuilding = SqlChunkRebuilding(database)
        self.chunk_work = SqlChunkWork(database)

    async def made(self) -> Timestamp:
        """When the catalog was made.

        Raises:
            StorageError: that cannot be told.
        """
        return Timestamp(await self.database.read(migrations.made))

    async def aclose(self) -> None:
        """Close the database."""
        await self.database.aclose()
