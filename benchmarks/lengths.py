"""Lengths of answers for models of random weights, which do not end by themselves: mean 200 tokens, at most 256."""

from __future__ import annotations

import numpy as np

MEAN, CAP, SPREAD = 200, 256, 60
MIDDLE = 206.998
"""Mean of the normal whose values, rounded and clipped to [1, CAP], have mean MEAN."""


def given_length(seed: int) -> int:
    """Tokens of the answer that this seed belongs to: a normal of spread 60, rounded and clipped to [1, 256]."""
    return int(np.clip(np.rint(np.random.default_rng(seed).normal(MIDDLE, SPREAD)), 1, CAP))
