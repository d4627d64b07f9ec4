"""The catalog's ports over a database: SQLite by default."""
