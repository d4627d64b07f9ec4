"""Adapter: the HTTP face."""
