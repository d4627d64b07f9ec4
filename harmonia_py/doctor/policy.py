"""The `[policy]` table: whether it leaves anything to serve, and what it and the rest say against each other."""

import random
from collections.abc import Sequence
from functools import partial
from typing import Final

from harmonia_py.cache.policy import BuiltHere, Policy, SignedBy
from harmonia_py.config import Config
from harmonia_py.doctor.finding import Finding, in_thread
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import StorePath
from harmonia_py.store.given_roots import read_roots
from harmonia_py.store.metadata import StoreMetadata

_NAME: Final = "policy"
# A daemon answers thousands of such questions a second.
_MOST_ASKED: Final = 500


def judge(config: Config, ours: Sequence[PublicKey]) -> list[Finding]:
    """What can be told without looking at any path; `ours` are the keys that this cache signs with."""
    table = config.policy
    findings = []
    for upstream in config.upstream if table.serve in ("signed", "ultimate") else ():
        if table.serve == "ultimate" or not set(upstream.keys) & set(table.keys):
            reason = "was not built here" if table.serve == "ultimate" else "is not signed by one of public_keys"
            what = f'serve = "{table.serve}" hides all that {upstream.label} has: it {reason}'
            findings.append(Finding.warning(_NAME, what, "add its keys to public_keys, or take out the upstream"))
    if table.serve == "signed" and set(ours) & set(table.keys):
        what = (
            "public_keys has a key of this cache, whose own signatures do not count: paths are looked at as they came"
        )
        remedy = "fine where whoever builds signs with it too (secret-key-files in nix.conf); take it out otherwise"
        findings.append(Finding.warning(_NAME, what, remedy))
    return findings


async def look_at_roots(config: Config) -> list[Finding]:
    """Where `roots` lead."""
    findings: list[Finding] = []
    found: set[StorePath] = set()
    for place in config.policy.roots:
        roots = await in_thread(partial(read_roots, [place], config.store_dir, config.real_store))
        found |= roots
        if not roots:
            remedy = "name a store path, a link to one, or a directory of such links"
            findings.append(Finding.warning(_NAME, f"roots: {place}: leads to no store path", remedy))
    if not found:
        return [*findings, Finding.failure(_NAME, "roots: lead to nothing, so nothing is served", "mend their names")]
    return [*findings, Finding.ok(_NAME, f"roots: {len(found)} store paths, and what they need")]


async def look_at_paths(config: Config, metadata: StoreMetadata, names: Sequence[StorePath]) -> list[Finding]:
    """Whether what is in the store may be served; `names` are of paths that are there."""
    policy = _policy(config)
    wanted = [name for name in names if not name.is_derivation]
    if policy is None or not wanted:
        return []
    asked = random.sample(wanted, min(_MOST_ASKED, len(wanted)))
    infos = [info for name in asked if (info := await metadata.path_info(name.hash_part)) is not None]
    allowed = sum([await policy.allows(info) for info in infos])
    what = f'serve = "{config.policy.serve}": {allowed} of {len(infos)} paths that were looked at are served'
    if infos and not allowed:
        remedy = "`nix path-info --sigs PATH` shows who signed a path" if config.policy.keys else 'serve = "everything"'
        return [Finding.failure(_NAME, what, f"{remedy}; docs/how-to/private.md has examples")]
    return [Finding.ok(_NAME, what)]


def _policy(config: Config) -> Policy | None:
    """The one that looks at each path for itself."""
    if config.policy.serve == "signed":
        return SignedBy(config.policy.keys, config.store_dir)
    return BuiltHere() if config.policy.serve == "ultimate" else None
