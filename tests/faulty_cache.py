"""A binary cache made of bytes that is good in every respect, until a test breaks one.

async with faulty_cache() as cache:          # one package, signed, with ranges, HEAD, Date
    cache.answers["/nix-cache-info"] = …     # see fault_upstream
    findings = await look(cache, cache.package)
"""

import email.utils
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from fault_upstream import KEY, Connection, FaultUpstream, Package, Speak, body, package

from harmonia_py.commands.doctor.client_view import ClientView
from harmonia_py.commands.doctor.finding import Finding, Verdict, findings_of
from harmonia_py.commands.doctor.remote import Remote
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import HashPart, StoreDir

CACHE_INFO: Final = b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n"
KEYS: Final = (KEY.public_key,)
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d*)")


def now() -> str:
    return email.utils.formatdate(usegmt=True)


def ranged(data: bytes, **headers: str) -> Speak:
    """A file as a web server has it."""

    async def speak(connection: Connection) -> None:
        every = {"Accept_Ranges": "bytes", "Content_Type": "application/x-nix-nar"} | headers
        match = _RANGE.fullmatch(connection.request.headers.get("range", ""))
        if match is None:
            await connection.respond(data, **every)
        elif int(match[1]) >= len(data):
            await connection.respond(b"", 416, Content_Range=f"bytes */{len(data)}")
        else:
            start, stop = int(match[1]), int(match[2] or len(data) - 1) + 1
            every["Content_Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            await connection.respond(data[start:stop], 206, **every)

    return speak


class FaultyCache(FaultUpstream):
    def __init__(self, one: Package) -> None:
        super().__init__()
        self.package = one
        self.answers["/nix-cache-info"] = body(CACHE_INFO, Content_Type="text/x-nix-cache-info", Date=now())
        self.say(one.narinfo_text)
        self.answers[f"/{one.path}"] = ranged(one.file)

    def say(self, narinfo: bytes, **headers: str) -> None:
        self.answers[f"/{self.package.hash_part}.narinfo"] = body(narinfo, Content_Type="text/x-nix-narinfo", **headers)


@asynccontextmanager
async def faulty_cache(compression: str = "zstd") -> AsyncIterator[FaultyCache]:
    async with FaultyCache(package(size=200_000, compression=compression)) as cache:
        yield cache


async def look(
    url: str,
    wanted: HashPart | None,
    *,
    keys: Sequence[PublicKey] = KEYS,
    store_dir: StoreDir | None = None,
    candidates: Sequence[HashPart] = (),
) -> list[Finding]:
    """All that the view of a client finds."""

    async def given() -> Sequence[HashPart]:
        return candidates

    found: list[Finding] = []
    async with Remote(url) as remote:
        view = ClientView(remote, store_dir=store_dir, keys=keys, hash_part=wanted, candidates=given)
        for check in view.checks():
            found += await findings_of(check)
    return found


def bad(findings: Sequence[Finding]) -> list[tuple[str, str, str]]:
    """Check, verdict and words of what is not well."""
    assert all((one.remedy is None) == (one.verdict is Verdict.OK) for one in findings)
    return [(one.check, one.verdict.value, one.what) for one in findings if one.verdict is not Verdict.OK]
