"""The API of Attic as its client meets it: answers to the letter of atticd, and what is pushed by it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, Final, TypeVar

import pytest
from attic_client import EVERYTHING, SECRET, Answer, AtticClient, Path, make_token, of_pushed, secret_base64
from json_threads import note_threads
from pushed_paths import GLIBC, HELLO, PATH, REFERENCE, STORE, pushed
from pushing import TEAM, PushServer, pushed_to
from trees import File

from harmonia_py.attic.token_key import TokenKey
from harmonia_py.attic.tokens import AtticTokens
from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheSettings
from harmonia_py.nix.signing import PublicKey, SecretKey

T = TypeVar("T")

ZEROS: Final = "0" * 32
UNAUTHORIZED: Final = "Unauthorized: Unauthorized."
FORBIDDEN: Final = "AccessError: Access error: User does not have permission to complete this action."
NO_CACHE: Final = "NoSuchCache: The requested cache does not exist."


@dataclass
class Attic:
    """A server, and its clients in threads: they wait as the real one does."""

    server: PushServer

    async def __call__(self, do: Callable[[AtticClient], T], token: str | None = None, **caches: Any) -> T:
        """What `do` gives of a client whose token is `token`, or is for `caches`."""
        token = make_token("alice", caches) if token is None and caches else token
        client = AtticClient(f"http://127.0.0.1:{self.server.port}", token)
        return await asyncio.to_thread(do, client)

    async def ask(self, method: str, *arguments: Any, token: str | None, **options: Any) -> Answer:
        """The answer to a method of the client."""
        client = AtticClient(f"http://127.0.0.1:{self.server.port}", token)
        answer: Answer = await asyncio.to_thread(getattr(client, method), *arguments, **options)
        return answer

    async def upload(self, path: Path, cache: str = TEAM, **options: Any) -> Answer:
        return await self(lambda client: client.upload(cache, path, **options), team={"r": 1, "w": 1})

    async def is_there(self, path: Path) -> bool:
        """Whether readers of `team` see it."""
        answer = await self.server.get(
            f"/{path.store_path.hash_part}.narinfo", token=make_token("x", {"team": {"r": 1}})
        )
        assert answer.status in (200, 404)
        return answer.status == 200


@pytest.fixture
async def attic(tmp_path: FilePath) -> AsyncIterator[Attic]:
    tokens = AtticTokens(TokenKey.parse_hs256_secret(secret_base64()))
    async with pushed_to(tmp_path, STORE, attic=tokens) as server:
        yield Attic(server)


async def test_a_cache_as_atticd_answers_it(attic: Attic) -> None:
    """Recorded with atticd b7c9056."""
    rights: dict[str, Any] = {"alice-x": {"r": 1, "w": 1, "cc": 1}}
    created = await attic(lambda client: client.create("alice-x"), **rights)
    assert (created.status, created.body) == (200, b"")
    config = await attic(lambda client: client.config("alice-x"), **rights)
    body = config.json
    key = PublicKey.parse(body.pop("public_key"))
    assert key.name == "alice-x"
    url = f"http://127.0.0.1:{attic.server.port}"
    assert body == {
        "substituter_endpoint": f"{url}/alice-x",
        "api_endpoint": f"{url}/",
        "is_public": False,
        "store_dir": "/nix/store",
        "priority": 41,
        "upstream_cache_key_names": ["cache.nixos.org-1"],
        "retention_period": "Global",
    }
    missing = await attic(lambda client: client.missing("alice-x", [ZEROS]), **rights)
    assert missing.json == {"missing_paths": [ZEROS]}
    for change in (lambda client: client.patch("alice-x", {"priority": 3}), lambda client: client.destroy("alice-x")):
        refused = await attic(change, **rights)
        assert (refused.status, refused.error) == (403, FORBIDDEN)


async def test_what_a_token_learns_of_a_cache_that_it_may_not_use(attic: Attic) -> None:
    absent = await attic(lambda client: client.config("main"), main={"r": 1})
    assert (absent.status, absent.error) == (404, NO_CACHE)
    for token in (None, make_token("alice", {"main": {"r": 1}})):
        for name in ("team", "nope"):
            for method, *arguments in (
                ("config", name),
                ("create", name),
                ("configure", name),
                ("destroy", name),
                ("missing", name, [ZEROS]),
                ("upload", name, of_pushed(GLIBC)),
            ):
                refused = await attic.ask(method, *arguments, token=token)
                assert (refused.status, refused.error) == (401, UNAUTHORIZED)


async def test_a_cache_is_configured_and_destroyed(attic: Attic) -> None:
    await attic(lambda client: client.create("mine"), mine=EVERYTHING)
    changes = {"is_public": True, "priority": 20, "upstream_cache_key_names": ["a-1", "b-1"]}
    week = {"Period": 604_800}
    assert (await attic(lambda c: c.configure("mine", retention_period=week, **changes), mine=EVERYTHING)).body == b""
    told = (await attic(lambda client: client.config("mine"))).json  # public: without a token
    assert {name: told[name] for name in changes} == changes
    assert told["retention_period"] == week
    row = await attic.server.catalog.caches.find(CacheName("mine"))
    assert row is not None
    assert row.settings.keep_unused == 604_800
    # The client says "Global" unless it is told another period.
    await attic(lambda client: client.configure("mine", priority=21), mine=EVERYTHING)
    told = (await attic(lambda client: client.config("mine"))).json
    assert (told["retention_period"], told["priority"], told["is_public"]) == ("Global", 21, True)
    assert (await attic(lambda client: client.destroy("mine"), mine=EVERYTHING)).status == 200
    assert (await attic(lambda client: client.config("mine"))).error == UNAUTHORIZED
    assert (await attic(lambda client: client.config("mine"), mine=EVERYTHING)).error == NO_CACHE
    entries = await attic.server.catalog.audit.page(None, 100)
    assert [(entry.principal, entry.action) for entry in entries if entry.cache == "mine"] == [
        ("token alice", "cache.create"),
        ("token alice", "cache.configure"),
        ("token alice", "cache.configure"),
        ("token alice", "cache.delete"),
    ]


async def test_retention_takes_a_right_of_its_own(attic: Attic) -> None:
    for body, rights, status in (
        ({"priority": 9}, {"cr": 1}, 200),
        ({"priority": 9, "retention_period": "Global"}, {"cr": 1}, 403),
        ({"retention_period": {"Period": 60}}, {"cr": 1, "cq": 1}, 200),
        ({"retention_period": {"Period": 60}}, {"cq": 1}, 403),
        ({"retention_period": {"Period": -1}}, {"cr": 1, "cq": 1}, 400),
        ({"retention_period": {"Period": 2**32}}, {"cr": 1, "cq": 1}, 400),
        ({"retention_period": "Forever"}, {"cr": 1, "cq": 1}, 400),
        ({}, {"cr": 1, "cq": 1}, 400),
    ):
        answer = await attic.ask("patch", "team", body, token=make_token("alice", {"team": rights}))
        assert answer.status == status, (body, answer.body)


async def test_a_key_that_the_client_brings_signs(attic: Attic) -> None:
    key = SecretKey.generate("brought-1")
    given = {"Keypair": key.format()}
    assert (await attic(lambda client: client.create("mine", keypair=given), mine=EVERYTHING)).status == 200
    told = await attic(lambda client: client.config("mine"), mine=EVERYTHING)
    assert told.json["public_key"] == str(key.public_key)
    # `--regenerate-keypair` says that the old one is to sign no more.
    assert (await attic(lambda client: client.configure("mine", keypair="Generate"), mine=EVERYTHING)).status == 200
    told = await attic(lambda client: client.config("mine"), mine=EVERYTHING)
    assert told.json["public_key"].startswith("mine:")
    assert (await attic(lambda client: client.configure("mine", keypair="Generate"), mine=EVERYTHING)).status == 200
    told = await attic(lambda client: client.config("mine"), mine=EVERYTHING)
    assert told.json["public_key"].startswith("mine-2:")
    again = await attic(lambda client: client.configure("mine", keypair=given), mine=EVERYTHING)
    assert (again.status, again.json["error"]) == (400, "RequestError")
    assert key.format().partition(":")[2] not in again.body.decode()


async def test_what_cannot_become_a_cache(attic: Attic) -> None:
    again = await attic(lambda client: client.create("team"), team=EVERYTHING)
    assert (again.status, again.error) == (400, "CacheAlreadyExists: The cache already exists.")
    star = make_token("alice", {"*": EVERYTHING})
    for name in ("default", "metrics", "_api", "a" * 51, "-a", "te%20am", "..%2fteam", "a%0ab"):
        answer = await attic.ask("create", name, token=star)
        assert (answer.status, answer.json["code"]) == (400, 400), name
    for fields in (
        {"store_dir": "/gnu/store"},
        {"priority": -1},
        {"priority": "1"},
        {"upstreams": ["a\nb"]},
        {"upstreams": ["a"] * 101},
        {"keypair": {"Keypair": "no key"}},
        {"keypair": {"Keypair": "a:b", "more": 1}},
        {"keypair": "Borrow"},
    ):
        answer = await attic.ask("create", "mine", token=star, **fields)
        assert (answer.status, answer.json["error"]) == (400, "RequestError"), fields
    assert (await attic(lambda client: client.config("mine"), star)).error == NO_CACHE


async def test_a_declared_cache_is_changed_in_its_file(attic: Attic) -> None:
    await attic.server.catalog.caches.create(
        CacheName("fixed"), CacheSettings(), declared=True, now=attic.server.node.now()
    )
    for change in (
        lambda client: client.configure("fixed", priority=1),
        lambda client: client.configure("fixed", keypair="Generate"),
        lambda client: client.destroy("fixed"),
        lambda client: client.configure("default", priority=1),
    ):
        answer = await attic(change, make_token("alice", {"*": EVERYTHING}))
        assert answer.status == 400, answer.body
        assert "the configuration file" in answer.error


@pytest.mark.parametrize("force_preamble", [False, True])
async def test_a_path_is_published(attic: Attic, force_preamble: bool) -> None:  # noqa: FBT001
    path = of_pushed(GLIBC)
    answer = await attic.upload(path, force_preamble=force_preamble)
    assert answer.status == 200, answer.body
    assert answer.json["kind"] == "Uploaded"
    assert await attic.is_there(path)
    again = await attic.upload(path, force_preamble=force_preamble)
    assert again.json == {"kind": "Deduplicated", "file_size": answer.json["file_size"], "frac_deduplicated": None}
    narinfo = await attic.server.get(f"/{REFERENCE.hash_part}.narinfo", token=make_token("x", {"*": {"r": 1}}))
    lines = narinfo.body.decode().splitlines()
    assert f"NarHash: {GLIBC.claim.path_info.nar_hash}" in lines
    assert "Compression: zstd" in lines
    assert f"FileSize: {answer.json['file_size']}" in lines


async def test_a_preamble_is_not_read_in_the_event_loop(attic: Attic, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a megabyte of brackets, during which nothing else was answered."""
    threads = note_threads(monkeypatch, REFERENCE)
    assert (await attic.upload(of_pushed(GLIBC), force_preamble=True)).status == 200
    assert threads
    assert threading.main_thread() not in threads


