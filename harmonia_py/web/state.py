"""The state for handlers: the cache that a request is for, its principal, and the means to send an answer."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from aiohttp import web
from msgspec import Struct, field

from harmonia_py.cache.access import Authenticator, Generation, Principal
from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.cache_name import DEFAULT
from harmonia_py.cache.caches import Caches, NamedCache
from harmonia_py.cache.checks import Check
from harmonia_py.cache.validity import Validity
from harmonia_py.errors import PushRefused
from harmonia_py.metrics.board import Board
from harmonia_py.web.admission.authorization import Principals
from harmonia_py.web.admission.clients import Clients
from harmonia_py.web.fast.ready_answers import ReadyAnswers
from harmonia_py.web.http.coding import Coding
from harmonia_py.web.http.transfer import Transfers

if TYPE_CHECKING:  # a server that takes no pushes does not import them
    from harmonia_py.catalog.administration import CacheAdministration
    from harmonia_py.catalog.cache_changes import CacheChanges
    from harmonia_py.catalog.exchange import TokenExchange
    from harmonia_py.push.pushes import Pushes


_TAKES_NONE: Final = (
    "nothing can be pushed to the cache at /: its harmonia.toml has no table [caches.default], or there is no "
    "nix-daemon to take it into the store"
)

ChangesOf = Callable[[], "CacheChanges | None"]
"""The changes of caches by the API; None where there is no catalog."""


class ServingSettings(Struct, frozen=True, kw_only=True):
    """The settings with which all caches are served.

    Attributes:
        coding: of bodies, for clients that accept it.
        authenticators: know the principals behind credentials; without any, credentials are not looked at.
        base_url: the URL of the cache at `/`, where that is configured.
        checks: the checks of `/ready`: of everything that has to work for this server to be of use.
        attic: with what clients of Attic make and change caches; None where they are not answered.
        exchange: exchanges tokens of issuers for tokens of this server; None where no issuer is known.
    """

    coding: Coding = field(default_factory=Coding)
    authenticators: Sequence[Authenticator] = ()
    base_url: str | None = None
    checks: Sequence[Check] = ()
    attic: ChangesOf | None = None
    exchange: "TokenExchange | None" = None


PushesOf = Callable[[NamedCache], "Pushes | None"]

AdministrationOf = Callable[[NamedCache], "CacheAdministration | None"]


def _none(_cache: NamedCache) -> None:
    return None


class Serving:
    """The one mutable cell of a worker: a reload puts other caches here, and requests that run keep theirs.

    Args:
        caches: the caches that are served.
        settings: how they are served.
        generation: changes when something that was allowed may be allowed no longer.
        pushes_of: the pushes of a cache; None where nothing can be pushed.
        administration_of: finds the administration of a cache; None for one that takes no pushes.
    """

    def __init__(
        self,
        caches: Caches,
        settings: ServingSettings | None = None,
        generation: Generation | None = None,
        pushes_of: PushesOf = _none,
        administration_of: AdministrationOf = _none,
    ) -> None:
        self.generation = generation or Generation()
        self.caches = caches
        self.pushes_of = pushes_of
        self.administration_of = administration_of
        self.settings = settings or ServingSettings()
        self.principals = Principals(self.settings.authenticators)
        self.answers = ReadyAnswers(self.generation, caches, self.principals, self.forget_what_is_old)

    def forget_what_is_old(self) -> None:
        """Forget what was found out under an older generation of access: principals, caches, and ready answers.

        It is called before a request is let in.
        """
        if self.generation.has_changed():
            self.principals.forget()
            self.caches.forget()
            self.answers.clear()

    def remember(
        self, cache: NamedCache, target: str, coding: str | None, response: web.Response, validity: Validity | None
    ) -> None:
        """Make `response`, an answer of `cache`, a ready answer, if `cache` is still the one of its name."""
        if self.serves(cache):
            self.answers.add(cache, target, coding, response, validity)

    def serves(self, cache: NamedCache) -> bool:
        """Whether `cache` is still the one of its name."""
        return self.caches.known(cache.name) is cache

    def replace(
        self,
        caches: Caches,
        settings: ServingSettings | None = None,
        generation: Generation | None = None,
    ) -> None:
        """Serve `caches` from the next request on, by `settings` and under `generation`, or as before."""
        self.caches = caches
        self.generation = generation or self.generation
        if settings is not None:
            self.settings = settings
            self.principals = Principals(settings.authenticators)
        self.answers.replace(self.generation, caches, self.principals)

    def take_last_uses(self) -> Mapping[str, int]:
        """When tokens were last seen since the last call, by their ids, in seconds since the epoch."""
        for principal in self.answers.take_used():
            self.principals.note_use(principal)
        return self.principals.take_last_uses()


SERVING = web.AppKey("serving", Serving)
CLIENTS = web.AppKey("clients", Clients)
TRANSFERS = web.AppKey("transfers", Transfers)
BOARD = web.AppKey("board", Board)

# The gate gives both to a request, once the principal is found to be allowed what the route is for.
CACHE = web.RequestKey("cache", NamedCache)
PRINCIPAL = web.RequestKey("principal", Principal)
# Whether the client waits to be told to send its body.
WAITS_WITH_BODY = web.RequestKey("waits with body", bool)


def cache_of(request: web.Request) -> BinaryCache:
    """The contents of the cache that this request is for; `request[CACHE]` has its name, and who may use it."""
    return request[CACHE].cache


def administration_of(request: web.Request) -> "CacheAdministration | None":
    """The administration of the cache that this request is for; None where it takes no pushes."""
    return request.app[SERVING].administration_of(request[CACHE])


def pushes_of(request: web.Request, cache: NamedCache | None = None) -> "Pushes":
    """The pushes to a cache, by default to the one that this request is for.

    Raises:
        PushRefused: nothing can be pushed to it.
    """
    cache = cache or request[CACHE]
    pushes = request.app[SERVING].pushes_of(cache)
    if pushes is None:
        raise PushRefused(_TAKES_NONE if cache.name == DEFAULT else f"nothing can be pushed to the cache {cache.name}")
    return pushes


def root_of(request: web.Request) -> str:
    """The URL of the root of this request's cache, relative to that of the request: `./`, `../` and so on."""
    return "../" * (len(segments_of(request)) - 1) or "./"


def segments_of(request: web.Request) -> list[str]:
    """The segments of the request's path below the root of its cache, as they were sent: still percent-encoded."""
    segments = request.rel_url.raw_path.split("/")[1:]
    return segments[1:] if "cache" in request.match_info else segments
