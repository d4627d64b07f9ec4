"""What handlers get at: the cache that a request is for, and the means to send it."""

from aiohttp import web

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.metrics.board import Board
from harmonia_py.web.hot_answers import ReadyAnswers
from harmonia_py.web.transfer import Transfers


class Serving:
    """The one mutable cell of a worker: a reload puts another cache here, and requests that run keep theirs."""

    def __init__(self, cache: BinaryCache) -> None:
        self.cache = cache
        self.answers = ReadyAnswers()

    def replace(self, cache: BinaryCache) -> None:
        """Serve `cache` from the next request on."""
        self.cache = cache
        self.answers.clear()


SERVING = web.AppKey("serving", Serving)
TRANSFERS = web.AppKey("transfers", Transfers)
BOARD = web.AppKey("board", Board)


def cache_of(request: web.Request) -> BinaryCache:
    """The cache this request is for. Handlers ask here and nowhere else: tenants will be a change of this function."""
    return request.app[SERVING].cache