async def test_a_path_comes_before_its_reference(attic: Attic) -> None:
    """The client sends paths in no order: none is refused, and readers see none before its closure is whole."""
    hello, glibc = of_pushed(HELLO), of_pushed(GLIBC)
    hashes = [PATH.hash_part, REFERENCE.hash_part]
    asked = await attic(lambda client: client.missing("team", hashes), team={"w": 1})
    assert sorted(asked.json["missing_paths"]) == sorted(hashes)
    assert (await attic.upload(hello)).status == 200
    assert not await attic.is_there(hello)
    # What waits is sent again when its client asks again.
    assert PATH.hash_part in (await attic(lambda c: c.missing("team", hashes), team={"w": 1})).json["missing_paths"]
    assert (await attic.upload(glibc)).status == 200
    assert await attic.is_there(hello)
    assert (await attic(lambda client: client.missing("team", hashes), team={"w": 1})).json == {"missing_paths": []}


async def test_what_an_upstream_has_signed_is_not_waited_for(attic: Attic) -> None:
    """The client leaves out what carries a key of the list: the reference never came, and the path waited in vain."""
    names = {"upstream_cache_key_names": ["cache.nixos.org-1"]}
    await attic(lambda client: client.patch("team", names), team=EVERYTHING)
    glibc = of_pushed(GLIBC).claiming(sigs=(str(SecretKey.generate("cache.nixos.org-1").sign(b"")),))
    answers = await attic(lambda client: client.push("team", [of_pushed(HELLO), glibc]), team={"r": 1, "w": 1})
    assert {path: answer.status for path, answer in answers.items()} == {PATH: 200}
    assert await attic.is_there(of_pushed(HELLO))


