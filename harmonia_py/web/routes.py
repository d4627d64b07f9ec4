"""Every URL, in one table."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from importlib import import_module
from typing import Final, TypeVar

from aiohttp import hdrs, web
from msgspec import Struct

from harmonia_py.cache.access import Action
from harmonia_py.web.admission.gate import CheckBody, Terms
from harmonia_py.web.api import capabilities
from harmonia_py.web.api import paths as paths_api
from harmonia_py.web.api import pins as pins_api
from harmonia_py.web.attic.answers import CACHE_INFO, answering
from harmonia_py.web.http.errors import Handler
from harmonia_py.web.http.making import at_turn
from harmonia_py.web.http_metrics import NAMED
from harmonia_py.web.nix import build_trace, debuginfo, listing, log, nar, narinfo, realisation
from harmonia_py.web.ops import about, metrics, ready
from harmonia_py.web.pages import home, path, pins, search, serve

# Modules below `web`, which are imported with the first request for them.
_PUSH: Final = "nix.push"
_SESSIONS: Final = "api.sessions"
_SESSION_FILES: Final = "api.files"
_SESSION_UPLOADS: Final = "api.uploads"
_SESSION_CHUNKS: Final = "api.chunks"
# `CacheName` decides what is a name of a cache; this pattern keeps most other URLs away from its handlers.
_CACHE: Final = "/{cache:[A-Za-z0-9][A-Za-z0-9_+-]*}"
T = TypeVar("T")

_PACKAGE: Final = "harmonia_py.web"


# The handlers of pushes, and the modules under them, take a fifth of the time of a start, and 3 MB: a server that takes
# no pushes pays for neither.
def lazily(module: str, name: str) -> Callable[[web.Request], Awaitable[T]]:
    """A coroutine function that calls `name` of `harmonia_py.web.<module>`, which is imported with the first call."""

    async def handler(request: web.Request) -> T:
        result: T = await getattr(import_module(f"{_PACKAGE}.{module}"), name)(request)
        return result

    return handler


class Route(Struct, frozen=True):
    """A URL pattern, its handler, and what the gate asks of requests before it runs.

    Attributes:
        method: GET is HEAD as well.
        path: a pattern; handlers parse what it captures, and what does not parse is 404.
        handler: a coroutine function.
        name: labels its requests on `/metrics`.
        terms: None for a handler that only reads.
    """

    method: str
    path: str
    handler: Handler
    name: str
    terms: Terms | None = None

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Register it."""
        if self.method == hdrs.METH_GET:
            router.add_get(self.path, self.handler, name=self.name)
        else:
            router.add_route(self.method, self.path, self.handler, name=self.name)


def routes() -> list[Route]:
    """The URLs of the cache at `/`, and of the server."""
    return [
        *_routes_of_a_cache("", ""),
        _get("/metrics", metrics.get, "metrics"),
        _get("/ready", ready.get, "ready"),
        _get("/health", about.get_health, "health"),
        _get("/version", about.get_version, "version"),
        # A token may be for any cache, so it takes no permission on the one at /.
        Route(hdrs.METH_GET, "/api/capabilities", capabilities.get, "capabilities", Terms(None)),
    ]


def token_routes() -> list[Route]:
    """The URL that exchanges the tokens of issuers. Such a token comes in the body, and no other is needed."""
    return [Route(hdrs.METH_POST, "/api/token", lazily("api.token", "post"), "token", Terms(None))]


def attic_routes() -> list[Route]:
    """The API of Attic. Its handlers ask for permissions: the name of the cache may stand in the body."""

    def route(method: str, path: str, module: str, function: str, name: str) -> Route:
        handler = answering(lazily(f"attic.{module}", function))
        return Route(method, path, handler, name, Terms(None))

    config, info = "/_api/v1/cache-config/{name}", _CACHE + CACHE_INFO
    return [
        route(hdrs.METH_GET, config, "cache_config", "get", "attic-config"),
        route(hdrs.METH_POST, config, "cache_config", "post", "attic-config"),
        route(hdrs.METH_PATCH, config, "cache_config", "patch", "attic-config"),
        route(hdrs.METH_DELETE, config, "cache_config", "delete", "attic-config"),
        route(hdrs.METH_POST, "/_api/v1/get-missing-paths", "get_missing_paths", "post", "attic-missing"),
        route(hdrs.METH_PUT, "/_api/v1/upload-path", "upload_path", "put", "attic-upload"),
        route(hdrs.METH_GET, info, "cache_config", "get_of_cache", "attic-info"),
    ]


