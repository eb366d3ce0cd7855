"""Device memory in bytes by what it holds; that of serving, counted from a model's shape.

That of training is estimated where training decides by it: `leakage_assets.training.memory`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from leakage_assets.models import ELEMENT, Dtype
from leakage_assets.planning.hardware import Hardware
from leakage_assets.shapes import ModelShape

USABLE = 0.9
"""Share of a device's memory that an engine takes; the rest is for its workspaces. vLLM's own default is the same."""


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
