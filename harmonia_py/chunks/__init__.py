"""NARs kept as chunks, which other NARs share: cut by content, after the hash parts of references were taken out.

In which order to read:

    a NAR in pieces    references, cutting (by sizes), frames, pack_frames, recipe and recipe_writer
    rows               catalog and work (ports)
    made into chunks   deduplication (the job), packing, pack_collector
    sent again         chunked_files, sending, windows; sent_chunks (from a client, for one file)
    looked after       digests (for the scrub), rebuilding (of rows from packs), pack_room (in what is held to a size)
"""
