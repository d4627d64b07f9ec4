"""A Nix binary cache in one daemon. ARCHITECTURE.md is the map of this package."""

__version__ = "0.1.0"