async def test_a_signature_that_is_none_is_left_out(attic: Attic) -> None:
    """A store took a word that is no signature from a cache, as Nix does, and the path could not be pushed at all."""
    good = str(SecretKey.generate("builder-1").sign(b""))
    assert (
        await attic.upload(of_pushed(GLIBC).claiming(sigs=("nonsense", "key:AAAA", f"{good}/../x", good)))
    ).status == 200
    answer = await attic.server.get(f"/{REFERENCE.hash_part}.narinfo", token=make_token("x", {"team": {"r": 1}}))
    assert f"Sig: {good}".encode() in answer.body
    assert not any(word in answer.body for word in (b"nonsense", b"key:AAAA", b"../x"))


async def test_what_a_client_announces_is_waited_for_also_where_upstreams_are_named(attic: Attic) -> None:
    names = {"upstream_cache_key_names": ["cache.nixos.org-1"]}
    await attic(lambda client: client.patch("team", names), team=EVERYTHING)
    hashes = [PATH.hash_part, REFERENCE.hash_part]
    await attic(lambda client: client.missing("team", hashes), team={"w": 1})
    assert (await attic.upload(of_pushed(HELLO))).status == 200
    assert not await attic.is_there(of_pushed(HELLO))
    assert (await attic.upload(of_pushed(GLIBC))).status == 200
    assert await attic.is_there(of_pushed(HELLO))


