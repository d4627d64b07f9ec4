"""NARs kept as chunks, which other NARs share: cut by content, after the hash parts of references were taken out.

In which order to read:

    a NAR in pieces    references, cutting (by sizes), frames, pack_frames, recipe (of columns), recipe_writer
    rows               catalog and work (ports)
    made into chunks   deduplication (the job, where its library is installed), packing and pack_collector,
                       which write a growing_pack
    sent to clients    chunked_files, sending, windows, reading
    from a client      sent_chunks (push/recipes gives them)
    looked after       digests (for the scrub and fsck), rebuilding (of rows from packs), pack_room (for limits)
"""
