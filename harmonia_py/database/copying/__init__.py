"""A catalog copied into another database: as it stands at one moment, whole or not at all, and held against it."""
