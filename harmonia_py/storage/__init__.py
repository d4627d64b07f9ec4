"""Adapter: where blobs live."""
