"""Device memory of serving and of training, in bytes, counted from a model's shape."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from leakage_assets.models import Dtype
from leakage_assets.planning.hardware import ELEMENT, Hardware
from leakage_assets.shapes import ModelShape

USABLE = 0.9
"""Share of a device's memory that an engine takes; the rest is for its workspaces. vLLM's own default is the same."""

LORA_BYTES = 4
"""PEFT keeps adapters in float32 whatever the base's precision."""


@dataclass(frozen=True)
class Memory:
    """Bytes by what they hold."""

    weights: float
    kv_cache: float = 0.0
    activations: float = 0.0
    adapters: float = 0.0
    optimiser: float = 0.0

    @property
    def total(self) -> float:
        return float(sum(getattr(self, field.name) for field in fields(self)))

    def as_dict(self) -> dict[str, float]:
        return {**asdict(self), "total": self.total}


def concurrency_that_fits(
    shape: ModelShape, dtype: Dtype, hardware: Hardware, *, context: float, lora_parameters: int = 0, adapters: int = 0
) -> int:
    """How many sequences of `context` tokens have room for their keys and values beside weights and adapters; 0 if not
    even the weights fit."""
    element = ELEMENT[dtype]
    taken = (shape.parameters + adapters * lora_parameters) * element
    free = USABLE * hardware.memory - taken
    return max(0, int(free / (shape.kv_bytes(element) * context)))


def serving_memory(
    shape: ModelShape, dtype: Dtype, *, sequences: int, context: float, lora_parameters: int = 0, adapters: int = 0
) -> Memory:
    """Memory while `sequences` run at their longest, with every adapter resident."""
    element = ELEMENT[dtype]
    return Memory(
        weights=shape.parameters * element,
        kv_cache=sequences * context * shape.kv_bytes(element),
        adapters=adapters * lora_parameters * element,
    )


def training_memory(
    shape: ModelShape,
    dtype: Dtype,
    *,
    batch_tokens: float,
    label_tokens: float,
    lora_parameters: int,
    targets: tuple[str, ...],
) -> Memory:
    """Memory at the end of the forward pass over a batch, without gradient checkpointing: a lower estimate.

    Kept for the backward pass of each block and token: the input of every adapted layer, in float32 and with its
    dropout mask (5 bytes); the input of both norms in float32; queries, keys, values and the output of attention; and
    the three factors of the gated MLP. A frozen layer keeps nothing. For each label its logits, their float32 copy and
    the gradient. The optimiser (AdamW) keeps gradient and two moments of every adapter parameter in float32.

    Args:
        batch_tokens: tokens of a batch, padding included.
        label_tokens: of these, the ones that carry loss.
    """
    element = ELEMENT[dtype]
    adapted = sum(5 * shape.projections()[name][0] for name in targets)
    norms = 2 * 4 * shape.hidden
    attention = element * 2 * (shape.attention_width + shape.kv_width)
    gated = element * 3 * shape.intermediate
    blocks = shape.blocks * (adapted + norms + attention + gated) * batch_tokens
    logits = (element + 4 + 4) * shape.vocabulary * label_tokens
    return Memory(
        weights=shape.parameters * element,
        activations=blocks + logits,
        adapters=LORA_BYTES * lora_parameters,
        optimiser=3 * LORA_BYTES * lora_parameters,
    )
