"""One upstream of the configuration: whether it answers, fits our store, and signs with the keys that are trusted."""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from harmonia_py.commands.doctor import cache_info, narinfo
from harmonia_py.commands.doctor.client_view import Candidates
from harmonia_py.commands.doctor.finding import Finding, NoAnswer
from harmonia_py.commands.doctor.remote import Remote
from harmonia_py.commands.doctor.signing_keys import NIXOS_KEY
from harmonia_py.config.upstream_tables import Upstream
from harmonia_py.errors import ConfigError
from harmonia_py.nix.narinfo import MAX_NARINFO_SIZE
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import StoreDir
from harmonia_py.wiring.upstreams import place_of

_MOST_CANDIDATES: Final = 20


async def look_at(upstream: Upstream, store_dir: StoreDir, candidates: Candidates) -> list[Finding]:
    """The findings about an upstream, from the side of a mirror of it."""
    try:
        place = await asyncio.to_thread(place_of, upstream)
    except ConfigError as error:
        return [Finding.failure("upstream", str(error), "mend the file that the configuration names")]
    findings = judge_keys(upstream.keys)
    async with Remote(place.url, place.authorization, place.tls) as remote:
        try:
            answer, later = await cache_info.ask(remote)
        except NoAnswer as error:
            return [*findings, Finding.failure("connection", str(error), error.remedy)]
        findings += [
            *cache_info.judge_way(answer, later, remote.url),
            *cache_info.judge(answer, store_dir),
            *cache_info.judge_clock(answer),
        ]
        if cache_info.parse(answer) is not None:
            findings += await _look_at_signatures(remote, upstream.keys, store_dir, candidates)
    return findings


def judge_keys(keys: Sequence[PublicKey]) -> list[Finding]:
    """Whether there are public keys, and whether those of well-known names are the right ones."""
    if any(key.name == NIXOS_KEY.name and key != NIXOS_KEY for key in keys):
        what = f"the key {NIXOS_KEY.name} is not that of cache.nixos.org: none of its signatures would be good"
        return [Finding.failure("public_keys", what, f"write {NIXOS_KEY}, or leave public_keys out")]
    if not keys:
        what = "none: of what this upstream says, only what is its own proof is believed"
        return [Finding.warning("public_keys", what, "write down the public key that its operator names")]
    return []


async def _look_at_signatures(
    remote: Remote, keys: Sequence[PublicKey], store_dir: StoreDir, candidates: Candidates
) -> list[Finding]:
    tried = list(await candidates())[:_MOST_CANDIDATES]
    for hash_part in tried:
        answer = await remote.ask(f"{hash_part}.narinfo", MAX_NARINFO_SIZE)
        if answer.status != HTTPStatus.OK:
            continue
        judgement = narinfo.judge(answer.body, hash_part, store_dir)
        if judgement.narinfo is None:
            return judgement.findings
        return [*judgement.findings, narinfo.judge_signatures(judgement.narinfo, keys, store_dir)]
    # The upstream has none of our paths: the first path that is fetched is checked, and refused when it is not signed.
    return [Finding.ok("signature", f"not checked: it has none of {len(tried)} paths that are here")]
