import json
from pathlib import Path
from urllib.parse import urljoin

import pytest
from plain_store import PlainStore
from trees import File, Folder, Link, Tree, nar

BUILD_ID = "02623eda209c26a59b1a8638ff7752f6b945c26b"


def debug(*build_ids: str) -> Folder:
    """The tree of a debug output."""
    firsts: dict[bytes, Tree] = {}
    for build_id in build_ids:
        firsts[build_id[:2].encode()] = Folder({f"{build_id[2:]}.debug".encode(): File(b"\x7fELF")})
    return Folder({b"lib": Folder({b"debug": Folder({b".build-id": Folder(firsts)})})})


@pytest.fixture
def store(tmp_path: Path) -> PlainStore:
    return PlainStore(tmp_path)


@pytest.mark.parametrize("suffix", ["", ".debug"])
async def test_it_names_a_nar_of_this_cache_and_the_place_in_it(store: PlainStore, suffix: str) -> None:
    store.add("plain", Folder({b"lib": File()}))
    tree = debug(BUILD_ID)
    store.add("program-debug", tree)
    target = f"/debuginfo/{BUILD_ID}{suffix}"
    async with store.site() as site:
        answer = await site.get(target)
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "application/json"
        found = json.loads(answer.body)
        assert found["member"] == "lib/debug/.build-id/02/623eda209c26a59b1a8638ff7752f6b945c26b.debug"
        assert found["archive"].endswith(".nar")
        assert (await site.get(urljoin(target, found["archive"]))).body == nar(tree)
        assert (await site.get(target, If_None_Match=answer.headers["ETag"])).status == 304
        head = await site.request("HEAD", target)
        assert head.headers["Content-Length"] == str(len(answer.body))


@pytest.mark.parametrize(
    "name",
    ["", BUILD_ID[:-1], BUILD_ID + "0", BUILD_ID.upper(), f"{BUILD_ID}.debug.debug", f"{BUILD_ID}.exe", "..%2f"],
)
async def test_what_is_no_build_id_is_not_here_and_not_searched_for(store: PlainStore, name: str) -> None:
    store.add("program-debug", debug(BUILD_ID))
    async with store.site() as site:
        assert (await site.get(f"/debuginfo/{name}")).status == 404
    assert store.asked == []


async def test_only_valid_paths_and_regular_files_count(store: PlainStore) -> None:
    store.add("hidden-debug", debug(BUILD_ID), valid=False)
    outside = store.real.parent / "outside"
    outside.mkdir()
    (outside / f"{BUILD_ID[2:]}.debug").write_bytes(b"secret")
    first = Folder({b".build-id": Folder({b"02": Link(str(outside).encode())})})
    member = Folder({f"{BUILD_ID[2:]}.debug".encode(): Link(b"/etc/passwd"), b"x.debug": File()})
    store.add("a-debug", Folder({b"lib": Folder({b"debug": first})}))
    store.add("b-debug", Folder({b"lib": Folder({b"debug": Folder({b".build-id": Folder({b"02": member})})})}))
    store.add("c-debug", Folder({b"lib": Link(b"/usr/lib")}))
    store.add("d-debug", File())
    store.add("e-debug", Link(b"../outside"))
    async with store.site() as site:
        assert (await site.get(f"/debuginfo/{BUILD_ID}")).status == 404
