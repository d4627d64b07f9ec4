"""A narinfo judged: as text, before a parser forgives anything; by its signatures; and by the HEAD of it.

Source: `src/libstore/nar-info.cc` of Nix, which takes a value from the second byte after the colon to the line feed.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from harmonia_py.cache.trust import is_its_own_proof, signed_by
from harmonia_py.commands.doctor.finding import Finding, shown
from harmonia_py.commands.doctor.remote import Answer
from harmonia_py.contents.codecs import COMPRESSIONS
from harmonia_py.errors import FormatError
from harmonia_py.nix.narinfo import SUFFIXES, NarInfo
from harmonia_py.nix.signing import PublicKey, parse_signatures
from harmonia_py.nix.store_path import HashPart, StoreDir

# The fields that Nix writes, in its order. Nix reads any order, but line-wise tools do not.
_ORDER: Final = (
    *("StorePath", "URL", "Compression", "FileHash", "FileSize", "NarHash", "NarSize", "References", "Deriver"),
    *("System", "Sig", "CA"),
)
_REWRITTEN: Final = "the program that wrote it is at fault, or a proxy that rewrites text; Nix reads it to the byte"
_COMPARED: Final = ("content-type", "content-length", "etag", "accept-ranges", "content-encoding")


class Judgement(Struct, frozen=True):
    """The findings about a narinfo, and the narinfo itself when it can be used."""

    findings: list[Finding]
    narinfo: NarInfo | None


def judge(data: bytes, hash_part: HashPart, store_dir: StoreDir) -> Judgement:
    """The text of the narinfo of `hash_part`, without its signatures."""
    name = "narinfo"
    broken = _fault_of_text(data)
    if broken is not None:
        return Judgement([Finding.failure(name, broken, _REWRITTEN)], None)
    try:
        narinfo = NarInfo.parse(data, store_dir)
    except FormatError as error:
        remedy = "clients refuse it as corrupt; have the cache write it again"
        return Judgement([Finding.failure(name, f"does not parse: {error}", remedy)], None)
    info = narinfo.path_info
    if info.store_path.hash_part != hash_part:
        what = f"asked for {hash_part}, it tells of {info.store_path}"
        remedy = "a proxy's cache key without the path does this, or a wrong rewrite"
        return Judgement([Finding.failure(name, what, remedy)], None)
    size = "" if narinfo.file_size is None else f", {narinfo.file_size} bytes to download"
    found = [Finding.ok(name, f"{info.store_path}: parses; {narinfo.compression}, NAR of {info.nar_size} bytes{size}")]
    return Judgement([*found, *_oddities(data, narinfo)], narinfo)


def judge_signatures(narinfo: NarInfo, keys: Sequence[PublicKey], store_dir: StoreDir) -> Finding:
    """Whether a client that trusts `keys` takes the path; without keys that cannot be told."""
    name, info = "signature", narinfo.path_info
    good = signed_by(info.fingerprint(store_dir), info.signatures, keys)
    if good is not None:
        return Finding.ok(name, f"good, by {shown(good)}")
    if is_its_own_proof(info, store_dir):
        return Finding.ok(name, "not needed: the store path is that of its content")
    names = sorted({signature.key_name for signature in info.signatures})
    if not names:
        remedy = "sign it: `harmonia-py generate-key cache.example.org-1`, then sign_key_paths; or `nix store sign`"
        return Finding.failure(name, "there is none, so clients refuse the path", remedy)
    if wrong := sorted(set(names) & {key.name for key in keys}):
        remedy = "the key behind this name is another one, or the narinfo was changed after it was signed"
        return Finding.failure(name, f"the one by {shown(', '.join(wrong))} is wrong", remedy)
    signers = shown(", ".join(names))
    if keys:
        trusted = shown(", ".join(key.name for key in keys))
        remedy = "clients need a key of these names in trusted-public-keys; check yours with --key"
        return Finding.failure(name, f"by {signers}, by none of {trusted}", remedy)
    return Finding.warning(name, f"by {signers}; not checked", "give the public key: --key NAME:BASE64")


def judge_head(get: Answer, head: Answer, name: str) -> Finding:
    """Whether HEAD says of `name` what GET says."""
    if head.status != get.status:
        what = f"{name}: {head.status}, and GET {get.status}"
        remedy = "`nix copy` and `nix path-info` ask by HEAD; let the server and what is before it answer that as GET"
        return Finding.failure("HEAD", what, remedy)
    # For HEAD, a server need not compute headers that are only known at the end: RFC 9110, section 9.3.2.
    different = [
        one for one in _COMPARED if one in head.headers and one in get.headers and head.header(one) != get.header(one)
    ]
    if different:
        what = f"{name}: differs from GET in {', '.join(different)}"
        return Finding.warning("HEAD", what, "RFC 9110 wants the same headers; a proxy that compresses does this")
    return Finding.ok("HEAD", f"{name}: the same as GET")


def judge_encoding(answer: Answer, name: str) -> list[Finding]:
    """Whether the answer has a Content-Encoding, although the request did not accept one."""
    encoding = answer.header("content-encoding").lower()
    if not encoding:
        return []
    if encoding in ("identity", "none"):
        what = f"{name} has `Content-Encoding: {encoding}`, on which Nix up to 2.30 fails"
        return [Finding.failure("encoding", what, "send no Content-Encoding where nothing is encoded")]
    what = f"{name} has `Content-Encoding: {shown(encoding)}`, which was not asked for; Nix up to 2.13 never asks"
    remedy = "encode only for clients that send Accept-Encoding (nginx: gzip on, not gzip_static always)"
    return [Finding.failure("encoding", what, remedy)]


def _fault_of_text(data: bytes) -> str | None:
    """The fault that breaks Nix's parser, named more clearly than a parser can; None when there is none."""
    if b"\r" in data:
        return "its lines end with CRLF: the carriage return becomes a part of every value"
    if not data.endswith(b"\n"):
        return "it does not end with a line feed: Nix ends in the middle of the last value"
    lines = data[:-1].split(b"\n")
    if b"" in lines:
        return "it has a blank line, where Nix wants a field"
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            return f"the line {shown(line.decode(errors='replace'))!r} is no field: this may be another page"
        if not value.startswith(b" "):
            what = "the space after the colon is missing, so Nix drops the first byte of what follows"
            return f"{shown(name.decode(errors='replace'))}: {what}"
    return None


