"""The API of Attic, for its client as it is: `/_api/v1/…`, on top of pushes and caches as every other client has them.

Source: https://github.com/zhaofengli/attic, `attic/src/api/v1` and `server/src/api/v1`.
"""
