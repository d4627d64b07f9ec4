"""Every URL, in one table."""

from aiohttp import web

from harmonia_py.web import about, listing, log, nar, narinfo, realisation


def routes() -> list[web.RouteDef]:
    """URL patterns and their handlers, which parse what a pattern captures; what does not parse is 404."""
    return [
        web.get("/nix-cache-info", about.get_cache_info, name="nix-cache-info"),
        web.get("/{hash_part:[^/.]+}.narinfo", narinfo.get, name="narinfo"),
        web.get("/nar/{file_name}", nar.get, name="nar"),
        web.get("/{hash_part:[^/.]+}.ls", listing.get, name="ls"),
        web.get("/log/{derivation}", log.get, name="log"),
        web.get("/realisations/{output}.doi", realisation.get, name="realisations"),
        web.get("/health", about.get_health, name="health"),
        web.get("/version", about.get_version, name="version"),
    ]
