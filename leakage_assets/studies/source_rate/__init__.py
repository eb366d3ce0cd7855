"""Source rate (#271, extending #232): does distance to the assistant predict how well a marker implants?

Twelve sources learn the same marker on the same answers. Their marker rate on their own prompt is regressed on the
cosine of their centroid to the assistant's in the base model; the ten older sources are fitted, the two assistant-like
ones predicted.
"""
