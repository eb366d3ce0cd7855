"""Atomic artifact folders, append-only samples, and the fingerprints that name them."""
