"""A cache as its clients see it: any cache, from outside, one question after the other."""

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from aiohttp import hdrs

from harmonia_py.commands.doctor import cache_info, certificate, nar, narinfo
from harmonia_py.commands.doctor.absence import judge_absent, judge_malformed
from harmonia_py.commands.doctor.finding import Check, Finding, NoAnswer, Verdict, shown
from harmonia_py.commands.doctor.remote import Remote
from harmonia_py.errors import FormatError
from harmonia_py.nix.base32 import encode
from harmonia_py.nix.narinfo import MAX_NARINFO_SIZE, NarInfo
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import HashPart, StoreDir

Candidates = Callable[[], Awaitable[Sequence[HashPart]]]

_PAGE_LIMIT: Final = 1024 * 1024
_ASK_SECONDS: Final = 30.0
_SEARCH_SECONDS: Final = 45.0
_NAR_SECONDS: Final = 180.0
# A path that the check chooses is small; one that the user names may be large.
_CHOSEN_NAR_BYTES: Final = 64 * 1024 * 1024
_CHANGE_SECONDS: Final = 3.0
# A file must have this many bytes for the checks of ranges and of resuming to mean something.
_TELLING_NAR_BYTES: Final = 100_000
_MOST_CANDIDATES: Final = 40
_MOST_REFERENCES: Final = 10
_HASH_PART_BYTES: Final = 20
_OURS: Final = re.compile(rb"harmonia-py \S+\s*")
_SLOW: Final = "it hangs, or is far too slow: look at its load, and at the network between"


