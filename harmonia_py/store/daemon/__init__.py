"""The nix-daemon: its connections, what it says of paths, and what it is asked to keep or to import."""
