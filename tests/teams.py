"""Caches of teams, and tokens for them, beside the cache at `/` of a server of this process.

    async with served_teams() as served:      # a `TeamServer`; `/open` is public, `/team` and `/other` are not
        answer = await served.get("/team/nix-cache-info", {"Authorization": "Bearer reader"})
        served.tokens.revoke("reader")        # as another process does it: by the generation of access

Each cache has the path `serving.PATH`, with another NAR.
"""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from serving import FakeSource, Served

from harmonia_py.cache.access import Generation, Principal, grants_of
from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.cache_name import CacheName
from harmonia_py.cache.caches import NamedCache
from harmonia_py.cache.usage import CacheUsage
from harmonia_py.errors import NotAuthenticated, StorageError
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.store_path import StoreDir
from harmonia_py.web.admission.clients import Clients
from harmonia_py.web.state import ServingSettings

PUBLIC: Final = {"open": True, "team": False, "other": False}


def advance(generation: Generation) -> None:
    """Change the generation, as another process does when it has changed something."""
    generation.cells[0] = (generation.cells[0] | 1) + 1


class FakeTokens:
    """An `Authenticator`: tokens by name, which can be revoked.

    Attributes:
        asked: how often a token was looked up.
    """

    def __init__(self, generation: Generation) -> None:
        self.asked = 0
        self._generation = generation
        self._revoked: set[str] = set()
        self._tokens: dict[str, Principal] = {
            "reader": Principal("token reader", grants_of(["read"], ["team"])),
            "pusher": Principal("token pusher", grants_of(["read", "push"], ["team-*"])),
            "stranger": Principal("token stranger", grants_of(["read"], ["other"])),
            "admin": Principal("token admin", grants_of(["admin"], ["*"])),
        }

    def takes(self, token: str) -> bool:
        return "." not in token

    async def principal(self, token: str) -> Principal | None:
        self.asked += 1
        if token in self._revoked:
            raise NotAuthenticated(f"Unauthorized: the token {token} was revoked; ask for another one")
        found = self._tokens.get(token)
        if found is not None and time.time() >= found.expires:
            raise NotAuthenticated(f"Unauthorized: the token {token} has expired; ask for another one")
        return found

    def expire(self, token: str, at: float) -> None:
        before = self._tokens[token]
        self._tokens[token] = Principal(before.name, before.grants, expires=at)

    def revoke(self, token: str) -> None:
        self._revoked.add(token)
        advance(self._generation)


@dataclass
class Teams:
    """The caches that are declared, and what they have.

    Attributes:
        sources: of the caches, by name.
        asked: the names that were looked up, in order.
        made: the names of caches that were made, in order.
        broken: whether nobody can tell which caches there are.
        usages: what was asked of each cache, by name.
    """

    public: Mapping[str, bool]
    sources: dict[str, FakeSource] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    broken: bool = False
    usages: dict[str, CacheUsage] = field(default_factory=dict)

    async def find(self, name: CacheName) -> NamedCache | None:
        self.asked.append(name)
        if self.broken:
            raise StorageError("the catalog is away")
        if name not in self.public:
            return None
        self.sources.setdefault(name, FakeSource(nar_bytes=name.encode() * 100))
        usage = self.usages.setdefault(name, CacheUsage())
        return NamedCache(name, public=self.public[name], make=lambda: self._make(name), usage=usage)

    def _make(self, name: CacheName) -> BinaryCache:
        self.made.append(name)
        return BinaryCache(
            cache_info=CacheInfo(StoreDir("/nix/store"), want_mass_query=True, priority=len(name)),
            sources=[self.sources[name]],
            secret_keys=[],
        )


class TeamServer(Served):
    teams: Teams
    tokens: FakeTokens
    generation: Generation


@asynccontextmanager
async def served_teams(
    public: Mapping[str, bool] | None = None, *, clients: Clients | None = None
) -> AsyncIterator[TeamServer]:
    teams = Teams(dict(PUBLIC if public is None else public))
    generation = Generation()
    tokens = FakeTokens(generation)
    server = TeamServer(
        FakeSource(),
        settings=ServingSettings(authenticators=[tokens]),
        others=teams.find,
        generation=generation,
        clients=clients,
    )
    server.teams, server.tokens, server.generation = teams, tokens, generation
    async with server as served:
        yield served
