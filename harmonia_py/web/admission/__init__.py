"""Admission of requests: permissions, limits of each client, and the access log."""