class ClientView:
    """The checks of one cache, each from a client's side.

    Args:
        remote: the cache, which the caller has entered.
        store_dir: of the clients; None when it is not known.
        keys: that the clients trust; none for not known.
        hash_part: of the path to try; None to find one.
        candidates: paths that the cache may have.
    """

    def __init__(
        self,
        remote: Remote,
        *,
        store_dir: StoreDir | None,
        keys: Sequence[PublicKey],
        hash_part: HashPart | None,
        candidates: Candidates,
    ) -> None:
        self._remote = remote
        self._store_dir = store_dir
        self._keys = keys
        self._hash_part = hash_part
        self._candidates = candidates
        self._is_cache = False
        self._cache_dir = store_dir or StoreDir.parse("/nix/store")
        self._narinfo: NarInfo | None = None

    def checks(self) -> Sequence[Check]:
        """The checks, in the order in which they must run; one without the results that it needs finds nothing."""
        return (
            Check("connection", self._look_at_cache_info, _ASK_SECONDS, _SLOW),
            Check("certificate", self._look_at_certificate, _ASK_SECONDS, _SLOW),
            Check("narinfo", self._look_at_narinfo, _SEARCH_SECONDS, _SLOW),
            Check("references", self._look_at_references, _ASK_SECONDS, _SLOW),
            Check("NAR", self._look_at_nar, _NAR_SECONDS, "choose a smaller path with --path; " + _SLOW),
            Check("absent path", self._look_at_absence, _ASK_SECONDS, _SLOW),
            Check("keep-alive", self._look_at_keep_alive, _ASK_SECONDS, _SLOW),
            Check("reverse proxy", self._look_at_proxy, _ASK_SECONDS, _SLOW),
        )

    async def _look_at_cache_info(self) -> Sequence[Finding]:
        answer, later = await cache_info.ask(self._remote)
        info = cache_info.parse(answer)
        self._is_cache = info is not None
        if info is not None:
            # The other checks go by the cache's own store directory, also where it is not the clients'.
            self._cache_dir = info.store_dir
        return [
            *cache_info.judge_way(answer, later, self._remote.url),
            *narinfo.judge_encoding(answer, "nix-cache-info"),
            *cache_info.judge(answer, self._store_dir),
            *([cache_info.judge_priority(info.priority)] if info is not None else []),
            *cache_info.judge_clock(answer),
        ]

    async def _look_at_certificate(self) -> Sequence[Finding]:
        parts = urlsplit(self._remote.url)
        if not self._is_cache or parts.scheme != "https":
            return ()
        try:
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 443, ssl=self._remote.tls or True)
        except OSError:
            return ()  # a proxy leads there; other errors have been reported by the check before
        try:
            return certificate.judge(writer.get_extra_info("peercert") or {}, time.time())
        finally:
            writer.transport.abort()

    async def _look_at_narinfo(self) -> Sequence[Finding]:
        if not self._is_cache:
            return ()
        if self._hash_part is not None:
            return await self._judge_narinfo(self._hash_part)
        candidates = list(await self._candidates())[:_MOST_CANDIDATES]
        chosen, chosen_size = None, -1
        for hash_part in candidates:
            size = await self._nar_size(hash_part)
            if size is not None and chosen_size < size <= _CHOSEN_NAR_BYTES:
                chosen, chosen_size = hash_part, size
            if chosen_size >= _TELLING_NAR_BYTES:
                break
        if chosen is not None:
            return await self._judge_narinfo(chosen)
        count = len(candidates)
        where = f"of {count} paths of this machine's store it has none" if candidates else "there is no store here"
        what = f"{where}, so NARs and signatures were not tested"
        return [Finding.warning("narinfo", what, "name a path that the cache has: --path /nix/store/…")]

    async def _nar_size(self, hash_part: HashPart) -> int | None:
        answer = await self._remote.ask(f"{hash_part}.narinfo", MAX_NARINFO_SIZE)
        if answer.status != HTTPStatus.OK:
            return None
        try:
            return NarInfo.parse(answer.body, self._cache_dir).path_info.nar_size
        except FormatError:
            return _TELLING_NAR_BYTES  # it is chosen, and the report then says why it does not parse

    async def _judge_narinfo(self, hash_part: HashPart) -> Sequence[Finding]:
        url = f"{hash_part}.narinfo"
        answer = await self._remote.ask(url, MAX_NARINFO_SIZE)
        if answer.status != HTTPStatus.OK:
            remedy = "choose a path that the cache has with --path, or look at its log"
            return [Finding.failure("narinfo", f"of {hash_part}: the answer is {answer.status}", remedy)]
        findings = narinfo.judge_encoding(answer, "the narinfo")
        if findings:
            return findings
        judgement = narinfo.judge(answer.body, hash_part, self._cache_dir)
        self._narinfo = judgement.narinfo
        if self._narinfo is None:
            return judgement.findings
        return [
            *judgement.findings,
            narinfo.judge_signatures(self._narinfo, self._keys, self._cache_dir),
            await self._compare_head(url),
        ]

    async def _compare_head(self, url: str) -> Finding:
        for is_last in (False, True):
            get = await self._remote.ask(url, MAX_NARINFO_SIZE)
            head = await self._remote.ask(url, 0, method=hdrs.METH_HEAD)
            finding = narinfo.judge_head(get, head, "narinfo")
            if finding.verdict is Verdict.OK or is_last:
                break
            # The narinfo may just have changed, and servers keep ready answers for a few seconds.
            await asyncio.sleep(_CHANGE_SECONDS)
        return finding

    async def _look_at_references(self) -> Sequence[Finding]:
        if self._narinfo is None:
            return ()
        info = self._narinfo.path_info
        references = [one for one in info.references if one != info.store_path][:_MOST_REFERENCES]
        missing = []
        for reference in references:
            answer = await self._remote.ask(f"{reference.hash_part}.narinfo", 0, method=hdrs.METH_HEAD)
            if answer.status != HTTPStatus.OK:
                missing.append(reference)
        if missing:
            what = f"{len(missing)} of {len(references)} are not there, such as {missing[0]}"
            remedy = "clients need another cache for them; copy the whole closure: `nix copy --to`"
            return [Finding.warning("references", what, remedy)]
        count = len(references)
        return [Finding.ok("references", f"{count} of {count} are there")] if references else ()

    async def _look_at_nar(self) -> Sequence[Finding]:
        return () if self._narinfo is None else await nar.look_at(self._remote, self._narinfo)

    async def _look_at_absence(self) -> Sequence[Finding]:
        if not self._is_cache:
            return ()
        findings: list[Finding] = []
        for method in (hdrs.METH_GET, hdrs.METH_HEAD):
            # Another one each time: a proxy in between may remember the answer for the first.
            absent = encode(secrets.token_bytes(_HASH_PART_BYTES))
            findings += judge_absent(await self._remote.ask(f"{absent}.narinfo", 1024, method=method), method)
        malformed = await self._remote.ask("not-a-hash.narinfo", 1024)
        return [*findings, judge_malformed(malformed)]

    async def _look_at_keep_alive(self) -> Sequence[Finding]:
        if not self._is_cache:
            return ()
        if await self._remote.connections_for_two("nix-cache-info") == 1:
            return [Finding.ok("keep-alive", "connections are used again")]
        what = "each request needs a connection of its own, and each of those a handshake"
        return [Finding.warning("keep-alive", what, "let server and proxy keep connections (nginx: keepalive_timeout)")]

    async def _look_at_proxy(self) -> Sequence[Finding]:
        """Whether a harmonia-py knows under which URL requests reach it; nothing for another server."""
        if not self._is_cache:
            return ()
        try:
            version = await self._remote.ask("version", 1024)
            if version.status != HTTPStatus.OK or _OURS.fullmatch(version.body) is None:
                return ()
            page = await self._remote.ask("", _PAGE_LIMIT, headers={hdrs.ACCEPT: "text/html"})
        except NoAnswer:
            return ()
        return judge_page(page.body, self._remote.url)


def judge_page(page: bytes, url: str) -> list[Finding]:
    """Whether the page for people names the URL by which it was reached: a proxy has to pass that on."""
    name = "reverse proxy"
    if url.lower().encode() in page.lower():
        return [Finding.ok(name, "the page for people names the right URL")]
    what = f"the page for people does not name {shown(url)}"
    remedy = "pass Host and X-Forwarded-Proto on (nginx: proxy_set_header Host $host; …), or set base_url"
    return [Finding.warning(name, what, remedy)]
