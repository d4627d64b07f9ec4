"""What is kept, for which cache, since when: ports over one database, and the pure plans that decide what goes.

In which order to read:

    ports           caches objects nars documents uploads evidence sessions awaiting mirrored bases access keys pins
                    audit; for housekeeping collection passes packs room_wanted file_checks repairs; paging (of rows)
    found           stored (a `Source` over objects), kept_objects, changes (until when an answer is right)
    kept again      kept (of one directory), kept_mirrored, last_uses, owed, outages (the catalog fails), takeover
    access          tokens, exchange, key_encryption, cache_changes, administration
    plans           quota (for want of room), retention (by age), reachability (why a path stays; standing says it)
    loops           replaceable_housekeeping (a directory), rooms (all storage), arrivals; of what was pushed:
                    pushed_housekeeping, collector (in portions), cache_gauges
    by hand         deletion
    right or not    fit, strays, scrub, document_scrub, quarantine, fsck (with fsck_findings), static_check

The words for what goes:

    condemn   to mark an object that is to go: it is still served for the grace of its cache, and a use revives it
    remove    to delete the row of a condemned object that nothing keeps: the path is not served any more
    garbage   keys of bytes that no row names any more; the bytes are deleted, then the keys are forgotten
    collect   all of that, for one cache after the other (`Collector`)
    evict     to condemn and remove without grace, for want of room, what is replaceable: compressed here, or mirrored
"""
