"""Which file an object of a mirror or of the local store has, by the key under which its storage has it."""

from collections.abc import Mapping

from harmonia_py.catalog.mirrored import UpstreamNarInfo
from harmonia_py.catalog.nars import NarFile
from harmonia_py.catalog.objects import StoredObject
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.kept_files import FileFacts, url_of
from harmonia_py.errors import FormatError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo


def is_of(stored: StoredObject, key: BlobKey) -> bool:
    """Whether the object has the NAR of this key, in its compression; its file may have another key."""
    url = url_of(key)
    return stored.path_info.nar_hash == url.nar_hash and stored.file.compression == url.compression


def is_kept_at(stored: StoredObject, key: BlobKey) -> bool:
    """Whether the file of an object has this key, or would have it if it was not made of chunks."""
    return stored.file.blob_key == key or is_made_at(stored, key)


def is_made_at(stored: StoredObject, key: BlobKey) -> bool:
    """Whether the file that would have this key is made of chunks."""
    return stored.file.is_chunked and is_of(stored, key)


def stays_offered(there: NarFile, new: NarFile, upstream_narinfo: UpstreamNarInfo) -> bool:
    """Whether narinfos go on offering the file `there`, although `new`, of the same NAR, has come after it."""
    offered = ("zstd", upstream_narinfo.narinfo.compression)
    return (
        there.nar_hash == new.nar_hash
        and there.compression != new.compression
        and there.compression in offered
        and (new.compression not in offered or there.compression == "zstd")
    )


def nar_file(key: BlobKey, info: PathInfo, facts: FileFacts) -> NarFile:
    """The file under a key as the catalog knows it."""
    return NarFile(
        file_hash=facts.file_hash,
        file_size=facts.file_size,
        compression=url_of(key).compression,
        blob_key=key,
        nar_hash=info.nar_hash,
        nar_size=info.nar_size,
    )


CheckedFile = tuple[NarFile, str | None]
"""A file, and the content address that its NAR was held against."""


def whole_file(key: BlobKey, info: PathInfo, metadata: Mapping[str, str] | None) -> CheckedFile | None:
    """The file that has these metadata, with the content address that its NAR was held against.

    None when they do not say what it is.
    """
    if metadata is None:
        return None
    try:
        facts = FileFacts(Hash.parse(metadata["file_hash"], "sha256"), int(metadata["file_size"]), metadata.get("ca"))
    except (KeyError, ValueError, FormatError):
        return None
    return nar_file(key, info, facts), facts.ca
