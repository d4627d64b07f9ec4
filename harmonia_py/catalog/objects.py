"""The port `Objects`: the store paths that a cache has.

An object is a path info in a cache, the file of its NAR, and edges: to the objects it references, and to the documents
that go with it (listing, logs, debug files, realisations). What is published can be had with everything it refers to.
"""

from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from typing import Protocol

from msgspec import Struct

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.nars import NarFile
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import HashPart, StorePath


class ObjectState(Enum):
    """The state of an object; docs/explanation describes each."""

    WAITING = "waiting"
    PUBLISHED = "published"
    CONDEMNED = "condemned"


class DocumentKind(Enum):
    """The kinds of documents; the value is the first segment of the URL, or the suffix of a listing."""

    LISTING = "ls"
    LOG = "log"
    DEBUG_FILE = "debuginfo"
    REALISATION = "realisations"
    BUILD_TRACE = "build-trace-v2"


class Document(Struct, frozen=True, kw_only=True):
    """A small file that a cache publishes beside narinfos and NARs.

    Attributes:
        kind: what it is.
        name: what its URL ends with, without suffix: a hash part, a derivation, a build id, the output of a derivation.
        blob_key: where the bytes are; None when they are in `body`.
        size: of those bytes.
        body: the bytes of what is small.
    """

    kind: DocumentKind
    name: str
    size: int
    blob_key: str | None = None
    body: bytes | None = None

    def __post_init__(self) -> None:
        if (self.blob_key is None) == (self.body is None):
            raise ValueError("a document is either in a blob or in the catalog")


class StoredObject(Struct, frozen=True, kw_only=True):
    """An object, as the catalog has it.

    Attributes:
        path_info: with the signatures that came with it.
        file: of its NAR.
        verified_ca: the content address that the NAR was held against, as text; None when it was held against none.
        state: published or condemned.
        pushed_by: the name of the principal, or of the upstream.
        pushed: when it was pushed.
        used: when it was last asked for, as far as the catalog was told.
        condemned_since: when it was condemned, while it is.
    """

    path_info: PathInfo
    file: NarFile
    verified_ca: str | None
    state: ObjectState
    pushed_by: str
    pushed: Timestamp
    used: Timestamp
    condemned_since: Timestamp | None

    @property
    def hash_part(self) -> HashPart:
        """The hash part of its path, by which objects of a cache are ordered."""
        return self.path_info.store_path.hash_part


class Publication(Struct, frozen=True, kw_only=True):
    """A path that is to become an object. Its bytes are there and checked, and its claims were held against them.

    Attributes:
        cache: that publishes it.
        path_info: of the path.
        file: of its NAR; whole, durable and checked.
        verified_ca: as in `StoredObject`.
        elsewhere: those of its references that this cache has from its local store, an upstream or another cache.
        awaited: those of its references for which it waits even if the cache has them: the local store lacks them. An
            object that waits for any is never shown: `Awaiting` tells when the store can take it.
        documents: that are published with it.
        attached: kinds and names of documents that came before and are published with it, as its deriver's log always
            is.
        session: the push that it is part of.
        pushed_by: the principal, or the upstream.
        replace: whether it takes the place of an object that has another NAR or file; otherwise the first one wins.
    """

    cache: CacheId
    path_info: PathInfo
    file: NarFile
    verified_ca: str | None = None
    elsewhere: frozenset[HashPart] = frozenset()
    awaited: frozenset[HashPart] = frozenset()
    documents: tuple[Document, ...] = ()
    attached: frozenset[tuple[DocumentKind, str]] = frozenset()
    session: str | None = None
    pushed_by: str = ""
    replace: bool = False


class Published(Struct, frozen=True, kw_only=True):
    """The result of a publication.

    Attributes:
        state: `PUBLISHED`, or `WAITING` when a reference is not there yet.
        missing: the references that are not there yet.
        first: the other NarHash that the path had already, and keeps; None when it has the pushed one.
        promoted: objects that waited for this one and are published with it.
    """

    state: ObjectState
    missing: frozenset[HashPart] = frozenset()
    first: Hash | None = None
    promoted: tuple[HashPart, ...] = ()


