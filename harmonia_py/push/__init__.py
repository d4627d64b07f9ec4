"""Pushes of clients: files that arrive, the claims of their narinfos, and the publication of both in a cache.

In which order to read:

    all of it          pushes, for one cache, over ports; urls and sessions, which requests belong to
    files              receiving, in turns by steps; upload_check, checked_files; room, push_metrics
    large files        parts, of partial_files (to this server); past_server (a package: to the bucket itself);
                       checking (the client asks again)
    missing chunks     recipes, in a recipe_body; making (how many at a time)
    narinfos           claims, findings (of the NAR), evidence_check, publishing
    what goes beside   documents, texts (logs), listings and listing_renewal
    static side        static_side with static_listings; static_writer, static_renewal
    other ways in      adopting and promoting (between caches), into_store and store_import
    out and back       exporting, rebuilding with rebuilt_files
"""