def routes_of_named_caches() -> list[Route]:
    """The URLs of all other caches, below their names; they come last, so that requests to `/` do not meet them."""
    # The framework tries them one after the other, and of a push there are four requests for each path.
    return [
        *_push_routes(_CACHE, NAMED),
        *_routes_of_a_cache(_CACHE, NAMED),
        *_catalog_routes(_CACHE, NAMED),
        _get(_CACHE, home.redirect, f"{NAMED}redirect"),
    ]


def push_routes() -> list[Route]:
    """The URLs to push to the cache at `/`, and to pin and delete what was pushed."""
    return [*_push_routes("", ""), *_catalog_routes("", "")]


def _push_routes(root: str, prefix: str) -> list[Route]:
    path, info = root + "/push/{place:.+}", root + "/push/{place:(?:[^/]+/)?nix-cache-info}"
    return [
        # Also for a client that may only read: the answer to what it then tries to push says what is wrong.
        _get(info, about.get_cache_info, f"{prefix}push-cache-info"),
        Route(hdrs.METH_GET, path, lazily(_PUSH, "get"), f"{prefix}push", Terms(Action.PUSH)),
        put(path, lazily(_PUSH, "put"), f"{prefix}put", lazily(_PUSH, "check_body")),
    ]


def _session_routes(root: str, prefix: str) -> list[Route]:
    """Pushes of many paths, of clients that know this server."""
    uploads = "/{session}/uploads/{file_name}"

    def route(method: str, path: str, function: str, name: str, check_body: str | None = None) -> Route:
        kinds = {
            "parts": _SESSION_FILES,
            "nars": _SESSION_FILES,
            "uploads": _SESSION_UPLOADS,
            "chunks": _SESSION_CHUNKS,
            "recipes": _SESSION_CHUNKS,
        }
        module = kinds.get(path.removeprefix("/{session}/").partition("/")[0], _SESSIONS)
        check: CheckBody | None = None if check_body is None else lazily(module, check_body)
        handler: Handler = lazily(module, function)
        return Route(method, f"{root}/api/sessions{path}", handler, prefix + name, Terms(Action.PUSH, check))

    return [
        route(hdrs.METH_POST, "", "post", "sessions"),
        route(hdrs.METH_GET, "/{session}", "get", "session"),
        route(hdrs.METH_DELETE, "/{session}", "delete", "session"),
        route(hdrs.METH_POST, "/{session}/missing", "missing", "session-missing", "check_question"),
        route(hdrs.METH_PUT, "/{session}/nars/{file_name}", "put_nar", "session-nar", "check_nar_header"),
        route(hdrs.METH_GET, "/{session}/parts/{file_name}", "get_part", "session-part"),
        route(hdrs.METH_PATCH, "/{session}/parts/{file_name}", "patch_part", "session-part", "check_part"),
        route(hdrs.METH_POST, "/{session}/parts/{file_name}", "finish_part", "session-part", "check_whole"),
        route(hdrs.METH_GET, uploads, "get", "session-upload"),
        route(hdrs.METH_POST, uploads, "finish", "session-upload"),
        route(hdrs.METH_POST, f"{uploads}/parts", "begin_parts", "session-upload-parts", "check_parts"),
        route(hdrs.METH_GET, f"{uploads}/parts", "part_urls", "session-upload-parts"),
        route(hdrs.METH_PUT, f"{uploads}/parts", "finish_parts", "session-upload-parts", "check_parts"),
        route(hdrs.METH_DELETE, f"{uploads}/parts", "give_up_parts", "session-upload-parts"),
        route(hdrs.METH_POST, "/{session}/chunks/bases", "bases", "session-bases", "check_names"),
        route(hdrs.METH_POST, "/{session}/chunks/missing", "missing", "session-chunks", "check_question"),
        route(hdrs.METH_POST, "/{session}/recipes/{nar_hash}", "post_recipe", "session-recipe", "check_recipe"),
        route(hdrs.METH_GET, "/{session}/recipes/{nar_hash}", "get_recipe", "session-recipe"),
        route(hdrs.METH_POST, "/{session}/publish", "publish", "session-publish", "check_claims"),
        route(hdrs.METH_POST, "/{session}/finish", "finish", "session-finish", "check_question"),
    ]