class Size(Struct, frozen=True, kw_only=True):
    """The size of a cache.

    Attributes:
        objects: that readers see.
        size: bytes of their files.
        published_size: bytes of the files of those that are not condemned.
        condemned: how many of `objects` are condemned.
        condemned_size: bytes of the files of condemned objects.
        waiting: objects that wait for references.
        incoming_size: bytes of the files of waiting objects, and of files that belong to no object yet; 0 for all
            caches together.
        chunked_size: bytes of those files that are in chunks, for all caches together; 0 for one cache.
        pack_size: bytes of the packs that have the chunks; 0 for one cache.
    """

    objects: int = 0
    size: int = 0
    published_size: int = 0
    condemned: int = 0
    condemned_size: int = 0
    waiting: int = 0
    incoming_size: int = 0
    chunked_size: int = 0
    pack_size: int = 0

    @property
    def stored_size(self) -> int:
        """The bytes that the storage has; of one cache, which may share chunks with others, those that are sent."""
        return self.size - self.chunked_size + self.pack_size


class Keepers(Struct, frozen=True, kw_only=True):
    """Everything that keeps an object.

    Attributes:
        pins: names of the pins that name it, in a revision that is kept.
        sessions: pushes under way that were told that it is here.
        used: when it was last asked for.
        referrers: objects that reference it and are not condemned.
        waits: whether it waits for references.
    """

    pins: tuple[str, ...]
    sessions: tuple[str, ...]
    used: Timestamp
    referrers: tuple[HashPart, ...]
    waits: bool = False


class Objects(Protocol):
    """The objects of all caches. Each method raises `StorageError` when the catalog cannot tell."""

    async def find(self, cache: CacheId, hash_part: HashPart) -> StoredObject | None:
        """The object, published or condemned, that readers of the cache see.

        None also when its file is quarantined. Pass a condemned object to `used` at once before you give it out.
        """

    async def present(
        self, cache: CacheId, session: str, hash_parts: Collection[HashPart], *, now: Timestamp
    ) -> frozenset[HashPart]:
        """The paths that the cache has. They stay as long as the session lives: each gets a lease and counts as used.

        This is the one way to answer "present" to a client that pushes. A session that is not known is begun.
        """

    async def publish(self, publication: Publication, *, now: Timestamp) -> Published:
        """Make narinfo, NAR and documents visible in one transaction, once all references are; repeatable at will.

        References that were condemned are revived. Pins that wait for this path are set.

        Raises:
            BeingDeleted: the key of the file is garbage on its way out; the bytes have to be written once more.
        """

    async def used(self, last_uses: Mapping[tuple[CacheId, HashPart], Timestamp]) -> None:
        """Note when objects were last asked for: a batch. Those that are condemned are revived."""

    async def document(
        self, cache: CacheId, kind: DocumentKind, name: str, *, pending: bool = False
    ) -> Document | None:
        """A document of an object that readers of the cache see; with `pending` also one without such an object."""


class Sizes(Protocol):
    """The sizes of caches."""

    async def size(self, cache: CacheId | None) -> Size:
        """The size of a cache; with None, of all caches together, each file counted once.

        Raises:
            StorageError: it cannot be told.
        """


class ObjectIndex(Sizes, Protocol):
    """Objects as people ask for them: lists and reasons, paged by key. Each method raises `StorageError`."""

    async def page(self, cache: CacheId, after: HashPart | None, limit: int) -> Sequence[StoredObject]:
        """Up to `limit` objects that readers see, in the order of their hash parts, those that follow `after`."""

    async def paths(
        self, cache: CacheId, hash_parts: Collection[HashPart], *, shown: bool = False
    ) -> Mapping[HashPart, StorePath]:
        """The paths that the cache has, also those that wait or are condemned. They get no lease.

        With `shown` only those that readers see.
        """

    async def waiting(self, cache: CacheId, hash_part: HashPart) -> frozenset[HashPart] | None:
        """The references for which the object waits; None when it does not wait."""

    async def keepers(
        self, cache: CacheId, hash_parts: Collection[HashPart], limit: int, *, now: Timestamp
    ) -> Mapping[HashPart, Keepers]:
        """For each path that is an object, everything that keeps it, with up to `limit` of its referrers."""


class StaticObjects(Protocol):
    """Objects that readers see, for static narinfos: such a look is no use of an object, and revives none.

    Each method raises `StorageError` when the catalog cannot tell.
    """

    async def objects(self, cache: CacheId, hash_parts: Collection[HashPart]) -> Sequence[StoredObject]:
        """The objects that readers of the cache see, of those asked for."""

    async def listings(self, cache: CacheId, hash_parts: Collection[HashPart]) -> Mapping[HashPart, Document]:
        """The listings of those of these objects that have one."""
