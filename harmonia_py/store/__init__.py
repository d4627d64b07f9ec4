"""Adapter: the local Nix store."""
