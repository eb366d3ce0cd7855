"""Jensen-Shannon divergence between prompts' next-token distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

CHUNK_NUMBERS = 2**24  # probabilities mixed at a time: 64 MiB of float32


def js_divergence(log_probs: NDArray[np.float32], sources: Sequence[int], device: Any = "cpu") -> NDArray[np.float64]:
    """Divergence in bits of every prompt from each source, averaged over the questions.

    JS(p, u) = H((p + u) / 2) - (H(p) + H(u)) / 2 with base-2 entropies H (Lin 1991): 0 for equal
    distributions, 1 for disjoint ones, symmetric.

    Args:
        log_probs: natural-log probabilities, (P, Q, V).
        sources: row numbers of S prompts.
        device: where it is computed, one question at a time; a vocabulary of 150,000 wants a GPU.

    Returns:
        (P, S) float64 in [0, 1].
    """
    import torch

    prompts, questions, vocabulary = log_probs.shape
    rows = max(1, CHUNK_NUMBERS // vocabulary)
    total = torch.zeros(prompts, len(sources), dtype=torch.float64, device=device)
    with torch.inference_mode():
        for question in range(questions):
            probabilities = torch.from_numpy(np.ascontiguousarray(log_probs[:, question])).to(device).exp()
            chunks = probabilities.split(rows)
            entropies = torch.cat([_entropy(chunk) for chunk in chunks])
            for column, source in enumerate(sources):
                mixed = torch.cat([_entropy((chunk + probabilities[source]) / 2) for chunk in chunks])
                total[:, column] += mixed - (entropies + entropies[source]) / 2
    divergence: NDArray[np.float64] = np.clip(total.cpu().numpy() / questions, 0.0, 1.0)
    # Two sources meet twice with one divergence: the order of sums must not break that tie.
    among = divergence[list(sources)]
    divergence[list(sources)] = (among + among.T) / 2
    return divergence


def _entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Bits along the last axis, float64; 0 log 0 = 0."""
    import torch

    return -torch.xlogy(probabilities, probabilities).sum(-1, dtype=torch.float64) / math.log(2)