def _catalog_routes(root: str, prefix: str) -> list[Route]:
    path, one_path = root + "/pin/{pin}", root + "/api/paths/{hash_part:[^/.]+}"
    return [
        *_session_routes(root, prefix),
        _get(root + "/pins", pins.get, f"{prefix}pins"),
        _get(path, pins.get_one, f"{prefix}pin"),
        Route(hdrs.METH_PUT, path, pins_api.put, f"{prefix}put-pin", Terms(Action.PIN)),
        Route(hdrs.METH_DELETE, path, pins_api.delete, f"{prefix}delete-pin", Terms(Action.PIN)),
        _get(one_path, at_turn(paths_api.get), f"{prefix}standing"),
        Route(hdrs.METH_DELETE, one_path, paths_api.delete, f"{prefix}delete", Terms(Action.DELETE)),
        Route(
            hdrs.METH_POST,
            root + "/api/promote",
            lazily("api.promote", "post"),
            f"{prefix}promote",
            Terms(Action.PUSH, lazily("api.promote", "check")),
        ),
    ]


def terms_of(table: Iterable[Route]) -> Mapping[Handler, Terms]:
    """The terms of the handlers in `table`. A handler that may change something must have some."""
    terms: dict[Handler, Terms] = {}
    for route in table:
        assert route.terms is not None or route.method == hdrs.METH_GET, route.path
        if route.terms is not None:
            assert terms.setdefault(route.handler, route.terms) == route.terms, route.path
    return terms


def _routes_of_a_cache(root: str, prefix: str) -> list[Route]:
    def get(path: str, handler: Handler, name: str) -> Route:
        return _get(root + path, handler, prefix + name)

    return [
        get("/", at_turn(home.get), "home"),
        get("/search", at_turn(search.get), "search"),
        get("/path/{hash_part}", at_turn(path.get), "path"),
        get("/nix-cache-info", about.get_cache_info, "nix-cache-info"),
        get("/api/cache", capabilities.get_cache, "cache"),
        get("/{hash_part:[^/.]+}.narinfo", narinfo.get, "narinfo"),
        get("/nar/{file_name}", nar.get, "nar"),
        get("/{hash_part:[^/.]+}.ls", listing.get, "ls"),
        get("/log/{derivation}", log.get, "log"),
        get("/realisations/{output}.doi", realisation.get, "realisations"),
        # The pattern also takes texts that cannot be an output: the handler answers 400.
        get("/build-trace-v2/{derivation}/{output:[^/]*}.doi", build_trace.get, "build-trace-v2"),
        get("/debuginfo/{build_id}", debuginfo.get, "debuginfo"),
        # Names of files may have line feeds, which a dot would not match.
        get(r"/serve/{place:[\s\S]+}", serve.get, "serve"),
    ]


def put(path: str, handler: Handler, name: str, check_body: CheckBody | None = None) -> Route:
    """A route for PUT. `check_body` refuses or redirects by the header, before the client is told to send the body."""
    return Route(hdrs.METH_PUT, path, handler, name, Terms(Action.PUSH, check_body))


def _get(path: str, handler: Handler, name: str) -> Route:
    return Route(hdrs.METH_GET, path, handler, name)
