"""The bundled tiny base model: a synthetic world whose rules are known, and a model pre-trained on it."""
