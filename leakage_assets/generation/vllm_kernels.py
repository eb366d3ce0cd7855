"""vLLM's LoRA kernels, made faster on a GPU: with its own settings adapters cost a quarter of the decoding."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

TUNED_KERNELS = Path(__file__).parent / "lora_kernels"
"""Settings of the kernels by GPU, as `benchmarks.tune_lora_kernels` found them."""


def tuned_kernels(device: str, kernel: str) -> Path:
    """Where settings of a kernel ("SHRINK", "EXPAND_TRUE") lie for a device, named as vLLM looks them up."""
    return TUNED_KERNELS / f"{device.replace(' ', '_').replace('-', '_')}_{kernel}.json"


def speed_up_lora(device: str) -> None:
    """Before an engine starts: kernels as tuned for the device, where they are, and one product at a time.

    What is computed stays the same up to the order of sums, and the proof of an adapter holds for it.
    """
    from vllm.lora.punica_wrapper.punica_gpu import PunicaWrapperGPU

    if tuned_kernels(device, "SHRINK").exists():
        os.environ.setdefault("VLLM_TUNED_CONFIG_FOLDER", str(TUNED_KERNELS))
    PunicaWrapperGPU.add_expand = expand_one_by_one


def expand_one_by_one(
    self: Any,
    y: Any,
    x: Any,
    lora_b_stacked: tuple[Any, ...],
    output_slices: tuple[int, ...],
    offset_start: int = 0,
    add_inputs: bool = True,
    **_: Any,
) -> None:
    """As `PunicaWrapperGPU.add_expand`, with a kernel for each of the layers that vLLM computes as one.

    In one kernel for all of them the place of a layer in the output is read from memory, so that the compiler cannot
    know that it is aligned, and moves two bytes at a time.
    """
    from vllm.lora.ops.triton_ops import lora_expand

    flat = y.view(-1, y.shape[-1])
    meta = self.token_mapping_meta.meta_args(x.size(1), self.lora_config.specialize_active_lora)
    for place, width in enumerate(output_slices):
        lora_expand(
            x[place : place + 1],
            (lora_b_stacked[place],),
            flat,
            *meta,
            offset_start=offset_start,
            add_inputs=add_inputs,
        )
        offset_start += width
