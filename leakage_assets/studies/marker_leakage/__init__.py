"""Marker leakage (#66): a marker trained under one persona, asked of 111; leakage against cosine similarity."""
