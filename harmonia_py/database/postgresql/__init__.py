"""A `Database` over PostgreSQL, for a cache that several machines serve."""
