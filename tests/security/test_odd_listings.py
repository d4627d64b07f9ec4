"""Listings that an upstream made up: they are JSON from outside, and the page of a path shows what can be shown."""

import asyncio
import json
import os
from pathlib import Path
from typing import Final

from fault_upstream import KEY, FaultUpstream, body, package
from server import Server

FILE: Final = {"type": "regular", "size": 1, "narOffset": 96}


def tree(entries: object) -> bytes:
    return json.dumps({"version": 1, "root": {"type": "directory", "entries": entries}}).encode()


def deep(levels: int) -> bytes:
    return b'{"version":1,"root":' + b'{"type":"directory","entries":{"d":' * levels + b"{}" + b"}}" * levels + b"}"


ODD: Final = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b'{"version":1}',
    b'{"version":1,"root":7}',
    b'{"version":1,"root":{"type":"device"}}',
    b'{"version":1,"root":{"type":"regular","size":"7","narOffset":1}}',
    b'{"version":1,"root":{"type":"regular","size":1e400,"narOffset":1}}',
    b'{"version":1,"root":{"type":"regular","size":-1,"narOffset":1}}',
    b'{"version":1,"root":{"type":"symlink","target":{}}}',
    b'{"version":1,"root":{"type":"directory","entries":{"\\ud800":{"type":"symlink","target":"x"}}}}',
    tree(7),
    tree({"": FILE}),
    tree({"..": FILE}),
    tree({"a/b": FILE}),
    tree({"a": {"type": "directory"}}),
    deep(100),
    deep(50_000),
    b"\xff\xfe",
]


async def test_an_odd_listing_is_not_shown_and_its_path_has_a_page_all_the_same(tmp_path: Path) -> None:
    """The page took whatever JSON it got for a tree of ours, and answered 500 to what was none."""
    async with FaultUpstream() as upstream:
        paths = [package(number) for number in range(len(ODD) + 1)]
        upstream.serve(*paths)
        for path, listing in zip(paths, [*ODD, tree({"good-file": FILE})], strict=True):
            upstream.answers[f"/{path.hash_part}.ls"] = body(listing)
        values = {
            "daemon_socket": "/nowhere/socket",
            "real_nix_store": "/nowhere/store",
            "upstream": [{"url": upstream.url, "public_keys": [str(KEY.public_key)]}],
        }
        server = Server(tmp_path, os.environ, values)
        await asyncio.to_thread(server.__enter__)
        try:
            pages = [await asyncio.to_thread(server.get, f"/path/{path.hash_part}") for path in paths]
        finally:
            await asyncio.to_thread(server.stop)
    assert [page.status for page in pages] == [200] * len(paths)
    assert [b"good-file" in page.body for page in pages] == [False] * len(ODD) + [True]
