import json
from pathlib import Path

import pytest
from plain_store import PlainStore
from trees import File, nar

from harmonia_py.nix.hashes import Hash


@pytest.fixture
def store(tmp_path: Path) -> PlainStore:
    return PlainStore(tmp_path)


async def test_it_says_the_same_as_the_narinfo(store: PlainStore) -> None:
    path = store.add("hello", File(b"hello"))
    async with store.site() as site:
        answer = await site.get(f"/{path.hash_part}.narinfo?json")
        text = await site.get(f"/{path.hash_part}.narinfo")
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.headers["ETag"] != text.headers["ETag"]
        value = json.loads(answer.body)
        assert value["version"] == 3
        assert value["storePath"] == path
        assert value["storeDir"] == store.store_dir
        assert value["narHash"] == Hash.of(nar(File(b"hello"))).sri
        assert value["references"] == []
        assert f"URL: {value['url']}\n".encode() in text.body
        assert (await site.get(f"/{path.hash_part}.narinfo?json", If_None_Match=answer.headers["ETag"])).status == 304


async def test_neither_form_is_given_for_the_other(store: PlainStore) -> None:
    """The text form is kept ready for some seconds, and must not answer what asks for JSON, nor the reverse."""
    path = store.add("hello", File(b"hello"))
    async with store.site() as site:
        for _ in range(2):
            for target, content_type in ((".narinfo?json", "application/json"), (".narinfo", "text/x-nix-narinfo")):
                answer = await site.get(f"/{path.hash_part}{target}")
                assert answer.headers["Content-Type"] == content_type


@pytest.mark.parametrize("target", [f"/{'0' * 32}.narinfo?json", "/x.narinfo?json"])
async def test_what_is_not_here_is_404_in_either_form(store: PlainStore, target: str) -> None:
    async with store.site() as site:
        answer = await site.get(target)
    assert (answer.status, answer.body) == (404, b"Not Found\n")
