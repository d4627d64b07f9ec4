"""Narinfos and realisations of upstreams, parsed and verified: decided from values alone, at a bounded price.

A signature covers StorePath, NarHash, NarSize and References. `URL`, `Compression`, `FileHash` and `FileSize` are the
upstream's to say, and ours to say otherwise. Source: `ValidPathInfo::checkSignatures` in `src/libstore/path-info.cc`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Final

from msgspec.structs import replace

from harmonia_py.cache.trust import fault_of, is_its_own_proof, signed_by
from harmonia_py.contents.codecs import COMPRESSIONS
from harmonia_py.errors import FormatError, UpstreamProtocolError, UpstreamUntrusted
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.signing import PublicKey, Signature
from harmonia_py.nix.store_path import HashPart, StoreDir
from harmonia_py.runtime.threads import in_thread

# Sixteen thousand references. Many are read at once, so this is less than what the format allows.
MAX_NARINFO_BYTES: Final = 1024 * 1024
# A key may have signed several forms of a realisation. To verify a signature takes a tenth of a millisecond, and all
# that are under the name of a trusted key are verified.
_MAX_SIGNATURES_OF_A_KEY: Final = 8
_PADDED: Final = f"it carries more than {_MAX_SIGNATURES_OF_A_KEY} signatures by one key"
# What is longer is parsed and verified in a thread: it takes more than some two milliseconds.
_SHORT_BYTES: Final = 4096


async def read_narinfo(
    threads: Executor, data: bytes, hash_part: HashPart, keys: Sequence[PublicKey], store_dir: StoreDir
) -> NarInfo:
    """As `parse_narinfo`, in one of `threads` when it takes long."""
    if len(data) <= _SHORT_BYTES:
        return parse_narinfo(data, hash_part, keys, store_dir)
    return await in_thread(threads, partial(parse_narinfo, data, hash_part, keys, store_dir))


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
    """The reason for which a narinfo must not be served, in words; None when it may be."""
    if narinfo.compression not in COMPRESSIONS:
        known = ", ".join(sorted(COMPRESSIONS))
        return f"its NAR is offered as {narinfo.compression}, which cannot be decompressed here ({known} can)"
    info = narinfo.path_info
    if _is_padded(info.signatures):
        return _PADDED
    if signed_by(info.fingerprint(store_dir), info.signatures, keys) is not None or is_its_own_proof(info, store_dir):
        return None
    address = "" if info.ca is None else f"; its content address {fault_of(info)}"
    trusted = ", ".join(key.name for key in keys) or "none"
    names = {signature.key_name for signature in info.signatures}
    if not names:
        return f"it carries no signature (trusted keys: {trusted}){address}"
    wrong = names & {key.name for key in keys}
    if wrong:
        return f"its signature by {', '.join(sorted(wrong))} is wrong{address}"
    return f"it is signed by {', '.join(sorted(names))} (trusted keys: {trusted}){address}"


def _is_padded(signatures: Iterable[Signature]) -> bool:
    """Whether a key has more signatures than a cache has a use for."""
    return max(Counter(one.key_name for one in signatures).values(), default=0) > _MAX_SIGNATURES_OF_A_KEY


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
    if _is_padded(realisation.signatures):
        raise UpstreamUntrusted(f"its realisation of {output}: {_PADDED}")
    if signed_by(realisation.fingerprint(), realisation.signatures, keys) is None:
        raise UpstreamUntrusted(f"its realisation of {output} carries no signature by a trusted key")
    return realisation
