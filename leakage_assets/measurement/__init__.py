"""Scores read off samples."""
