"""vLLM, made faster without changing what it computes.

With its own settings adapters cost a quarter of the decoding of a 7B model on an H200, drawing a token another tenth,
and between two steps of 1,024 sequences the GPU waits for vLLM's scheduler.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

TUNED_KERNELS = Path(__file__).parent / "lora_kernels"
"""Settings of the kernels by GPU, as `benchmarks.tune_lora_kernels` found them."""

TOP_P_PROGRAMS = 4
"""Programs of the top-p kernel on each multiprocessor; from two on more change nothing on an H200."""


def tuned_kernels(device: str, kernel: str) -> Path:
    """Where settings of a kernel ("SHRINK", "EXPAND_TRUE") lie for a device, named as vLLM looks them up."""
    return TUNED_KERNELS / f"{device.replace(' ', '_').replace('-', '_')}_{kernel}.json"


def speed_up_lora(device: str) -> None:
    """Before an engine starts: kernels as tuned for the device, where they are, one product at a time, no waiting.

    What is computed stays the same up to the order of sums, and the proof of an adapter holds for it.
    """
    from vllm.lora.punica_wrapper.punica_gpu import PunicaWrapperGPU

    if tuned_kernels(device, "SHRINK").exists():
        os.environ.setdefault("VLLM_TUNED_CONFIG_FOLDER", str(TUNED_KERNELS))
    PunicaWrapperGPU.add_expand = expand_one_by_one
    PunicaWrapperGPU.update_metadata = slots_of_rows


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


def slots_of_rows(
    self: Any, mapping: Any, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **_: Any
) -> None:
    """As `PunicaWrapperGPU.update_metadata`, with the rows of each adapter counted on the host, which knows them.

    vLLM counts them on the device and reads the result in every step: it waits for the step before, and then the
    device waits for what is left to prepare.

    Raises:
        KeyError: a row of an adapter that has no slot.
    """
    import torch

    self.is_prefill = mapping.is_prefill
    self._update_base_metadata(mapping, lora_index_to_id, max_loras, vocab_size)
    slots = {number: slot for slot, number in enumerate(lora_index_to_id) if number is not None}
    for meta, rows in (
        (self.token_mapping_meta, mapping.index_mapping),
        (self.prompt_mapping_meta, mapping.prompt_mapping),
    ):
        meta.prepare_tensors(torch.tensor([slots[row] if row > 0 else -1 for row in rows], dtype=torch.int32))


def speed_up_top_p() -> None:
    """Before an engine starts: TOP_P_PROGRAMS programs of vLLM's top-p kernel on each multiprocessor, not one.

    A program is four warps that search a row of the vocabulary for its threshold up to 18 times, and a multiprocessor
    with one of them mostly waits for memory. Each row is searched by itself, so that the bits stay the same. vLLM's
    later kernel divides the rows themselves and is left alone.
    """
    from vllm.v1.sample.ops import topk_topp_triton

    if not hasattr(topk_topp_triton, "_SPLIT_MAX_BATCH"):
        topk_topp_triton.num_compute_units = _top_p_programs


def _top_p_programs(device: int = 0) -> int:
    from vllm.utils.platform_utils import num_compute_units

    return TOP_P_PROGRAMS * int(num_compute_units(device))


def look_at_models_here() -> None:
    """Before an engine starts: vLLM looks at the class of a model in this process.

    It would start another one, which imports vLLM again (15 s on a new machine), so that this one does not touch the
    GPU; but the engine runs in this process all the same.
    """
    from vllm.model_executor.models import registry

    registry._run_in_subprocess = _here


def _here(look: Callable[[], Any]) -> Any:
    return look()


def speed_up_blocks() -> None:
    """Before an engine starts: a sequence whose next token has room in its last block is not looked at any further.

    vLLM asks for every sequence in every step which blocks it needs, which is the largest part of its scheduling, and
    with blocks of 16 tokens the answer is "none" 14 times of 16: where a block begins, or is full with this token and
    goes into the prefix cache, it is asked as before.
    """
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager

    if not hasattr(KVCacheManager.allocate_slots, "__wrapped__"):
        KVCacheManager.allocate_slots = unless_there_is_room(KVCacheManager.allocate_slots, FullAttentionManager)


def unless_there_is_room(allocate_slots: Any, keeps_all: type[Any]) -> Any:
    """`allocate_slots`, asked only where it may have something to do.

    Args:
        keeps_all: the manager of layers that need every block to a sequence's end; others drop blocks on the way.
    """

    @functools.wraps(allocate_slots)
    def allocate(self: Any, request: Any, num_new_tokens: int, *rest: Any, **options: Any) -> Any:
        group, *others = self.coordinator.single_type_managers
        # An option that is set means drafts, which need more than one place, or a sequence that only begins.
        if num_new_tokens == 1 and type(group) is keeps_all and not (others or rest or any(options.values())):
            tokens = request.num_computed_tokens + 1
            blocks = group.req_to_blocks.get(request.request_id, ())
            if tokens % group.block_size and tokens <= len(blocks) * group.block_size:
                return self.empty_kv_cache_blocks
        return allocate_slots(self, request, num_new_tokens, *rest, **options)

    return allocate
