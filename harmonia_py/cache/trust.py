"""What an upstream says of a path, and whether it is to be believed: decided from values alone.

A signature covers StorePath, NarHash, NarSize and References. `URL`, `Compression`, `FileHash` and `FileSize` are the
upstream's to say, and ours to say otherwise. Source: `ValidPathInfo::checkSignatures` in `src/libstore/path-info.cc`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from harmonia_py.cache.unpack import COMPRESSIONS
from harmonia_py.errors import FormatError, UpstreamProtocolError, UpstreamUntrusted
from harmonia_py.nix.content_address import ContentAddress, Method
from harmonia_py.nix.content_check import content_check
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.signing import PublicKey, Signature
from harmonia_py.nix.store_path import HashPart, StoreDir


def parse_narinfo(data: bytes, hash_part: HashPart, keys: Sequence[PublicKey], store_dir: StoreDir) -> NarInfo:
    """The narinfo in `data`, which is of the path that was asked for, and proves it.

    Raises:
        UpstreamProtocolError: it does not parse, or is that of another path or of another store directory.
        UpstreamUntrusted: no key vouches for it, or its NAR could not be verified.
    """
    try:
        narinfo = NarInfo.parse(data, store_dir)
    except FormatError as error:
        raise UpstreamProtocolError(f"its narinfo of {hash_part}: {error}") from None
    if narinfo.path_info.store_path.hash_part != hash_part:
        raise UpstreamProtocolError(f"asked for {hash_part}, it told of {narinfo.path_info.store_path}")
    # To Nix a FileSize of 0 is one that is not known; no file has it.
    narinfo = replace(narinfo, file_size=narinfo.file_size or None)
    reason = doubt(narinfo, keys, store_dir)
    if reason is not None:
        raise UpstreamUntrusted(f"{narinfo.path_info.store_path}: {reason}")
    return narinfo


def doubt(narinfo: NarInfo, keys: Sequence[PublicKey], store_dir: StoreDir) -> str | None:
    """Why a narinfo must not be served, in words; None when it may be."""
    if narinfo.compression not in COMPRESSIONS:
        return f"its NAR is offered as {narinfo.compression}, which cannot be verified here"
    info = narinfo.path_info
    if signed_by(info.fingerprint(store_dir), info.signatures, keys) is not None or is_its_own_proof(info, store_dir):
        return None
    address = "" if info.ca is None else f"; its content address {_fault_of(info)}"
    trusted = ", ".join(key.name for key in keys) or "none"
    names = {signature.key_name for signature in info.signatures}
    if not names:
        return f"it carries no signature (trusted keys: {trusted}){address}"
    wrong = names & {key.name for key in keys}
    if wrong:
        return f"its signature by {', '.join(sorted(wrong))} is wrong{address}"
    return f"it is signed by {', '.join(sorted(names))} (trusted keys: {trusted}){address}"


def signed_by(message: bytes, signatures: Iterable[Signature], keys: Sequence[PublicKey]) -> str | None:
    """The name of the first key whose signature of `message` is good."""
    good = (key.name for signature in signatures for key in keys if key.verify(message, signature))
    return next(good, None)


def parse_realisation(data: bytes, output: DrvOutput, keys: Sequence[PublicKey]) -> Realisation:
    """The realisation in `data`, which is of the output that was asked for, and signed.

    Raises:
        UpstreamProtocolError: it does not parse, or is that of another output.
        UpstreamUntrusted: no key vouches for it.
    """
    try:
        by_hash = isinstance(output.derivation, Hash)
        realisation = Realisation.parse_old(data) if by_hash else Realisation.parse_new(data, output)
    except FormatError as error:
        raise UpstreamProtocolError(f"its realisation of {output}: {error}") from None
    if realisation.id != output:
        raise UpstreamProtocolError(f"asked for {output}, it told of {realisation.id}")
    if signed_by(realisation.fingerprint(), realisation.signatures, keys) is None:
        raise UpstreamUntrusted(f"its realisation of {output} carries no signature by a trusted key")
    return realisation


def is_its_own_proof(info: PathInfo, store_dir: StoreDir) -> bool:
    """Whether the store path follows from the content address, so that nobody needs to vouch for it.

    Its NAR must still turn out to have that address: `rests_on_contents`.
    """
    ca = info.ca
    if not isinstance(ca, ContentAddress) or not ca.proves(info.store_path, info.references, store_dir):
        return False
    return ca.hash == info.nar_hash if _is_of_nar_hash(info) else content_check(info) is not None


def rests_on_contents(info: PathInfo, store_dir: StoreDir) -> bool:
    """Whether it is its own proof, and only what its NAR contains shows that its NarHash is the right one.

    The address of a whole NAR's SHA-256 is the NarHash. Any other is a hash of something else, so until the NAR has
    come, NarHash and NarSize are what an upstream says that nobody vouches for.
    """
    return not _is_of_nar_hash(info) and is_its_own_proof(info, store_dir)


def _is_of_nar_hash(info: PathInfo) -> bool:
    ca = info.ca
    return (
        isinstance(ca, ContentAddress)
        and (ca.method, ca.hash.algorithm) == (Method.NAR, "sha256")
        and info.store_path not in info.references
    )


def _fault_of(info: PathInfo) -> str:
    """Why a content address proves nothing."""
    ca = info.ca
    if not isinstance(ca, ContentAddress) or ca.method is Method.GIT:
        return f"is of a kind that cannot be verified here ({ca})"
    if _is_of_nar_hash(info) and ca.hash != info.nar_hash:
        return "contradicts its NarHash"
    return "does not lead to its store path"
