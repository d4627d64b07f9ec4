"""Whether a path is to be believed: by a signature, or by its content address. Decided from values alone.

Source: `ValidPathInfo::checkSignatures` in `src/libstore/path-info.cc`.
"""

from collections.abc import Iterable, Sequence

from harmonia_py.nix.content_address import ContentAddress, Method
from harmonia_py.nix.content_check import content_check
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.signing import PublicKey, Signature
from harmonia_py.nix.store_path import StoreDir


def signed_by(message: bytes, signatures: Iterable[Signature], keys: Sequence[PublicKey]) -> str | None:
    """The name of the first key whose signature of `message` is good."""
    good = (key.name for signature in signatures for key in keys if key.verify(message, signature))
    return next(good, None)


def is_its_own_proof(info: PathInfo, store_dir: StoreDir) -> bool:
    """Whether the store path follows from the content address, so that no signature is needed.

    Its NAR must still turn out to have that address: `rests_on_contents`.
    """
    ca = info.ca
    if not isinstance(ca, ContentAddress) or not ca.proves(info.store_path, info.references, store_dir):
        return False
    return ca.hash == info.nar_hash if _is_of_nar_hash(info) else content_check(info) is not None


def rests_on_contents(info: PathInfo, store_dir: StoreDir) -> bool:
    """Whether it is its own proof, and only what its NAR contains shows that its NarHash is the right one.

    The address of a whole NAR's SHA-256 is the NarHash. Any other is a hash of something else, so until the NAR has
    come, NarHash and NarSize are what an upstream says, and no signature vouches for them.
    """
    return not _is_of_nar_hash(info) and is_its_own_proof(info, store_dir)


def fault_of(info: PathInfo) -> str:
    """Why a content address proves nothing."""
    ca = info.ca
    if not isinstance(ca, ContentAddress) or ca.method is Method.GIT:
        return f"is of a kind that cannot be verified here ({ca})"
    if _is_of_nar_hash(info) and ca.hash != info.nar_hash:
        return "contradicts its NarHash"
    return "does not lead to its store path"


def _is_of_nar_hash(info: PathInfo) -> bool:
    ca = info.ca
    return (
        isinstance(ca, ContentAddress)
        and (ca.method, ca.hash.algorithm) == (Method.NAR, "sha256")
        and info.store_path not in info.references
    )
