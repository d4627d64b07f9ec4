"""What handlers get at: the cache that a request is for, and the means to send it."""

from dataclasses import dataclass, field

from aiohttp import web

from harmonia_py.cache.access import Tokens
from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.lasting import Lasting
from harmonia_py.metrics.board import Board
from harmonia_py.web.clients import Clients
from harmonia_py.web.coding import Coding
from harmonia_py.web.hot_answers import ReadyAnswers
from harmonia_py.web.transfer import Transfers


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a cache is served, apart from what is in it.

    Attributes:
        coding: what is coded for clients that accept it.
        tokens: one of which a client needs; None when everybody may read.
    """

    coding: Coding = field(default_factory=Coding)
    tokens: Tokens | None = None


class Serving:
    """The one mutable cell of a worker: a reload puts another cache here, and requests that run keep theirs."""

    def __init__(self, cache: BinaryCache, rules: Rules | None = None) -> None:
        self.cache = cache
        self.rules = rules or Rules()
        self.answers = ReadyAnswers(self.rules.tokens)

    def remember(
        self,
        cache: BinaryCache,
        target: str,
        coding: str | None,
        response: web.Response,
        lasting: Lasting | None,
    ) -> None:
        """Let `response`, made from what `cache` says, be given again; unless that is not the cache here any more."""
        if cache is self.cache:
            self.answers.add(target, coding, response, lasting)

    def replace(self, cache: BinaryCache, rules: Rules | None = None) -> None:
        """Serve `cache` from the next request on, by `rules` or as before."""
        self.cache = cache
        self.rules = rules or self.rules
        self.answers.clear(self.rules.tokens)


SERVING = web.AppKey("serving", Serving)
CLIENTS = web.AppKey("clients", Clients)
TRANSFERS = web.AppKey("transfers", Transfers)
BOARD = web.AppKey("board", Board)


def cache_of(request: web.Request) -> BinaryCache:
    """The cache this request is for. Handlers ask here and nowhere else: tenants will be a change of this function."""
    return request.app[SERVING].cache
