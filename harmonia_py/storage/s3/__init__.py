"""Blobs in a bucket of S3, or of a server that speaks its protocol. Imported when a configuration names one."""
