"""The `[policy]` table: whether it leaves anything to serve, and whether other settings contradict it."""

import random
from collections.abc import Sequence
from functools import partial
from typing import Final

from harmonia_py.cache.policy import BuiltHere, Policy, SignedBy
from harmonia_py.commands.doctor.finding import Finding, in_thread
from harmonia_py.config.settings import Config
from harmonia_py.nix.signing import PublicKey
from harmonia_py.nix.store_path import StorePath
from harmonia_py.store.metadata import StoreMetadata
from harmonia_py.store.roots_file import read_roots_file

_NAME: Final = "policy"
# A daemon answers thousands of such questions a second.
_MOST_ASKED: Final = 500


def judge(config: Config, ours: Sequence[PublicKey]) -> list[Finding]:
    """The findings that need no look at any path; `ours` are the keys that this cache signs with."""
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
        remedy = "fine where the builders sign with it too (secret-key-files in nix.conf); take it out otherwise"
        findings.append(Finding.warning(_NAME, what, remedy))
    return findings


async def look_at_roots(config: Config) -> list[Finding]:
    """The store paths to which `roots` lead."""
    findings: list[Finding] = []
    found: set[StorePath] = set()
    for place in config.policy.roots:
        roots = await in_thread(partial(read_roots_file, [place], config.store_dir, config.real_store))
        found |= roots
        if not roots:
            remedy = "name a store path, a link to one, or a directory of such links"
            findings.append(Finding.warning(_NAME, f"roots: {place}: leads to no store path", remedy))
    if not found:
        return [*findings, Finding.failure(_NAME, "roots: lead to nothing, so nothing is served", "mend their names")]
    return [*findings, Finding.ok(_NAME, f"roots: {len(found)} store paths, and what they need")]


async def look_at_paths(config: Config, metadata: StoreMetadata, names: Sequence[StorePath]) -> list[Finding]:
    """Whether the policy allows paths of the store; `names` are of paths that are there."""
    policy = _policy(config)
    outputs = [name for name in names if not name.is_derivation]
    if policy is None or not outputs:
        return []
    sample = random.sample(outputs, min(_MOST_ASKED, len(outputs)))
    infos = [info for name in sample if (info := await metadata.path_info(name.hash_part)) is not None]
    allowed = sum([await policy.allows(info) for info in infos])
    what = f'serve = "{config.policy.serve}": {allowed} of {len(infos)} paths that were looked at are served'
    if infos and not allowed:
        remedy = "`nix path-info --sigs PATH` shows its signers" if config.policy.keys else 'serve = "everything"'
        return [Finding.failure(_NAME, what, f"{remedy}; docs/how-to/private.md has examples")]
    return [Finding.ok(_NAME, what)]


def _policy(config: Config) -> Policy | None:
    """The configured policy, when it decides by looking at each path for itself; None when it does not."""
    if config.policy.serve == "signed":
        return SignedBy(config.policy.keys, config.store_dir)
    return BuiltHere() if config.policy.serve == "ultimate" else None
