"""The claims of a pushed narinfo, held against the facts of its NAR's bytes. Decided from values alone.

In every version of Nix, a client compresses what it has on disk and claims what its database says, without comparing
the two. So nothing is believed that can be computed. Each refusal names the field and is one line for people, which
`nix copy` prints.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from msgspec import Struct

from harmonia_py.cache.trust import fault_of, is_its_own_proof, signed_by
from harmonia_py.catalog.nars import NarFile
from harmonia_py.errors import FormatError, PushRefused, PushTooLarge
from harmonia_py.nix.content_address import ContentAddress, Method
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import COMPRESSIONS_BY_SUFFIX, SUFFIXES, NarInfo
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import HashPart, StoreDir, StorePath

MAX_NARINFO_SIZE: Final = 1024 * 1024
"""A system's closure refers to some thousand paths, each a line of a hundred bytes at most."""
MAX_SIGNATURES: Final = 100
"""A path that went through many caches has five; each is sent with every answer from now on."""

_FILE: Final = re.compile(r"([0-9abcdfghijklmnpqrsvwxyz]{52})\.nar(\.[0-9a-z]{1,8})?", re.ASCII)


class PushedFile(Struct, frozen=True):
    """The file of a NAR by its name in a push, `<FileHash>.nar.<suffix>`."""

    file_hash: Hash
    compression: str

    @classmethod
    def parse(cls, file_name: str) -> "PushedFile":
        """Read the part of the URL behind `nar/`.

        Raises:
            FormatError: another shape, or a suffix that stands for no compression.
        """
        match = _FILE.fullmatch(file_name)
        compression = None if match is None else COMPRESSIONS_BY_SUFFIX.get(match[2] or "")
        if match is None or compression is None:
            raise FormatError("the URL of a NAR that is pushed ends with nar/<FileHash>.nar and .xz, .zst or the like")
        return cls(Hash.parse(match[1], "sha256"), compression)

    def __str__(self) -> str:
        return f"{self.file_hash.nix32}.nar{SUFFIXES[self.compression]}"


class CheckedFile(Struct, frozen=True, kw_only=True):
    """The facts of a file and its NAR, computed from its bytes.

    Attributes:
        file: its hash and compression.
        file_size: its length in bytes.
        nar_hash: of the NAR in it.
        nar_size: the length of that.
        candidates: the hash parts that stand in the NAR; None when there were too many to know them all.
    """

    file: PushedFile
    file_size: int
    nar_hash: Hash
    nar_size: int
    candidates: Collection[HashPart] | None


def claim_of(info: PathInfo, row: NarFile) -> NarInfo:
    """The narinfo with which a client would push a path whose NAR is in this file."""
    return NarInfo(
        path_info=info,
        url=f"nar/{PushedFile(row.file_hash, row.compression)}",
        compression=row.compression,
        file_hash=row.file_hash,
        file_size=row.file_size,
    )


def parse_claim(data: bytes, hash_part: HashPart, store_dir: StoreDir) -> tuple[NarInfo, PushedFile]:
    """The narinfo that is pushed as `<hash part>.narinfo`, and the file that it names.

    Raises:
        FormatError: it is no narinfo, is that of another path or store directory, or names a file that is elsewhere.
        PushTooLarge: the text is too long, or has too many signatures.
    """
    if len(data) > MAX_NARINFO_SIZE:
        raise PushTooLarge(f"the narinfo has more than {MAX_NARINFO_SIZE} bytes")
    signatures = {line for line in data.split(b"\n") if line.startswith(b"Sig:")}
    if len(signatures) > MAX_SIGNATURES:
        raise PushTooLarge(f"Sig: there are more than {MAX_SIGNATURES} signatures")
    claim = NarInfo.parse(data, store_dir)
    if len(claim.path_info.signatures) != len(signatures):
        raise FormatError("Sig: a signature is not <key name>:<base-64 of 64 bytes>")
    if claim.path_info.store_path.hash_part != hash_part:
        raise FormatError(f"StorePath: {claim.path_info.store_path} is not the path that the URL is of")
    if not claim.url.startswith("nar/"):
        raise FormatError("URL: the NAR has to be pushed to this cache, below nar/")
    return claim, PushedFile.parse(claim.url.removeprefix("nar/"))


