"""The answers of a server to a client that pushes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

from harmonia_py.chunks.sizes import CUT, CutSizes
from harmonia_py.errors import FormatError, UpstreamProtocolError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart, StoreDir


class Capabilities(Struct, frozen=True, kw_only=True):
    """The capabilities of a server.

    Attributes:
        principal: whose token it was shown: `token ci`, `anonymous`.
        audiences: for one of which the token of a CI must be made; none where it takes no such tokens.
    """

    principal: str
    audiences: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    """The token that a CI's token was exchanged for.

    Attributes:
        token: for this server.
        seconds: for which it lasts.
        principal: whose it is.
    """

    token: str = field(repr=False)
    seconds: int
    principal: str


class Promoted(Struct, frozen=True, kw_only=True):
    """The result of a promotion.

    Attributes:
        published: base names of the paths that the cache did not have before.
        present: how many of the named paths it had already.
        kept_first: base names of paths that it has with another NAR, which stays.
    """

    published: Sequence[str]
    present: int
    kept_first: Sequence[str]


class CacheInfo(Struct, frozen=True, kw_only=True):
    """The facts of a cache that a client needs to substitute from it.

    Attributes:
        name: of the cache.
        public: whether reading takes no token.
        public_keys: that clients must trust.
    """

    name: str
    public: bool
    public_keys: Sequence[str]


class ChunkTerms(Struct, frozen=True, kw_only=True):
    """How a cache takes NARs of which it has some chunks.

    Attributes:
        sizes: of the chunks.
        max_chunks: in one question.
        max_names: in one question for bases.
        max_recipe_size: bytes of a recipe.
        max_sent_size: bytes of the chunks that are sent with it.
    """

    sizes: CutSizes
    max_chunks: int
    max_names: int
    max_recipe_size: int
    max_sent_size: int

    @classmethod
    def of(cls, told: Any) -> "ChunkTerms | None":
        """The terms in an answer; None when there are none, or the cache cuts in a way that is not known here.

        Raises:
            KeyError, TypeError, ValueError: something is missing, or makes no sense.
        """
        if told is None or told["cut"] != CUT:
            return None
        sizes = CutSizes(**{name: int(told["sizes"][name]) for name in CutSizes.__struct_fields__})
        if not sizes.are_sound:
            return None
        return cls(
            sizes=sizes,
            max_chunks=max(1, int(told["max_chunks"])),
            max_names=max(1, int(told.get("max_names", 1))),
            max_recipe_size=int(told["max_recipe_size"]),
            max_sent_size=int(told["max_sent_size"]),
        )


class SessionInfo(Struct, frozen=True, kw_only=True):
    """A session that has begun, and what its cache takes.

    Attributes:
        id: of the session.
        store_dir: of the cache.
        max_paths: in one question.
        max_narinfos: in one request to publish.
        actions: that the token allows with the cache; None when the server does not say.
        looks_through: names of the places where the cache has paths from that are not pushed to it.
        past_server: the sizes of files that may be sent to where the server keeps them; None for none.
        in_parts: the sizes of those that may be sent there in parts; None for none.
        chunks: how NARs are sent of which the cache has some chunks; None: they are sent whole.
    """

    id: str
    store_dir: StoreDir
    max_paths: int
    max_narinfos: int
    actions: frozenset[str] | None = None
    looks_through: Sequence[str] = ()
    past_server: range | None = None
    in_parts: range | None = None
    chunks: ChunkTerms | None = None


class UploadInParts(Struct, frozen=True):
    """An upload past the server that has begun.

    Attributes:
        id: as the server has it.
        part_size: bytes of each part but the last, which has the rest.
        place: on the server, of requests about it.
    """

    id: str
    part_size: int
    place: str


class Lacking(Struct, frozen=True):
    """The paths and NARs that the cache lacks.

    Attributes:
        missing: hash parts of paths that have to be sent.
        elsewhere: paths that the cache has from another place.
        nars: names of files of NARs that it has, by NarHash.
    """

    missing: frozenset[HashPart]
    elsewhere: frozenset[HashPart]
    nars: Mapping[Hash, str]


class FileHere(Struct, frozen=True):
    """The file of a NAR that the server has made.

    Attributes:
        name: `<FileHash>.nar.zst`.
        size: its bytes.
    """

    name: str
    size: int


class Published(Struct, frozen=True):
    """The result of publishing a path.

    Attributes:
        state: published, waiting, absent (its file is not there) or refused.
        reason: for which it is not published.
    """

    state: str
    reason: str = ""


@contextmanager
def understanding() -> Iterator[None]:
    """A context in which the fields of an answer are read.

    Raises:
        UpstreamProtocolError: one is missing, or makes no sense.
    """
    try:
        yield
    except KeyError as error:
        raise UpstreamProtocolError(f"the server's answer lacks {error}") from None
    except (AttributeError, TypeError, ValueError, FormatError) as error:
        raise UpstreamProtocolError(f"the server's answer is not understood: {error}") from None


def fields(value: Any) -> Mapping[str, Any]:
    """An answer that is a JSON object.

    Raises:
        UpstreamProtocolError: it is none.
    """
    if not isinstance(value, dict):
        raise UpstreamProtocolError("the server's answer is no JSON object")
    return value
