"""A NAR downloaded as a client does it, verified while it streams, and in parts."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Final

from aiohttp import hdrs
from msgspec import Struct
from msgspec.structs import replace

from harmonia_py.commands.doctor.finding import Finding, Verdict, shown
from harmonia_py.commands.doctor.narinfo import judge_encoding, judge_head
from harmonia_py.commands.doctor.remote import Answer, Remote
from harmonia_py.contents.codecs import COMPRESSIONS, Unpacker
from harmonia_py.contents.nar_check import NarCheck
from harmonia_py.errors import FormatError
from harmonia_py.nix.narinfo import NarInfo

# To download more than this would be a benchmark, and no check.
MAX_NAR_BYTES: Final = 1024 * 1024 * 1024
# Bytes of the file that are kept to compare a range with.
_KEPT_BYTES: Final = 64 * 1024
# Fewer bytes say nothing about the speed of the network.
_FOR_SPEED_BYTES: Final = 1024 * 1024
_ATTEMPTS: Final = 4
_MOMENT_SECONDS: Final = 0.4
# The header of Nix 2.14 to 2.33.
_ASKS_FOR_ENCODING: Final = {str(hdrs.ACCEPT_ENCODING): "zstd, br, gzip, deflate, bzip2, xz"}
_PLAIN: Final = ("", "identity", "none")
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.ASCII)
_WRONG: Final = (
    "clients refuse it; the store path may be damaged (`nix-store --verify-path`), the kept file rotten "
    "(`harmonia-py verify`), or a proxy's copy an old one"
)


class Downloaded(Struct, frozen=True):
    """A file that was read to its end.

    Attributes:
        answer: to the GET; its body holds the first bytes of the file.
        size: of the file.
        seconds: that the body took.
        fault: why the file is not the NAR of the narinfo; None when it is.
    """

    answer: Answer
    size: int
    seconds: float
    fault: str | None


async def look_at(remote: Remote, narinfo: NarInfo) -> list[Finding]:
    """Download and verify the NAR, then ask for it by HEAD, in parts, and encoded.

    Raises:
        NoAnswer: it stopped answering.
    """
    if narinfo.path_info.nar_size > MAX_NAR_BYTES or (narinfo.file_size or 0) > MAX_NAR_BYTES:
        what = f"{narinfo.path_info.nar_size} bytes are too many to try"
        return [Finding.warning("NAR", what, "choose a smaller path with --path")]
    async with remote.open(narinfo.url) as (answer, stream):
        if answer.status != HTTPStatus.OK:
            what = f"{shown(narinfo.url)}: the answer is {answer.status}"
            remedy = (
                "there is a narinfo for it, so clients come, and must build after all: make it again, or remove both"
            )
            return [Finding.failure("NAR", what, remedy)]
        download = await _read(answer, stream, narinfo)
    findings = [*judge_encoding(answer, "the NAR"), judge(download, narinfo)]
    if download.fault is None:
        findings += await _look_at_parts(remote, narinfo, download)
    return findings


class _Reading:
    """Takes a file in pieces, verifies it, and keeps its beginning."""

    def __init__(self, encoding: str, narinfo: NarInfo) -> None:
        self.beginning = b""
        self.size = 0
        self._outer = Unpacker("none" if encoding in _PLAIN else encoding)
        self._check: NarCheck | None = None
        if narinfo.compression in COMPRESSIONS:
            self._check = NarCheck(narinfo.path_info, narinfo.compression, narinfo.file_hash, narinfo.file_size)

    def take(self, data: bytes) -> None:
        self.size += len(data)
        self.beginning += data[: _KEPT_BYTES - len(self.beginning)]
        if self.size > MAX_NAR_BYTES:
            raise FormatError("it does not end")
        if self._check is not None:
            for portion in self._outer.feed(data):
                self._check.feed(portion)

    def finish(self) -> None:
        if self._check is not None:
            if not self._outer.is_whole:
                raise FormatError("its encoding ends in the middle")
            self._check.finish()


async def _read(answer: Answer, stream: AsyncIterator[bytes], narinfo: NarInfo) -> Downloaded:
    reading = _Reading(answer.header("content-encoding").lower(), narinfo)
    fault = None
    began = time.perf_counter()
    try:
        async for data in stream:
            reading.take(data)
        reading.finish()
    except FormatError as error:
        fault = str(error)
    seconds = time.perf_counter() - began
    return Downloaded(replace(answer, body=reading.beginning), reading.size, seconds, fault)


def judge(download: Downloaded, narinfo: NarInfo) -> Finding:
    """Whether the file is the NAR that the narinfo promises."""
    if download.fault is not None:
        return Finding.failure("NAR", f"{shown(narinfo.url)}: {download.fault}", _WRONG)
    speed = ""
    if download.size >= _FOR_SPEED_BYTES:
        speed = f", {download.size / max(download.seconds, 1e-6) / 1e6:,.1f} MB/s"
    matched = "NarHash and NarSize" if narinfo.file_hash is None else "NarHash, NarSize and FileHash"
    if narinfo.compression not in COMPRESSIONS:
        matched = "size"
    return Finding.ok("NAR", f"{download.size} bytes, {matched} right{speed}")


async def _look_at_parts(remote: Remote, narinfo: NarInfo, download: Downloaded) -> list[Finding]:
    url = narinfo.url
    stop = min(download.size, _KEPT_BYTES) * 2 // 3
    start = stop // 2
    for _ in range(_ATTEMPTS):
        part = await remote.ask(url, _KEPT_BYTES, headers={hdrs.RANGE: f"bytes={start}-{stop - 1}"})
        if part.status != HTTPStatus.OK:
            break
        # A server may have compressed the NAR while it sent it: a moment later it is a file.
        await asyncio.sleep(_MOMENT_SECONDS)
    get, head = await _compare_head(remote, url)
    findings = [judge_part(part, download.answer.body[start:stop], start, download.size), head]
    if part.status == HTTPStatus.PARTIAL_CONTENT:
        beyond = await remote.ask(url, 1024, headers={hdrs.RANGE: f"bytes={download.size}-"})
        findings += [*judge_beyond(beyond), *judge_accept_ranges(get)]
    if narinfo.compression != "none":
        async with remote.open(url, headers=_ASKS_FOR_ENCODING) as (encoded, _):
            findings += judge_double(encoded)
    return findings


async def _compare_head(remote: Remote, url: str) -> tuple[Answer, Finding]:
    """The answer to GET, without its body, and whether that to HEAD is equal."""
    for _ in range(_ATTEMPTS):
        async with remote.open(url) as (get, _):
            pass
        finding = judge_head(get, await remote.ask(url, 0, method=hdrs.METH_HEAD), "NAR")
        if finding.verdict is Verdict.OK:
            break
        # Of several workers, those that did not compress it themselves learn a moment later that it is a file.
        await asyncio.sleep(_MOMENT_SECONDS)
    return get, finding


def judge_part(answer: Answer, expected: bytes, start: int, size: int) -> Finding:
    """Whether the answer is the range of the file that was asked for."""
    if answer.status == HTTPStatus.OK:
        what = "ignored: a download that was cut begins anew"
        remedy = "let the server answer Range with 206; nginx in front may need `proxy_force_ranges on`"
        return Finding.warning("ranges", what, remedy)
    if answer.status != HTTPStatus.PARTIAL_CONTENT:
        remedy = "206 with the bytes, or 200 with the whole, is what a client can use"
        return Finding.failure("ranges", f"the answer to a range is {answer.status}", remedy)
    last = start + len(expected) - 1
    match = _CONTENT_RANGE.fullmatch(answer.header("content-range"))
    if match is None or (int(match[1]), int(match[2])) != (start, last) or match[3] not in ("*", str(size)):
        what = f"Content-Range is {shown(answer.header('content-range'))!r} instead of bytes {start}-{last}/{size}"
        return Finding.failure("ranges", what, "a resumed download would be corrupt: switch ranges off, or mend them")
    if answer.body != expected:
        remedy = "a resumed download would be corrupt: switch ranges off, or mend them"
        return Finding.failure("ranges", "206 with other bytes than those asked for", remedy)
    return Finding.ok("ranges", "206 with the right bytes")


def judge_beyond(answer: Answer) -> list[Finding]:
    """The answer to a range behind the end."""
    if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return [Finding.ok("ranges", "416 behind the end")]
    what = f"the answer to a range behind the end is {answer.status} instead of 416"
    return [Finding.warning("ranges", what, "RFC 9110, section 15.5.17; a client cannot tell that it has all of it")]


def judge_accept_ranges(answer: Answer) -> list[Finding]:
    """Nix resumes only where the first answer invited it to."""
    if "bytes" in answer.header("accept-ranges").lower():
        return []
    what = "they work, but `Accept-Ranges: bytes` is missing, without which Nix does not resume"
    return [Finding.warning("ranges", what, "send the header; look whether a proxy removes it")]


def judge_double(answer: Answer) -> list[Finding]:
    """Whether a compressed file gets a Content-Encoding as well, when the client accepts one."""
    encoding = answer.header("content-encoding").lower()
    if encoding == "":
        return [Finding.ok("encoding", "none on what is compressed already")]
    if encoding in _PLAIN:
        return judge_encoding(answer, "the NAR")
    what = f"`Content-Encoding: {shown(encoding)}` on what is compressed already: no ranges, and work for nothing"
    remedy = "exclude application/x-nix-nar and .nar.* from the compression of the web server or proxy"
    return [Finding.warning("encoding", what, remedy)]
