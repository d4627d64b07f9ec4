"""Adapter: blobs and growing files in a directory, or blobs in a bucket."""
