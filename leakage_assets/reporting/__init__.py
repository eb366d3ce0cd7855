"""Figures, reports whose every number is bound to an artifact cell, and the lint that proves it."""
