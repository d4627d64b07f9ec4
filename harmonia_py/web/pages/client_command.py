"""The command with which a client gets a path from this cache: it works with any Nix as it comes."""

import shlex
from collections.abc import Sequence


def realise(full_path: str, url: str, keys: Sequence[str]) -> str:
    """`nix-store --realise` for a path, from the cache at `url`, whose paths carry signatures of one of `keys`."""
    lines = [f"nix-store --realise {full_path}", f"--option extra-substituters {url}"]
    if keys:
        lines.append(f"--option extra-trusted-public-keys {shlex.quote(' '.join(keys))}")
    return " \\\n  ".join(lines)
