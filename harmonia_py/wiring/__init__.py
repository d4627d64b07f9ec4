"""The composition: how a configuration becomes objects that work together. No other package knows all of them.

In which order to read:

    lifetimes          pools (what a process holds open), node (what a configuration makes of it), opening, parts
    sources            local_store over store_choice, mirror over upstreams, compressed, elsewhere
    caches             caches, pushed_caches, declared_caches, cache_keys, access, usage
    where bytes are    files (a directory or a bucket), keeping, bucket, storages, catalog, copying
    pushes             pushing, publishing, past_server, chunking, importing
    upkeep             housekeeper, collecting, deduplicating, mirror_chunks, upkeep, scrubbing
"""
