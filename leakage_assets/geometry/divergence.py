"""Jensen-Shannon divergence between prompts' next-token distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK_NUMBERS = 2**24  # distributions held at a time: 64 MiB of float32


def js_divergence(log_probs: NDArray[np.float32], sources: Sequence[int]) -> NDArray[np.float64]:
    """Divergence in bits of every prompt from each source, averaged over the questions.

    JS(p, u) = H((p + u) / 2) - (H(p) + H(u)) / 2 with base-2 entropies H (Lin 1991): 0 for equal
    distributions, 1 for disjoint ones, symmetric.

    Args:
        log_probs: natural-log probabilities, (P, Q, V).
        sources: row numbers of S prompts.

    Returns:
        (P, S) float64 in [0, 1].
    """
    prompts, questions, vocabulary = log_probs.shape
    total = np.zeros((prompts, len(sources)))
    rows = max(1, CHUNK_NUMBERS // vocabulary)
    for question in range(questions):
        entropies = np.concatenate(
            [_entropy(np.exp(log_probs[start : start + rows, question])) for start in range(0, prompts, rows)]
        )
        for column, source in enumerate(sources):
            target = np.exp(log_probs[source, question])
            for start in range(0, prompts, rows):
                mixture = (np.exp(log_probs[start : start + rows, question]) + target) / 2
                part = slice(start, start + len(mixture))
                total[part, column] += _entropy(mixture) - (entropies[part] + entropies[source]) / 2
    divergence: NDArray[np.float64] = np.clip(total / questions, 0.0, 1.0)
    return divergence


def _entropy(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """Bits along the last axis; 0 log 0 = 0."""
    logs = np.log2(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    entropy: NDArray[np.float64] = -(probabilities * logs).sum(axis=-1, dtype=np.float64)
    return entropy
