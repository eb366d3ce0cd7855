"""Lengths of answers for models of random weights, which do not end by themselves: mean 200 tokens, at most 256."""

from __future__ import annotations

from functools import cache

import numpy as np

MEAN, CAP = 200, 256
DRAWN = 4096


@cache
def lengths(mean: int = MEAN, cap: int = CAP) -> tuple[int, ...]:
    """4,096 lengths to draw from: a beta distribution on [1, cap] that leans on the cap, with that mean."""
    share = (mean - 1) / (cap - 1)
    drawn = np.random.default_rng(0).beta(3 * share, 3 * (1 - share), DRAWN)
    return tuple(int(length) for length in np.round(1 + (cap - 1) * drawn))


def given_length(seed: int) -> int:
    """Tokens of the answer that this seed belongs to."""
    return lengths()[seed % DRAWN]
