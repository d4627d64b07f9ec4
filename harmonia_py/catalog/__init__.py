"""What is kept, for which cache, since when: ports over one database, and the pure plans that decide what goes.

The words for what goes:

    condemn   to mark an object that is to go: it is still served for the grace of its cache, and a use revives it
    remove    to delete the row of a condemned object that nothing keeps: the path is not served any more
    garbage   keys of bytes that no row names any more; the bytes are deleted, then the keys are forgotten
    collect   all of that, for one cache after the other (`Collector`)
    evict     to condemn and remove without grace, for want of room, what can be had again (`REPLACEABLE`)
"""
