"""Symbolic links in store paths, made to read what is not in the store."""

import asyncio
import os
import socket
import threading
import time
from pathlib import Path
from typing import Self

import pytest
from plain_store import Answer, PlainStore, Site
from trees import File, Folder, Link

SECRET = b"the secret of this machine"


@pytest.fixture(params=["own", "chroot"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> PlainStore:
    """A store where its links say it is, and one whose links say `/nix/store`."""
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    return PlainStore(tmp_path, None if request.param == "own" else "/nix/store")


async def refused(site: Site, target: str) -> None:
    answer = await site.get(target)
    assert (answer.status, answer.body) == (404, b"Not Found\n"), target


async def test_a_link_out_of_the_store_leads_nowhere(store: PlainStore) -> None:
    secret = store.real.parent / "secret"
    own = os.fsencode(store.real)
    targets = [
        os.fsencode(secret),
        b"/etc/passwd",
        b"//etc/passwd",
        b"/./etc/./passwd",
        b"/proc/self/environ",
        b"/proc/self/root/etc/passwd",
        b"/dev/zero",
        b"../../secret",
        b"../../../../../../../../etc/passwd",
        b"./../.././secret",
        own + b"/../secret",
        store.store_dir.encode() + b"/../secret",
        store.store_dir.encode() + b"/../../etc/passwd",
        store.store_dir.encode() + b"x/secret",
        store.store_dir.encode() + b"/.links/x",
        store.store_dir.encode(),
        store.store_dir.encode() + b"/",
        b"..",
        b"../",
        b"/",
    ]
    path = store.add("evil", Folder({b"%d" % number: Link(target) for number, target in enumerate(targets)}))
    async with store.site() as site:
        for number in range(len(targets)):
            for after in ("", "/", "/secret", "/passwd", "/etc/passwd", "/."):
                await refused(site, f"/serve/{path.hash_part}/{number}{after}")


async def test_a_store_path_that_is_a_link_out_of_the_store_leads_nowhere(store: PlainStore) -> None:
    paths = [
        store.add(name, Link(target))
        for name, target in {
            "a": b"/etc",
            "b": b"../secret",
            "c": b"../outside",
            "d": b"/proc/self",
            "e": b".",
            "f": b"..",
            "g": b"/etc/passwd",
        }.items()
    ]
    async with store.site() as site:
        for path in paths:
            for place in ("", "/", "/passwd", "/secret", "/environ", "/cwd/"):
                await refused(site, f"/serve/{path.hash_part}{place}")


async def test_an_index_that_is_a_link_out_of_the_store_is_not_served(store: PlainStore) -> None:
    targets = [b"/etc/passwd", b"../../secret", b"/proc/self/environ", b"missing", b"index.html"]
    for number, target in enumerate(targets):
        path = store.add(f"site{number}", Folder({b"index.html": Link(target), b"other": File(b"other")}))
        async with store.site() as site:
            await refused(site, f"/serve/{path.hash_part}/index.html")
            answer = await site.get(f"/serve/{path.hash_part}/")
            # The directory itself is no secret.
            assert answer.status == 200
            assert b"other" in answer.body
            assert SECRET not in answer.body


async def test_links_inside_the_store_lead_where_the_kernel_would_lead(store: PlainStore) -> None:
    other = store.add("other", Folder({b"bin": Folder({b"tool": File(b"tool")}), b"back": Link(b"../top/../top/x")}))
    whole = store.add("whole", Link(b"../store/" + other.encode()))  # out of the store and in again: refused
    direct = store.add("direct", Link(store.full(other)))
    relative = store.add("relative", Link(other.encode()))
    path = store.add(
        "links",
        Folder(
            {
                b"absolute": Link(store.full(other) + b"/bin/tool"),
                b"slashes": Link(b"//" + store.full(other).lstrip(b"/").replace(b"/", b"//./") + b"/bin//tool"),
                b"directory": Link(store.full(other) + b"/bin"),
                b"up": Link(b"../" + other.encode() + b"/bin/tool"),
                b"sub": Folder({b"up": Link(b"../file"), b"here": Link(b"./.././sub/../file")}),
                b"file": File(b"file"),
                b"chain": Link(b"chain2"),
                b"chain2": Link(b"sub/up"),
                b"through": Link(b"directory/../bin/tool"),
                b"direct": Link(store.full(direct) + b"/bin/tool"),
                b"relative": Link(b"../" + relative.encode() + b"/bin/tool"),
            }
        ),
    )
    expected = {
        **dict.fromkeys(["absolute", "slashes", "directory/tool", "up", "through", "direct", "relative"], b"tool"),
        **dict.fromkeys(["sub/up", "sub/here", "chain", "chain2"], b"file"),
    }
    async with store.site() as site:
        for place, body in expected.items():
            answer = await site.get(f"/serve/{path.hash_part}/{place}")
            assert (answer.status, answer.body) == (200, body), place
        assert (await site.get(f"/serve/{direct.hash_part}/bin/tool")).body == b"tool"
        assert (await site.get(f"/serve/{relative.hash_part}/bin/tool")).body == b"tool"
        await refused(site, f"/serve/{whole.hash_part}/bin/tool")


async def test_a_link_that_demands_a_directory_does_not_get_a_file(store: PlainStore) -> None:
    links = {b"a": b"file/", b"b": b"file/.", b"c": b"file/..", b"d": b"file/../file", b"e": b"dir/../file"}
    entries = {name: Link(target) for name, target in links.items()}
    path = store.add("strict", Folder({b"file": File(b"file"), b"dir": Folder({}), **entries}))
    absolute = store.add("absolute", Folder({b"link": Link(store.full(path) + b"/file/")}))
    async with store.site() as site:
        for name in "abcd":
            await refused(site, f"/serve/{path.hash_part}/{name}")
        assert (await site.get(f"/serve/{path.hash_part}/e")).body == b"file"
        await refused(site, f"/serve/{absolute.hash_part}/link")


async def test_unregistered_paths_are_not_reached_through_valid_ones(store: PlainStore) -> None:
    hidden = store.add("hidden", Folder({b"secret": File(SECRET)}), valid=False)
    (store.real / ".links").mkdir()
    (store.real / ".links" / "x").write_bytes(SECRET)
    (store.real / "stray").write_bytes(SECRET)
    # The hash part of a valid path under another name is another path.
    valid = store.add("valid", File(b"valid"))
    (store.real / f"{valid.hash_part}-fake").write_bytes(SECRET)
    targets = {
        b"a": store.full(hidden) + b"/secret",
        b"b": b"../" + hidden.encode() + b"/secret",
        b"c": b"../.links/x",
        b"d": b"../stray",
        b"e": b"../" + valid.hash_part.encode() + b"-fake",
        b"f": store.full(valid) + b"/../" + hidden.encode() + b"/secret",
        b"g": b"../" + hidden.encode(),
        b"h": store.full(hidden) + b".lock",
    }
    path = store.add("evil", Folder({name: Link(target) for name, target in targets.items()}))
    async with store.site() as site:
        for name in targets:
            await refused(site, f"/serve/{path.hash_part}/{name.decode()}")
            await refused(site, f"/serve/{path.hash_part}/{name.decode()}/secret")


async def test_a_chain_through_other_paths_may_come_back_but_not_leave(store: PlainStore) -> None:
    first = store.add("first", Folder({b"end": File(b"end")}))
    second = store.add("second", Folder({b"back": Link(store.full(first) + b"/end"), b"out": Link(b"../../secret")}))
    third = store.add(
        "third",
        Folder(
            {
                b"back": Link(store.full(second) + b"/back"),
                b"out": Link(b"../" + second.encode() + b"/out"),
                b"round": Link(b"../" + second.encode() + b"/../third/end"),
            }
        ),
    )
    async with store.site() as site:
        assert (await site.get(f"/serve/{third.hash_part}/back")).body == b"end"
        await refused(site, f"/serve/{third.hash_part}/out")
        await refused(site, f"/serve/{third.hash_part}/round")


async def test_loops_and_long_chains_end(store: PlainStore) -> None:
    loops = {b"self": b"self", b"a": b"b", b"b": b"a", b"in": b"in/deeper", b"dot": b"./dot", b"up": b"../up"}
    chain = {b"l%d" % number: b"l%d" % (number + 1) for number in range(60)}
    path = store.add(
        "loops",
        Folder({name: Link(target) for name, target in (loops | chain).items()} | {b"l60": File(b"end")}),
    )
    everywhere = store.add("everywhere", Folder({b"x": Link(b"/".join([b"."] * 2000) + b"/x")}))
    async with store.site() as site:
        for name in loops:
            await refused(site, f"/serve/{path.hash_part}/{name.decode()}")
        await refused(site, f"/serve/{path.hash_part}/l0")  # sixty links; the kernel follows forty
        assert (await site.get(f"/serve/{path.hash_part}/l20")).body == b"end"
        await refused(site, f"/serve/{everywhere.hash_part}/x")


async def test_one_request_cannot_make_thousands_of_questions_to_the_daemon(store: PlainStore) -> None:
    """One link with many `..` led through a hundred store paths, and each was asked for."""
    paths = [store.add(f"n{number}", Folder({})) for number in range(80)]
    tour = b"/../".join(path.encode() for path in paths)
    path = store.add("tour", Folder({b"x": Link(b"../" + tour[:4000].rpartition(b"/../")[0])}))
    async with store.site() as site:
        store.asked.clear()
        await refused(site, f"/serve/{path.hash_part}/x/")
        assert len(store.asked) <= 100


async def test_special_files_are_neither_opened_nor_shown(store: PlainStore, tmp_path: Path) -> None:
    links = {b"to-fifo": Link(b"fifo"), b"index.html": Link(b"fifo")}
    path = store.add("special", Folder({b"plain": File(b"plain"), **links}))
    directory = store.real / path
    os.mkfifo(directory / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        # The path of a Unix socket is short: bind below a short name.
        here = os.open(directory, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
        names = ["fifo", "socket", "to-fifo"]
        if os.geteuid() == 0:
            os.mknod(directory / "device", 0o600 | 0o020000, os.makedev(1, 5))  # /dev/zero
            names.append("device")
        fifo = store.add("a-fifo", File())
        (store.real / fifo).unlink()
        os.mkfifo(store.real / fifo)
        async with store.site() as site:
            async with asyncio.timeout(90):
                for name in names:
                    await refused(site, f"/serve/{path.hash_part}/{name}")
                await refused(site, f"/serve/{fifo.hash_part}")
                page = (await site.get(f"/serve/{path.hash_part}/")).body
    assert b"plain" in page
    assert b'href="fifo"' not in page
    assert b'href="socket"' not in page
    assert b'href="device"' not in page


class Swapper:
    """Exchanges files in the store many times during each request, in threads, until the context ends."""

    def __init__(self, *swaps: tuple[Path, Path]) -> None:
        self._swaps = swaps
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=swap) for swap in swaps]
        self.rounds = 0

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, one: Path, two: Path) -> None:
        spare = one.with_name(f"{one.name}.spare")
        while not self._stop.is_set():
            one.rename(spare)
            two.rename(one)
            spare.rename(two)
            self.rounds += 1
            time.sleep(0.0001)  # a thread that keeps the interpreter's lock lets requests take ten times as long


async def test_a_link_that_is_swapped_in_during_the_request_never_leads_out(store: PlainStore) -> None:
    """A builder that may write into the store exchanges a file, its directory and its path with links to a secret."""
    path = store.add(
        "race",
        Folder(
            {
                b"dir": Folder({b"secret": File(b"harmless"), b"dir": Folder({b"secret": File(b"harmless")})}),
                b"dir-link": Link(os.fsencode(store.real.parent / "outside")),
                b"file": File(b"harmless"),
                b"file-link": Link(os.fsencode(store.real.parent / "secret")),
                b"link": Link(b"dir/secret"),
                b"link-link": Link(b"../../secret"),
                b"pipe": File(b"harmless"),
            }
        ),
    )
    root = store.real / path
    os.mkfifo(root / "pipe-pipe")
    places = ["dir/secret", "dir/", "file", "link", "pipe", "dir/dir/secret"]
    others = {"dir": "dir-link", "file": "file-link", "link": "link-link", "pipe": "pipe-pipe"}
    swaps = [(root / name, root / other) for name, other in others.items()]
    async with store.site() as site:

        async def attack(place: str) -> list[Answer]:
            return [await site.get(f"/serve/{path.hash_part}/{place}") for _ in range(120)]

        with Swapper(*swaps) as swapper:
            answers = [answer for some in await asyncio.gather(*map(attack, places)) for answer in some]
            async with asyncio.timeout(90):
                while swapper.rounds < 1000:
                    answers += await attack(places[0])
    assert not any(SECRET in answer.body for answer in answers)
    assert {answer.status for answer in answers} <= {200, 302, 404}
    # Otherwise nothing was tried.
    assert any(answer.body == b"harmless" for answer in answers)
    assert any(answer.status == 404 for answer in answers)
