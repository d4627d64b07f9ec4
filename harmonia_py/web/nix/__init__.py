"""The URLs that Nix asks for, one file per kind."""
