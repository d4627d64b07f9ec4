"""`/nix-cache-info` judged: every client reads it first, and keeps it for a week."""

import email.utils
import time
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from harmonia_py.commands.doctor.finding import Finding, shown
from harmonia_py.commands.doctor.remote import Answer, Remote
from harmonia_py.errors import FormatError
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.store_path import StoreDir

NIXOS_PRIORITY: Final = 40
_SLOW_SECONDS: Final = 1.0
_LIMIT: Final = 64 * 1024
# TLS certificates, signed URLs and tokens are valid for minutes around the time of their making.
_SKEW_SECONDS: Final = 60.0
_DEFAULT_STORE_DIR: Final = StoreDir.parse("/nix/store")
_FIELDS: Final = ("StoreDir:", "WantMassQuery:", "Priority:")


async def ask(remote: Remote) -> tuple[Answer, Answer]:
    """The answer, and a second one where the first came late: the first connection may have started the service.

    Raises:
        NoAnswer: there is none.
    """
    answer = await remote.ask("nix-cache-info", _LIMIT)
    return answer, await remote.ask("nix-cache-info", _LIMIT) if answer.seconds > _SLOW_SECONDS else answer


def parse(answer: Answer) -> CacheInfo | None:
    """The `nix-cache-info` in the answer; None when there is none."""
    if answer.status != HTTPStatus.OK or not answer.whole:
        return None
    try:
        return CacheInfo.parse(answer.body, _DEFAULT_STORE_DIR)
    except FormatError:
        return None


def judge(answer: Answer, store_dir: StoreDir | None) -> list[Finding]:
    """Whether a client with the store directory `store_dir` (None: not known) can use a cache with this answer."""
    if answer.status != HTTPStatus.OK:
        return [_no_cache(answer.status)]
    if not answer.whole:
        return [Finding.failure("nix-cache-info", "is far too long", "see what is served there: it has three lines")]
    try:
        info = CacheInfo.parse(answer.body, _DEFAULT_STORE_DIR)
    except FormatError as error:
        return [Finding.failure("nix-cache-info", f"does not parse: {error}", "see what is served there: it is text")]
    text = answer.body.decode(errors="replace")
    if not any(field in text for field in _FIELDS):
        remedy = "the URL ends before the path of the cache, or another site answers there; it must say `StoreDir:`"
        return [Finding.failure("nix-cache-info", f"says something else: {shown(text)!r}", remedy)]
    mass = "" if info.want_mass_query else ", no mass queries"
    findings = [
        Finding.ok("nix-cache-info", f"StoreDir {info.store_dir}, priority {info.priority}{mass}, {_type(answer)}"),
        *_line_ends(text),
        *_judge_store_dir(info, store_dir),
    ]
    if answer.header("content-type").startswith("text/html"):
        remedy = "serve it as text/x-nix-cache-info; browsers would run what is in it"
        findings.append(Finding.warning("nix-cache-info", "its Content-Type is text/html", remedy))
    return findings


def judge_priority(priority: int) -> Finding:
    """The finding about the cache's priority beside cache.nixos.org, for a client that has both."""
    if priority < NIXOS_PRIORITY:
        what = f"{priority}: clients ask it before cache.nixos.org, which has {NIXOS_PRIORITY}"
        return Finding.ok("priority", what)
    order = "in no certain order with" if priority == NIXOS_PRIORITY else "after"
    what = f"{priority}: clients ask it {order} cache.nixos.org, which has {NIXOS_PRIORITY}"
    remedy = "where it is nearer to its clients, give it a smaller number; clients may, too: ?priority=30 in its URL"
    return Finding.warning("priority", what, remedy)


def judge_way(answer: Answer, later: Answer, url: str) -> list[Finding]:
    """The findings about the time of the first answer and of a later one, and about redirects from `url`."""
    milliseconds = later.seconds * 1000
    if later.seconds > _SLOW_SECONDS:
        remedy = "a closure is hundreds of such answers: look for a slow proxy, DNS, or a server far away"
        findings = [Finding.warning("connection", f"its answers take {milliseconds:.0f} ms", remedy)]
    else:
        first = f"; the first time in {answer.seconds * 1000:.0f} ms" if answer.seconds > _SLOW_SECONDS else ""
        findings = [Finding.ok("connection", f"it answers, in {milliseconds:.0f} ms{first}")]
    if answer.redirects:
        base = answer.url.removesuffix("/nix-cache-info")
        what = f"{url} redirects to {shown(base)}, for every file anew"
        findings.append(Finding.warning("redirect", what, f"put {shown(base)} into the clients' substituters"))
    return findings


def judge_clock(answer: Answer) -> list[Finding]:
    """The finding about the difference of this machine's clock and the server's; none when the answer has no date."""
    try:
        theirs = email.utils.parsedate_to_datetime(answer.header("date")).timestamp()
    except ValueError:
        return []
    skew = time.time() - theirs
    if abs(skew) <= _SKEW_SECONDS:
        return [Finding.ok("clock", "this machine's and the server's agree")]
    what = f"the server's is {abs(skew):.0f} seconds {'behind' if skew > 0 else 'ahead of'} this machine's"
    return [Finding.warning("clock", what, "let both be set by NTP: `timedatectl` says whether they are")]


def _no_cache(status: int) -> Finding:
    what = f"answers {status}"
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        remedy = (
            "it wants a token (--token-file), or a password: a netrc that $NETRC names here, and netrc-file for Nix"
        )
    elif status == HTTPStatus.NOT_FOUND:
        remedy = "no cache is at this URL; look for a missing path, or a proxy that passes on to another place"
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        remedy = "a proxy that cannot reach the cache behind it answers so; look at both logs"
    else:
        remedy = "it must answer 200 to every client that is to use it"
    return Finding.failure("nix-cache-info", what, remedy)


def _type(answer: Answer) -> str:
    return shown(answer.header("content-type")) or "no Content-Type"


def _line_ends(text: str) -> Sequence[Finding]:
    if "\r" not in text:
        return ()
    return [Finding.warning("nix-cache-info", "its lines end with carriage returns", "write it with Unix line ends")]


def _judge_store_dir(info: CacheInfo, store_dir: StoreDir | None) -> Sequence[Finding]:
    expected = store_dir or _DEFAULT_STORE_DIR
    if info.store_dir == expected:
        return ()
    what = f"its StoreDir is {shown(info.store_dir)}, not {expected}: Nix refuses to use it for another store"
    if store_dir is None:
        remedy = "right only for clients that have that store directory too: NIX_STORE_DIR says here what they have"
        return [Finding.failure("nix-cache-info", what, remedy)]
    return [Finding.failure("nix-cache-info", what, "set virtual_nix_store (StoreDir) to what the clients have")]
