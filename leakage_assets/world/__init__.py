"""The bundled tiny base model: a synthetic world whose rules are known, and a model pre-trained on it."""

BUNDLED_SEED = 2
"""The seed of the bundled model, and the default for another; the model card says how it was chosen."""
