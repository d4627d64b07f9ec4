"""What is asked of each cache is counted for that cache, whichever way the answer is given."""

from serving import ABSENT, PATH, FakeSource, Served
from teams import served_teams
from waiting import eventually

from harmonia_py.cache.usage import CacheUsage

NARINFO = f"{PATH.hash_part}.narinfo"


async def counts(usage: CacheUsage, found: int, absent: int) -> bool:
    """Whether it counts so many; an answer has arrived a moment before it is counted."""
    await eventually(lambda: usage.found.value + usage.absent.value >= found + absent)
    return (usage.found.value, usage.absent.value) == (found, absent)


async def test_narinfos_are_counted_for_their_cache_by_whichever_way_they_leave() -> None:
    async with served_teams() as served:
        token = "Authorization: Bearer reader"
        await served.get(f"/team/{NARINFO}", {"Authorization": "Bearer reader"})  # the framework parses it
        await served.ask(f"/team/{NARINFO}", token)  # ready
        await served.ask(f"/team/{ABSENT}.narinfo", token)  # it has to be looked for
        await served.get(f"/team/{ABSENT}.narinfo", {"Authorization": "Bearer reader"})
        etag = {"Authorization": "Bearer reader", "If-None-Match": "*"}
        assert (await served.get(f"/team/{NARINFO}", etag)).status == 304
        await served.get(f"/open/{NARINFO}")
        await served.get(f"/team/{NARINFO}")  # refused: it tells nothing of the cache
        await served.get("/team/nix-cache-info", {"Authorization": "Bearer reader"})
        assert await counts(served.teams.usages["team"], 3, 2)
        assert await counts(served.teams.usages["open"], 1, 0)
        assert await counts(served.serving.caches.default.usage, 0, 0)


async def test_a_narinfo_that_is_surely_absent_is_counted() -> None:
    async with Served(FakeSource(), lacks=lambda _: True) as served:
        for _ in range(2):
            assert (await served.ask(f"/{ABSENT}.narinfo")).status == 404
        assert await counts(served.serving.caches.default.usage, 0, 2)
