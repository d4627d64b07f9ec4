"""`PushPorts`: the ports that pushes need, whichever cache they go to."""

from collections.abc import Callable

from msgspec import Struct

from harmonia_py.catalog.arrivals import Arrivals
from harmonia_py.catalog.audit import Audit
from harmonia_py.catalog.awaiting import Awaiting
from harmonia_py.catalog.bases import Bases
from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.evidence import EvidenceOf
from harmonia_py.catalog.nars import Nars
from harmonia_py.catalog.objects import Objects
from harmonia_py.catalog.quarantine import Quarantine
from harmonia_py.catalog.room_wanted import RoomWanted
from harmonia_py.catalog.sessions import Sessions
from harmonia_py.catalog.stored import OpenBlob
from harmonia_py.catalog.uploads import Adoption, Uploads
from harmonia_py.contents.blobs import BlobStore
from harmonia_py.nix.store_path import StoreDir
from harmonia_py.runtime.threads import Threads


class PushPorts(Struct, frozen=True, kw_only=True, eq=False):
    """The ports of the catalog, those of the files, and what reads these.

    Attributes:
        objects, nars, uploads, adoption, arrivals, awaiting, evidence, sessions, bases, audit, room_wanted: of the
            catalog.
        quarantine: is told of files that are missing.
        blobs: the files.
        open_blob: opens files of NARs, also those that are made of chunks.
        threads: parse, decompress and hash.
        store_dir: of all caches.
        now: the time.
    """

    objects: Objects
    nars: Nars
    uploads: Uploads
    adoption: Adoption
    arrivals: Arrivals
    awaiting: Awaiting
    evidence: EvidenceOf
    sessions: Sessions
    bases: Bases
    audit: Audit
    room_wanted: RoomWanted
    quarantine: Quarantine
    blobs: BlobStore
    open_blob: OpenBlob
    threads: Threads
    store_dir: StoreDir
    now: Callable[[], Timestamp]
