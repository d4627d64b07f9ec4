"""NARs and documents as bytes: their intake, verification, compression and keeping."""
