"""Every URL, in one table."""

from aiohttp import web

from harmonia_py.web import (
    about,
    build_trace,
    debuginfo,
    home,
    listing,
    log,
    metrics,
    nar,
    narinfo,
    path_page,
    ready,
    realisation,
    search,
    serve,
)


def routes() -> list[web.RouteDef]:
    """URL patterns and their handlers, which parse what a pattern captures; what does not parse is 404."""
    return [
        web.get("/", home.get, name="home"),
        web.get("/search", search.get, name="search"),
        web.get("/path/{hash_part}", path_page.get, name="path"),
        web.get("/nix-cache-info", about.get_cache_info, name="nix-cache-info"),
        web.get("/{hash_part:[^/.]+}.narinfo", narinfo.get, name="narinfo"),
        web.get("/nar/{file_name}", nar.get, name="nar"),
        web.get("/{hash_part:[^/.]+}.ls", listing.get, name="ls"),
        web.get("/log/{derivation}", log.get, name="log"),
        web.get("/realisations/{output}.doi", realisation.get, name="realisations"),
        web.get("/build-trace-v2/{derivation}/{output}.doi", build_trace.get, name="build-trace-v2"),
        web.get("/debuginfo/{build_id}", debuginfo.get, name="debuginfo"),
        # Names of files may have line feeds, which a dot would not match.
        web.get(r"/serve/{place:[\s\S]+}", serve.get, name="serve"),
        web.get("/metrics", metrics.get, name="metrics"),
        web.get("/ready", ready.get, name="ready"),
        web.get("/health", about.get_health, name="health"),
        web.get("/version", about.get_version, name="version"),
    ]
