"""Arithmetic and memory traffic of reading, training and decoding, counted from a model's shape.

A matrix product costs 2 FLOP per weight and token (Kaplan et al. 2020, arXiv 2001.08361, section 2.1), a token that
attends to k positions 4 k d in each block, d the width of all heads (the products with the keys and with the values).
Training of a LoRA adapter (Hu et al. 2021, arXiv 2106.09685) runs forward (2N) and backward to the activations (2N) but
never to the N frozen weights: 4N a token, where full training costs 6N; the adapter's own weights cost 6. Recomputation
by gradient checkpointing, padding and what an optimiser does are overhead, not work.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from leakage_assets.models import ELEMENT, Dtype
from leakage_assets.planning.hardware import Hardware
from leakage_assets.shapes import ModelShape

Limit = Literal["arithmetic", "memory bandwidth"]


@dataclass(frozen=True)
class Lengths:
    """Rows of tokens, by what their cost depends on: how many, their tokens, and the sum of squared lengths."""

    rows: float
    tokens: float
    squares: float

    @classmethod
    def of(cls, lengths: Iterable[float]) -> Lengths:
        known = list(lengths)
        return cls(len(known), sum(known), sum(length * length for length in known))

    @classmethod
    def alike(cls, rows: float, length: float) -> Lengths:
        """Rows of one length each."""
        return cls(rows, rows * length, rows * length * length)

    def times(self, count: float) -> Lengths:
        """The same rows again and again."""
        return Lengths(count * self.rows, count * self.tokens, count * self.squares)

    def __add__(self, other: Lengths) -> Lengths:
        return Lengths(self.rows + other.rows, self.tokens + other.tokens, self.squares + other.squares)

    @property
    def mean(self) -> float:
        return self.tokens / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class Work:
    """One kind of work: the tokens that count for tokens/s, its FLOP, and the least it must move to and from memory.

    `traffic` is in bytes.
    """

    tokens: float
    flop: float
    traffic: float
    dtype: Dtype

    def arithmetic_seconds(self, hardware: Hardware) -> float:
        return self.flop / hardware.rate(self.dtype)

    def traffic_seconds(self, hardware: Hardware) -> float:
        return self.traffic / hardware.bandwidth

    def floor(self, hardware: Hardware) -> float:
        """Seconds that no implementation can go below: arithmetic and traffic can at best overlap."""
        return max(self.arithmetic_seconds(hardware), self.traffic_seconds(hardware))

    def limit(self, hardware: Hardware) -> Limit:
        """Which of the two it is."""
        return "arithmetic" if self.floor(hardware) == self.arithmetic_seconds(hardware) else "memory bandwidth"


def reading(shape: ModelShape, prompts: Lengths, dtype: Dtype, *, blocks: int | None = None, logits: float = 0) -> Work:
    """One forward pass over prompts.

    Args:
        blocks: how many blocks run; all by default.
        logits: tokens whose logits are computed.
    """
    depth = shape.blocks if blocks is None else blocks
    weights = depth * shape.block_weights
    flop = 2 * weights * prompts.tokens + depth * _causal_attention(shape, prompts) + 2 * shape.head_weights * logits
    read = weights + (shape.head_weights if logits else 0)
    return Work(prompts.tokens, flop, (read if prompts.rows else 0) * ELEMENT[dtype], dtype)


def training(
    shape: ModelShape, rows: Lengths, label_tokens: float, lora_parameters: int, dtype: Dtype, *, steps: float = 1
) -> Work:
    """LoRA training over `rows`, which hold all epochs: 4N + 6 per adapter parameter a token, 3 times the attention of
    a forward pass, and the head where there is a label.

    Args:
        label_tokens: tokens that carry loss.
        steps: forward and backward passes over a batch; each reads the weights twice.
    """
    weights = shape.blocks * shape.block_weights
    flop = (
        (4 * weights + 6 * lora_parameters) * rows.tokens
        + 3 * shape.blocks * _causal_attention(shape, rows)
        + 4 * shape.head_weights * label_tokens
    )
    return Work(rows.tokens, flop, 2 * steps * (weights + shape.head_weights) * ELEMENT[dtype], dtype)


def decoding(
    shape: ModelShape,
    prompts: Lengths,
    new_tokens: float,
    concurrency: float,
    dtype: Dtype,
    *,
    lora_parameters: int = 0,
) -> Work:
    """Sampling of one completion per row of `prompts`, without reading the prompts.

    Every step reads the weights, the adapter, and the keys and values of every running sequence.

    Args:
        new_tokens: mean tokens of a completion.
        concurrency: sequences that run together.
        lora_parameters: of the adapter; requests sorted by adapter need about one at a time.
    """
    tokens = prompts.rows * new_tokens
    weights = shape.blocks * shape.block_weights + shape.head_weights + lora_parameters
    # The j-th new token attends to its prompt, the new tokens before it, and itself.
    attended = new_tokens * prompts.tokens + prompts.rows * new_tokens * (new_tokens + 1) / 2
    flop = 2 * weights * tokens + 4 * shape.attention_width * shape.blocks * attended
    steps = tokens / max(concurrency, 1)
    element = ELEMENT[dtype]
    return Work(tokens, flop, steps * weights * element + shape.kv_bytes(element) * attended, dtype)


def _causal_attention(shape: ModelShape, rows: Lengths) -> float:
    """FLOP of one block: position i of a row attends to i + 1 positions, 4 d each."""
    return 2 * shape.attention_width * (rows.squares + rows.tokens)
