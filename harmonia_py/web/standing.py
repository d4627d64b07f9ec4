"""The standing of pushed paths, as far as a client may know it."""

from aiohttp import web
from msgspec.structs import replace

from harmonia_py.cache.access import Action
from harmonia_py.catalog.reachability import KeptBy
from harmonia_py.catalog.standing import Standing
from harmonia_py.nix.store_path import HashPart
from harmonia_py.web.state import CACHE, PRINCIPAL, administration_of, cache_of


async def standing_of(request: web.Request, hash_part: HashPart) -> Standing | None:
    """The standing of a path in the cache of the request; None when the path was not pushed to it or is hidden.

    Paths that readers do not see are told of only to a principal that may push. No client learns the ids of pushes, and
    under a policy none learns which other paths keep this one.

    Raises:
        StorageError: the catalog cannot tell.
    """
    administration = administration_of(request)
    if administration is None:
        return None
    standing = await administration.standings.find(administration.row, hash_part, now=administration.now())
    if standing is None or not await _is_told(request, standing):
        return None
    reason = standing.reason
    if reason is not None and reason.by is KeptBy.SESSION:
        standing = replace(standing, reason=replace(reason, name=""))
    if not cache_of(request).gives_all:
        standing = replace(standing, referrers=(), chain=())
    return standing


async def _is_told(request: web.Request, standing: Standing) -> bool:
    if standing.stored is None:
        return request[CACHE].allows(request[PRINCIPAL], Action.PUSH)
    return await cache_of(request).allows(standing.stored.path_info)
