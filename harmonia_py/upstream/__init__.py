"""Adapter: other binary caches over HTTP."""
