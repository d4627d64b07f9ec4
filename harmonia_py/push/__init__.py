"""Pushes of clients: files that arrive, the claims of their narinfos, and the publication of both in a cache."""
