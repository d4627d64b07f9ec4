"""NARs kept as chunks, which other NARs share: cut by content, after the hash parts of references were taken out."""
