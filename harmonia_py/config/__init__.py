"""harmonia.toml to values: the settings, and their reading."""
