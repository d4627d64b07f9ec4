"""The URLs for operators: health, readiness, metrics, version."""
