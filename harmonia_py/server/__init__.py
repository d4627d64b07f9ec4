"""The processes of `serve`: supervisor, workers, sockets, and what they tell systemd and the log."""
