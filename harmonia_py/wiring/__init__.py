"""The composition: how a configuration becomes objects that work together. No other package knows all of them.

In which order to read:

    start              parts (imported before the fork), tuning, serving_settings, slices
    lifetimes          pools (what a process holds open), node (what a configuration makes of it), opening,
                       worker_catalog (what is open once there is a catalog)
    sources            local_store over store_choice, mirror over upstreams, compressed, elsewhere
    caches             caches (at /), pushed_caches, declared_caches, cache_keys, usage
    access             access over oidc and attic_tokens
    where bytes are    files (a directory or a bucket), kept_directory, bucket, storages, catalog, copying
    pushes             pushing, past_server, chunking, importing
    housekeeping       replaceable_housekeeping (of a kept_directory), pushed_housekeeping, collecting,
                       deduplicating, scrubbing
    commands           push_client, local_paths, exporting, attic_import, copying
"""
