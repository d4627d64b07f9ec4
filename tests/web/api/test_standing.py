"""Why a path is kept, by the API and on its page: the reasons, and what each client is told of them."""

import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from html import unescape
from pathlib import Path
from typing import Any, Final

import pytest
from catalogs import nar_file, publication, store_path
from msgspec.structs import replace
from plain_store import Site
from pushed_paths import STORE
from pushing import TEAM, PushServer, pushed_to

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.caches import Caches
from harmonia_py.cache.policy import Policy, SignedBy
from harmonia_py.catalog.caches import CacheId, CacheSettings, Timestamp, iso
from harmonia_py.catalog.collection import Reason
from harmonia_py.catalog.pins import PinName
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import StorePath
from harmonia_py.web.server import serve
from harmonia_py.web.state import Serving

DAY: Final = 86_400
APP: Final = store_path("app")
LIBC: Final = store_path("libc")
ABSENT: Final = store_path("absent")


class House:
    """The cache `team` keeps what was used within 30 days; in it is `app`, which references `libc`."""

    def __init__(self, server: PushServer, team: CacheId, now: Timestamp) -> None:
        self.server = server
        self.catalog = server.catalog
        self.team = team
        self.now = now

    async def publish(self, *, days_ago: int) -> Timestamp:
        at = Timestamp(self.now - days_ago * DAY)
        await self.catalog.objects.publish(publication(self.team, "libc"), now=at)
        await self.catalog.objects.publish(publication(self.team, "app", ["libc"]), now=at)
        return at

    async def status(self, path: StorePath, token: str | None) -> int:
        answer = await self.server.request("GET", f"/team/api/paths/{path.hash_part}", token=token)
        return answer.status

    async def told(self, path: StorePath, *, token: str = "reader") -> dict[str, Any]:
        answer = await self.server.get(f"/api/paths/{path.hash_part}", token=token)
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
        fields: dict[str, Any] = json.loads(answer.body)
        return fields

    async def page(self, path: StorePath) -> str:
        answer = await self.server.get(f"/path/{path.hash_part}")
        assert answer.status == 200
        return unescape(answer.body.decode())


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    settings = CacheSettings(keep_unused=30 * DAY, grace=3600)
    async with pushed_to(tmp_path, STORE, settings) as server:
        row = await server.catalog.caches.find(TEAM)
        assert row is not None
        yield House(server, row.id, Timestamp(int(time.time())))


async def test_a_pin_keeps_a_path_by_the_references_that_lead_to_it(house: House) -> None:
    await house.publish(days_ago=40)
    await house.catalog.pins.set(house.team, PinName("release"), APP, set_by="token secret-name", now=house.now)
    fields = await house.told(LIBC)
    assert (fields["state"], fields["by"], fields["name"]) == ("published", "pin", "release")
    assert (fields["chain"], fields["referrers"], fields["pins"]) == ([APP, LIBC], [APP], [])
    assert (await house.told(APP))["pins"] == ["release"]
    page = await house.page(LIBC)
    assert 'the pin <a href="../pin/release">release</a>' in page
    assert page.count(f'href="../path/{APP.hash_part}"') == 2, "as what leads to it, and as what references it"
    assert "secret-name" not in page + json.dumps(fields)


async def test_the_last_use_keeps_a_path_for_so_long(house: House) -> None:
    used = await house.publish(days_ago=10)
    fields = await house.told(APP)
    assert (fields["by"], fields["keep_unused"], fields["goes"]) == ("use", 30 * DAY, None)
    assert (fields["used"], fields["used_until"]) == (iso(used), iso(Timestamp(used + 30 * DAY)))
    assert "a use within 30 days" in await house.page(APP)


async def test_a_path_that_nothing_keeps_is_kept_by_a_look_at_its_page(house: House) -> None:
    await house.publish(days_ago=40)
    assert (await house.told(APP))["by"] is None
    assert "nothing kept it; opening this page counts as a use" in await house.page(APP)


async def test_the_api_tells_when_a_condemned_path_goes_and_does_not_revive_it(house: House) -> None:
    await house.publish(days_ago=40)
    await house.catalog.collection.condemn(
        house.team, {APP.hash_part}, Reason.UNUSED, unused_since=house.now, now=house.now
    )
    for _ in range(2):
        fields = await house.told(APP)
        assert (fields["state"], fields["by"], fields["used_until"]) == ("condemned", None, None)
        assert fields["goes"] == iso(Timestamp(house.now + 3600))
    await house.page(APP)
    assert (await house.told(APP))["state"] == "published", "a visitor of the page counts on what it links"


async def test_a_push_under_way_is_told_without_its_id(house: House) -> None:
    await house.publish(days_ago=40)
    await house.catalog.objects.present(house.team, "secret-run", [APP.hash_part], now=house.now)
    fields = await house.told(APP)
    assert (fields["by"], fields["name"], fields["pushes"]) == ("session", "", 1)
    page = await house.page(APP)
    assert "a push that is under way" in page
    assert "secret-run" not in page + json.dumps(fields)


