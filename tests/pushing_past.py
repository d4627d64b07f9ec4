"""A server that keeps files in a bucket, and a user whose large files go there without it.

for server in past(tmp_path, lab, bucket.url("kept"), bucket.endpoint, environment()):    # Past
    server.user.push(path)
    server.proxy.sent               # bytes that came to the server itself
    server.substitutes(path)        # whether stock Nix gets the path as it is
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from administering import Machine
from clients import User
from lab import Lab
from pushing_proxy import PushingProxy
from server import Server, settings_of

from harmonia_py.nix.store_path import StorePath

SIZE: Final = 5_000_000


def large_path(lab: Lab, directory: Path, size: int = SIZE) -> StorePath:
    """A path whose file is as long as its NAR."""
    file = directory / f"large-{size}"
    file.write_bytes(os.urandom(size))
    return lab.add(file)


class Past:
    """A server with a bucket, a user who pushes through a proxy that counts, and one who may read."""

    def __init__(self, root: Path, lab: Lab, server: Server, proxy: PushingProxy) -> None:
        self.lab = lab
        self.server = server
        self.proxy = proxy
        machine = Machine(root)
        self.token = machine.do("token", "create", "ci", "--cache", "team", "--allow", "read,push").strip()
        self.user = User(root / "ci", lab, proxy.url)
        self.user.run("login", proxy.url, self.token)

    def substitutes(self, path: StorePath) -> bool:
        """Whether stock Nix gets the path as it is."""
        client = self.lab.client(f"client-{path.hash_part}")
        pull = f"http://x:{self.token}@127.0.0.1:{self.server.port}/team"
        options = ("--option", "substituters", pull, "--option", "require-sigs", "false")
        client.nix_store("--realise", self.lab.full(path), "--max-jobs", "0", *options)
        return client.run("nix-store", "--dump", str(client.real(path))).stdout == self.lab.dump(path)


def past(root: Path, lab: Lab, url: str, public: str, env: dict[str, str], **storage: Any) -> Iterator[Past]:
    settings = settings_of(lab) | {
        "caches": {"team": {}},
        "storage": {
            "url": url,
            "public_endpoint": public.replace("127.0.0.1", "localhost"),
            "redirect_from": "never",
            "redirect_uploads_from": 1_000_000,
            **storage,
        },
    }
    with Server(root, lab.env | env, settings) as server, PushingProxy(server.port) as proxy:
        yield Past(root, lab, server, proxy)
