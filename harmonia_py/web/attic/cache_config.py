"""`/_api/v1/cache-config/<cache>`: a cache made, shown, changed and deleted by Attic's client."""

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from harmonia_py.cache.access import Action
from harmonia_py.cache.cache_name import DEFAULT, CacheName
from harmonia_py.cache.caches import NamedCache
from harmonia_py.catalog.caches import CacheExists, CacheSettings
from harmonia_py.errors import FormatError, PushRefused
from harmonia_py.nix.signing import SecretKey
from harmonia_py.web.admission.address import server_url
from harmonia_py.web.attic import bodies
from harmonia_py.web.attic.admission import find_cache, parse_name, refusal_of
from harmonia_py.web.attic.answers import Refusal, bad_request, empty_answer, json_answer, no_such_cache
from harmonia_py.web.state import PRINCIPAL, SERVING, cache_of

if TYPE_CHECKING:
    from harmonia_py.catalog.cache_changes import CacheChanges

_MAX_BODY: Final = 64 * 1024
_MAX_KEY_NAMES: Final = 100
_MAX_PRIORITY: Final = 1_000_000
_MAX_PERIOD: Final = 2**32 - 1


async def get(request: web.Request) -> web.StreamResponse:
    """A cache, as `attic use`, `attic push` and `attic cache info` want to know it."""
    return json_answer(_describe(request, await find_cache(request, _name(request), Action.READ)))


async def get_of_cache(request: web.Request) -> web.StreamResponse:
    """`/<cache>/attic-cache-info`: the answer of `get`, below the URL of the cache."""
    return json_answer(
        _describe(request, await find_cache(request, parse_name(request.match_info["cache"]), Action.READ))
    )


async def post(request: web.Request) -> web.StreamResponse:
    """Make a cache."""
    name, principal = _name(request), request[PRINCIPAL]
    if not principal.may(Action.CREATE, name):
        raise refusal_of(principal, may_know=principal.may_anything(name))
    given = await bodies.read(request, bodies.NewCache, _MAX_BODY)
    _check_store_dir(request, given.store_dir)
    settings = CacheSettings(
        public=given.is_public,
        priority=_priority(given.priority),
        upstream_key_names=_key_names(given.upstream_cache_key_names),
    )
    key = SecretKey.generate(name) if given.keypair == "Generate" else _given_key(given.keypair)
    try:
        await _changes(request).create(name, settings, key, principal)
    except CacheExists:
        raise Refusal(HTTPStatus.BAD_REQUEST, "CacheAlreadyExists", "The cache already exists.") from None
    return empty_answer()


async def patch(request: web.Request) -> web.StreamResponse:
    """Change the given settings of a cache."""
    name, principal = _name(request), request[PRINCIPAL]
    await find_cache(request, name, Action.CONFIGURE)
    given = await bodies.read(request, bodies.Changes, _MAX_BODY)
    changes = _settings(given)
    if given.store_dir is not None:
        _check_store_dir(request, given.store_dir)
    if given.retention_period is not None and not principal.may(Action.RETENTION, name):
        raise refusal_of(principal, may_know=True)
    if not changes and given.keypair is None and given.store_dir is None:
        raise bad_request("No modifiable fields were set.")
    catalog = _changes(request)
    if given.keypair is not None:
        key = await catalog.new_key(name) if given.keypair == "Generate" else _given_key(given.keypair)
        if not await catalog.replace_key(name, key, principal):
            raise no_such_cache()
    if not await catalog.configure(name, changes, principal):
        raise no_such_cache()
    return empty_answer()


async def delete(request: web.Request) -> web.StreamResponse:
    """Delete a cache."""
    name = _name(request)
    await find_cache(request, name, Action.DESTROY)
    if not await _changes(request).delete(name, request[PRINCIPAL]):
        raise no_such_cache()
    return empty_answer()


def _describe(request: web.Request, cache: NamedCache) -> dict[str, Any]:
    serving, info = request.app[SERVING], cache.cache.cache_info
    administration = serving.administration_of(cache)
    settings = CacheSettings() if administration is None else administration.row.settings
    server = server_url(request)
    body: dict[str, Any] = {
        "substituter_endpoint": f"{server}/" if cache.name == DEFAULT else f"{server}/{cache.name}",
        "api_endpoint": f"{server}/",
        "is_public": cache.public,
        "store_dir": info.store_dir,
        "priority": info.priority,
        "upstream_cache_key_names": list(settings.upstream_key_names),
        "retention_period": "Global" if settings.keep_unused is None else {"Period": settings.keep_unused},
    }
    keys = cache.keys_for_clients
    # Attic's client writes one key to nix.conf: the last, which is the newest and signs the longest.
    return body | ({"public_key": str(keys[-1])} if keys else {})


def _settings(given: bodies.Changes) -> dict[str, Any]:
    """The given settings, by their names in `CacheSettings`."""
    changes: dict[str, Any] = {}
    if given.is_public is not None:
        changes["public"] = given.is_public
    if given.priority is not None:
        changes["priority"] = _priority(given.priority)
    if given.upstream_cache_key_names is not None:
        changes["upstream_key_names"] = _key_names(given.upstream_cache_key_names)
    period = given.retention_period
    if period is not None:
        seconds = 0 if period == "Global" else period.seconds
        if not 0 <= seconds <= _MAX_PERIOD:
            raise bad_request("Invalid retention period")
        changes["keep_unused"] = seconds or None
    return changes


def _priority(priority: int) -> int:
    if not 0 <= priority <= _MAX_PRIORITY:
        raise bad_request(f"the priority is a number from 0 to {_MAX_PRIORITY}")
    return priority


def _key_names(names: list[str]) -> tuple[str, ...]:
    if len(names) > _MAX_KEY_NAMES or any(not name.isprintable() or len(name) > _MAX_KEY_NAMES for name in names):
        raise bad_request("upstream_cache_key_names: too many, or no names of keys")
    return tuple(dict.fromkeys(names))


def _given_key(given: Any) -> SecretKey:
    try:
        return SecretKey.parse(given.text)
    except FormatError as error:
        raise bad_request(f"keypair: {error}") from None


def _check_store_dir(request: web.Request, given: str) -> None:
    ours = cache_of(request).cache_info.store_dir
    if given != ours:
        raise bad_request(f"this server is for {ours}, not {given}")


def _name(request: web.Request) -> CacheName:
    return parse_name(request.match_info["name"])


def _changes(request: web.Request) -> "CacheChanges":
    attic = request.app[SERVING].settings.attic
    changes = None if attic is None else attic()
    if changes is None:
        raise PushRefused("this server has no catalog, so no cache can be made or changed")
    return changes
