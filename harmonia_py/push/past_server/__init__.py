"""Files that clients send straight to the bucket, past this server.

In which order to read: of_cache (all of it, for one cache), single and parts (with one request, or in parts), ports
(the bucket, which `storage/s3` has).
"""
