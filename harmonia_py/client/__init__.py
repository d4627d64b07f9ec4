"""The push client: paths that a machine has and a cache lacks are sent, published, and seen to be served.

In which order to read:

    a push             push (rounds, and the proof at the end), round (in which order), outcomes
    one path           sending, compress, made_file; past_server (to the bucket); recipe_sending, cut_nar (chunks alone)
    the server         http, cache_requests, api, upload_api, chunk_api, answers, bodies
    what is to go      local_paths (a port), watching, queue_entry, push_queue, draining
    identity           id_token (of a CI's job)
    without bytes      promotion (between caches of a server)
"""
