"""Formats and protocols of Nix. Pure: nothing in here performs I/O."""
