"""Upstream caches: the choice of the one that is asked, the check of what it says, and the files that come from it."""