def check_file(claim: NarInfo, checked: CheckedFile) -> None:
    """Hold the claimed hashes and sizes of a file and its NAR against the computed ones.

    Raises:
        PushRefused: names the first field that differs.
    """
    info = claim.path_info
    _equal("Compression", claim.compression, checked.file.compression)
    if claim.file_hash is not None:
        _equal("FileHash", claim.file_hash, checked.file.file_hash)
    if claim.file_size is not None:
        _equal("FileSize", claim.file_size, checked.file_size)
    _equal("NarHash", info.nar_hash, checked.nar_hash)
    _equal("NarSize", info.nar_size, checked.nar_size)


def check_address(info: PathInfo, store_dir: StoreDir) -> None:
    """Check that the content address of a narinfo leads to its store path; `content_check` holds the NAR against it.

    Raises:
        PushRefused: the address leads to another path.
    """
    ca = info.ca
    # Addresses of Git trees, and those that a later Nix has, are passed on for clients that understand them.
    if isinstance(ca, ContentAddress) and ca.method is not Method.GIT and not is_its_own_proof(info, store_dir):
        raise PushRefused(f"CA: the content address {fault_of(info)}")


def check_trust(info: PathInfo, store_dir: StoreDir, keys: Collection[PublicKey]) -> None:
    """Check that one of `keys` has signed a path, where the cache has such keys.

    Raises:
        PushRefused: none has, and the content address of the path is no proof either.
    """
    if not keys or is_its_own_proof(info, store_dir):
        return
    if signed_by(info.fingerprint(store_dir), info.signatures, tuple(keys)) is None:
        names = ", ".join(sorted(key.name for key in keys))
        raise PushRefused(f"Sig: this cache takes what is signed by {names}: sign it first with nix store sign")


def undeclared(info: PathInfo, candidates: Collection[HashPart] | None, store_dir: StoreDir) -> Collection[HashPart]:
    """The hash parts in the NAR that are no references: if the cache has such a path, a reference was left out.

    A content address that leads to the path covers its references: no more can be declared than it says. Nor can a
    derivation be held against its contents: it names its own outputs.
    """
    if candidates is None or is_its_own_proof(info, store_dir):
        return frozenset()
    return set(candidates) - {info.store_path.hash_part, *(path.hash_part for path in info.references)}


def check_references(
    info: PathInfo,
    checked: CheckedFile,
    store_dir: StoreDir,
    *,
    left_out: Iterable[StorePath],
    here: Mapping[HashPart, StorePath],
) -> None:
    """Hold the references against the NAR and the cache.

    Args:
        info: with the references.
        checked: the facts of the file.
        store_dir: the store directory.
        left_out: paths that the cache has, whose hash parts are `undeclared`.
        here: the references that the cache has, pushed or from elsewhere.

    Raises:
        PushRefused: names the path that is wrong.
    """
    for path in sorted(left_out):
        raise PushRefused(f"References: {path} stands in the NAR and is left out; its closure would be broken")
    for reference in info.references:
        found = here.get(reference.hash_part)
        if found is not None and found != reference:
            raise PushRefused(f"References: {reference} is called {found} in this cache")
    if checked.candidates is None or is_its_own_proof(info, store_dir):
        return
    for reference in info.references:
        if reference.hash_part not in here and reference.hash_part not in checked.candidates:
            raise PushRefused(f"References: {reference} is neither in the NAR nor in this cache")


def _equal(field: str, claimed: object, actual: object) -> None:
    if claimed != actual:
        raise PushRefused(f"{field}: it is {actual}, not {claimed}; nix store verify finds paths that are damaged")
