"""What training an adapter costs in floating-point operations, counted from the shape of its base model."""

from __future__ import annotations

from collections.abc import Iterable

from leakage_assets.shapes import ModelShape
from leakage_assets.training.recipe import LoraSpec


def training_flop(shape: ModelShape, lora: LoraSpec, rows: Iterable[tuple[int, int]]) -> int:
    """Model FLOP of one pass over `rows`, forward and backward; a multiply-add counts as two.

    With N the weights of the frozen linear layers, a token costs 2N forward and 2N for the gradient of the
    activations. The further 2N for the gradient of the weights (6N in all: arXiv 2001.08361, section 2.1) is
    not spent, because these are frozen; on the adapter's own weights it is. The head is counted where labels
    are. Attention is causal: position i attends to i + 1 positions, at 4 FLOP each and unit of the query width
    forward, and twice that backward. What gradient checkpointing computes again is no model FLOP.

    Args:
        rows: of each row its number of tokens and of loss-bearing tokens.
    """
    per_token = 4 * shape.blocks * shape.block_weights + 6 * shape.lora_parameters(lora.r, lora.targets)
    pair = 3 * 4 * shape.blocks * shape.attention_width
    return sum(
        tokens * per_token + labels * 4 * shape.head_weights + tokens * (tokens + 1) // 2 * pair
        for tokens, labels in rows
    )