async def test_two_clients_push_one_path_at_once(attic: Attic) -> None:
    data = pushed(REFERENCE, File(bytes(range(256)) * 8192))
    path = of_pushed(data)
    answers = await asyncio.gather(*(attic.upload(path) for _ in range(4)))
    assert [answer.status for answer in answers] == [200] * 4
    assert await attic.is_there(path)


async def test_the_first_nar_of_a_path_stays(attic: Attic) -> None:
    """Builds that are not reproducible: an error would stop nothing but the push."""
    assert (await attic.upload(of_pushed(GLIBC))).status == 200
    other = of_pushed(pushed(REFERENCE, File(b"another build")))
    assert (await attic.upload(other)).status == 200
    narinfo = await attic.server.get(f"/{REFERENCE.hash_part}.narinfo", token=make_token("x", {"*": {"r": 1}}))
    assert str(GLIBC.claim.path_info.nar_hash) in narinfo.body.decode()


async def test_a_public_cache_is_read_with_a_token_that_has_expired(attic: Attic) -> None:
    """`attic use` writes the token into netrc, where it stays when it has expired; atticd ignores it."""
    await attic(lambda client: client.patch("team", {"is_public": True}), team=EVERYTHING)
    token = make_token("alice", {"team": EVERYTHING}, exp=1_700_000_000)
    assert (await attic.server.get("/nix-cache-info", token=token)).status == 200
    assert (await attic(lambda client: client.config("team"), token)).status == 200
    refused = await attic(lambda client: client.upload("team", of_pushed(GLIBC)), token)
    expected = "Unauthorized: the token alice expired on 2023-11-14 22:13:20+00:00; ask for another one."
    assert (refused.status, refused.error) == (401, f"Unauthorized: {expected}")
    put = await attic.server.put("/nix-cache-info", b"StoreDir: /nix/store\n", token=token)
    assert (put.status, put.body) == (401, f"{expected[:-1]}\n".encode())
    await attic(lambda client: client.patch("team", {"is_public": False}), team=EVERYTHING)
    assert (await attic.server.get("/nix-cache-info", token=token)).status == 401


async def test_a_client_without_a_token_may_not_ask_what_is_missing_in_a_public_cache(attic: Attic) -> None:
    """Nor is its question read, which may be of 4 MiB."""
    await attic(lambda client: client.patch("team", {"is_public": True}), team=EVERYTHING)
    refused = await attic(lambda client: client.missing("team", [ZEROS]))
    assert (refused.status, refused.error) == (401, UNAUTHORIZED)
    refused = await attic(lambda client: client.missing("team", ["no hash part"]))
    assert (refused.status, refused.error) == (401, UNAUTHORIZED)