async def test_a_path_that_waits_is_told_only_to_a_token_that_may_push(house: House) -> None:
    await house.catalog.objects.publish(publication(house.team, "app", ["libc"]), now=house.now)
    fields = await house.told(APP, token="pusher")
    assert (fields["state"], fields["waits_for"]) == ("waiting", [LIBC.hash_part])
    assert [await house.status(path, "reader") for path in (APP, LIBC)] == [404, 404]


async def test_a_path_that_waits_keeps_what_it_references(house: House) -> None:
    """Nothing kept it, said the page, the API and `why-kept`, and no collection condemned it."""
    await house.publish(days_ago=40)
    waiting = publication(house.team, "secret", ["app", "later"])
    await house.catalog.objects.publish(waiting, now=house.now)
    fields = await house.told(LIBC)
    assert (fields["by"], fields["name"], fields["chain"]) == ("waiting", "", [APP, LIBC])
    assert fields["referrers"] == [APP]
    page = await house.page(LIBC)
    assert "waits for other references" in page
    assert waiting.path_info.store_path.hash_part not in page + json.dumps(fields)
    condemned = await house.catalog.collection.condemn(
        house.team, {APP.hash_part, LIBC.hash_part}, Reason.UNUSED, unused_since=house.now, now=house.now
    )
    assert not condemned.objects


async def test_a_path_that_waits_is_no_named_referrer(house: House) -> None:
    await house.publish(days_ago=1)
    await house.catalog.objects.publish(publication(house.team, "secret", ["libc", "later"]), now=house.now)
    assert (await house.told(LIBC))["referrers"] == [APP]


async def test_a_referrer_that_is_hidden_for_a_lost_file_is_not_named_by_what_it_keeps(house: House) -> None:
    """The chain from the pin down to a path named paths that readers do not see: those whose file is quarantined."""
    await house.publish(days_ago=40)
    await house.catalog.pins.set(house.team, PinName("release"), APP, set_by="tests", now=house.now)
    await house.catalog.nars.quarantine(nar_file("app").file_hash, "gone", now=house.now)
    assert [await house.status(APP, token) for token in ("reader", "pusher")] == [404, 200]
    fields = await house.told(LIBC)
    assert (fields["by"], fields["chain"], fields["referrers"]) == ("pin", [LIBC], [])
    page = await house.page(LIBC)
    assert 'the pin <a href="../pin/release">release</a>' in page
    assert APP not in page + json.dumps(fields)


async def test_a_private_cache_tells_nothing_to_a_client_that_may_not_read_it(house: House) -> None:
    await house.publish(days_ago=1)
    for token, expected in (("stranger", 403), (None, 401), ("reader", 404)):
        assert await house.status(ABSENT, token) == expected
    assert await house.status(APP, "stranger") == 403
    assert await house.status(APP, None) == 401
    answer = await house.server.request("GET", f"/other/api/paths/{APP.hash_part}", token="stranger")
    assert answer.status == 404, "another cache has it, not this one"


@asynccontextmanager
async def served_under(policy: Policy, house: House) -> AsyncIterator[Site]:
    """The paths of `team` at `/`, as far as `policy` allows."""
    row = await house.catalog.caches.find(TEAM)
    assert row is not None
    node = house.server.node
    info = CacheInfo(STORE, want_mass_query=True, priority=30)
    caches = Caches(BinaryCache(cache_info=info, sources=[node.stored(row)], secret_keys=(), policy=policy))
    node.caches.take_pushes(caches.default, row)
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.setblocking(False)
        serving = Serving(caches, administration_of=node.caches.administration_of)
        async with serve(serving, [listener], access_log=None, shutdown_timeout=1.0):
            yield Site(listener.getsockname()[1])


async def test_a_path_that_a_policy_hides_is_neither_told_of_nor_named(house: House) -> None:
    """It may reference a path that the policy shows, and be what keeps it."""
    key = SecretKey.generate("ci-1")
    libc = publication(house.team, "libc")
    signature = key.sign(libc.path_info.fingerprint(STORE))
    signed = replace(libc, path_info=replace(libc.path_info, signatures=(signature,)))
    await house.catalog.objects.publish(signed, now=Timestamp(house.now - 40 * DAY))
    await house.publish(days_ago=40)
    await house.catalog.pins.set(house.team, PinName("release"), APP, set_by="tests", now=house.now)
    async with served_under(SignedBy([key.public_key], STORE), house) as site:
        answer = await site.get(f"/api/paths/{LIBC.hash_part}")
        fields = json.loads(answer.body)
        assert (fields["by"], fields["chain"], fields["referrers"]) == ("pin", [], [])
        page = await site.get(f"/path/{LIBC.hash_part}")
        assert (page.status, b"the pin" in page.body) == (200, True)
        assert APP.hash_part.encode() not in page.body + answer.body
        assert (await site.get(f"/api/paths/{APP.hash_part}")).status == 404