def _oddities(data: bytes, narinfo: NarInfo) -> list[Finding]:
    lines = [line.partition(": ") for line in data.decode().splitlines()]
    names = [name for name, _, _ in lines]
    found = []
    if "References" not in names:
        remedy = "write `References: ` even when there are none, with the space"
        found.append(Finding.warning("narinfo", "it has no line References; read as none", remedy))
    known = [_ORDER.index(name) for name in names if name in _ORDER]
    if known != sorted(known):
        remedy = "write them as Nix does: " + ", ".join(_ORDER)
        found.append(Finding.warning("narinfo", "its fields are not in Nix's order; Nix does not mind", remedy))
    if narinfo.compression not in SUFFIXES:
        remedy = f"use one of {', '.join(SUFFIXES)}"
        what = f"Nix knows no compression {shown(narinfo.compression)!r}"
        found.append(Finding.failure("narinfo", what, remedy))
    elif narinfo.compression not in COMPRESSIONS:
        what = f"its NAR is compressed as {narinfo.compression}, which is not checked here"
        found.append(Finding.warning("narinfo", what, f"try a path that has one of {', '.join(sorted(COMPRESSIONS))}"))
    malformed = [value for name, _, value in lines if name == "Sig" and not parse_signatures([value])]
    if malformed:
        remedy = "remove it from the store that signed it: it is <key name>:<base-64 of 64 bytes>"
        found.append(Finding.warning("narinfo", f"it has a malformed signature: {shown(malformed[0])!r}", remedy))
    return found
