"""Pages for people, and the files inside store paths."""