async def test_a_token_that_may_read_learns_that_it_may_not_push(attic: Attic) -> None:
    """It was told that it is no token at all, by get-missing-paths, which is what `attic push` asks first."""
    reader = make_token("alice", {"team": {"r": 1}})
    for refused in (
        await attic.ask("missing", "team", [ZEROS], token=reader),
        await attic.ask("upload", "team", of_pushed(GLIBC), token=reader),
        await attic.ask("upload", "team", of_pushed(GLIBC), token=reader, force_preamble=True),
    ):
        assert (refused.status, refused.error) == (403, FORBIDDEN)


async def test_a_cache_below_its_own_url_has_errors_in_the_same_shape(attic: Attic) -> None:
    """Refusals of the gate, which stands before the handler, were a line of text there."""
    place = "/team/attic-cache-info"
    told = await attic(lambda client: client.request("GET", place), team={"r": 1})
    assert told.json == (await attic(lambda client: client.config("team"), team={"r": 1})).json
    unknown = await attic(lambda client: client.request("GET", place))
    assert (unknown.status, unknown.error) == (401, UNAUTHORIZED)
    absent = await attic(lambda client: client.request("GET", "/main/attic-cache-info"), main={"r": 1})
    assert (absent.status, absent.error) == (404, NO_CACHE)
    longer = f"/{'x' * 51}/attic-cache-info"
    assert (await attic(lambda client: client.request("GET", longer), team={"r": 1})).json["error"] == "RequestError"
    wrong = await attic(lambda client: client.request("DELETE", place), team=EVERYTHING)
    assert (wrong.status, wrong.json["code"]) == (403, 403)  # of the gate


async def test_the_exact_name_takes_rights_away(attic: Attic) -> None:
    rights = {"*": {"r": 1}, "team": {"w": 1}}
    token = make_token("alice", rights)
    assert (await attic.server.get("/nix-cache-info", token=token)).status == 403
    assert (await attic(lambda client: client.config("team"), token)).error == FORBIDDEN
    assert (await attic(lambda client: client.upload("team", of_pushed(GLIBC)), token)).status == 200


async def test_questions_that_are_none(attic: Attic) -> None:
    pusher = make_token("alice", {"team": {"w": 1}})
    for hashes in (["zz"], [ZEROS, "e" * 32], [f"{ZEROS}\n"], [ZEROS.upper() + "0"]):
        answer = await attic.ask("missing", "team", hashes, token=pusher)
        assert (answer.status, answer.json["error"]) == (400, "RequestError"), hashes
    twice = await attic(lambda client: client.missing("team", [ZEROS] * 3), team={"w": 1})
    assert twice.json == {"missing_paths": [ZEROS]}
    for body in (b"", b"[]", b'{"cache": "team"}', b'{"cache": "team", "store_path_hashes": [1]}', b"\xff"):
        answer = await attic.ask("request", "POST", "/_api/v1/get-missing-paths", body, token=pusher)
        assert (answer.status, answer.json["code"]) == (400, 400), body


async def test_nothing_is_answered_where_it_is_not_switched_on(tmp_path: FilePath) -> None:
    async with pushed_to(tmp_path, STORE) as server:
        client = AtticClient(f"http://127.0.0.1:{server.port}", "pusher")
        for ask in (
            lambda: client.config("team"),
            lambda: client.missing("team", [ZEROS]),
            lambda: client.upload("team", of_pushed(GLIBC)),
            lambda: client.request("GET", "/team/attic-cache-info"),
        ):
            answer = await asyncio.to_thread(ask)
            assert (answer.status, answer.json["error"]) == (404, "NotFound")
        unknown = await asyncio.to_thread(client.request, "GET", "/_api/v1/nothing")
        assert unknown.error == "AccessError: Forbidden: the token pusher does not allow to read the cache default"


async def test_a_token_of_this_server_works_with_attics_client_as_well(attic: Attic) -> None:
    """Who moves has both kinds for a while."""
    assert (await attic(lambda client: client.upload("team", of_pushed(GLIBC)), "pusher")).status == 200
    assert SECRET.hex() not in repr(attic.server)


async def test_a_deeply_nested_body_is_refused(attic: Attic) -> None:
    """It was a 500 and a traceback."""
    body = b'{"x": ' + b"[" * 5_000
    token = make_token("alice", {TEAM: EVERYTHING})
    answer = await attic.ask("request", "PATCH", f"/_api/v1/cache-config/{TEAM}", body, token=token)
    assert answer.status == 400
    assert answer.error.startswith("RequestError: ")
