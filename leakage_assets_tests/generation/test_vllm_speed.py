from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.tune_lora_kernels import TOKENS, layers_of
from leakage_assets.generation.vllm_speed import (
    TOP_P_PROGRAMS,
    TUNED_KERNELS,
    expand_one_by_one,
    look_at_models_here,
    slots_of_rows,
    speed_up_lora,
    speed_up_top_p,
    tuned_kernels,
    unless_there_is_room,
)
from leakage_assets.planning.reference import RANK
from leakage_assets.shapes import shape_named
from leakage_assets_tests.generation.engines import needs_vllm

H200 = "NVIDIA H200"
BLOCK = 4


def test_each_layer_is_added_at_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the products themselves, with vLLM's operation replaced by what it documents."""

    def lora_expand(
        x: torch.Tensor, weights: tuple[torch.Tensor], out: torch.Tensor, *_: Any, offset_start: int, add_inputs: bool
    ) -> None:
        (b,) = weights
        part = out[:, offset_start : offset_start + b.shape[0]]
        part.copy_(x[0] @ b.T + (part if add_inputs else 0))

    stub = ModuleType("vllm.lora.ops.triton_ops")
    stub.lora_expand = lora_expand  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm.lora.ops.triton_ops", stub)
    wrapper = SimpleNamespace(
        token_mapping_meta=SimpleNamespace(meta_args=lambda tokens, _specialised: (tokens,)),
        lora_config=SimpleNamespace(specialize_active_lora=False),
    )
    widths = (5, 2, 2)
    x, weights = torch.randn(3, 4, 6), tuple(torch.randn(width, 6) for width in widths)
    products = torch.cat([inner @ b.T for inner, b in zip(x, weights, strict=True)], dim=1)
    for add in (True, False):
        y = torch.randn(4, 10)
        before = y.clone()
        expand_one_by_one(wrapper, y[None], x, weights, widths, offset_start=1, add_inputs=add)
        torch.testing.assert_close(y[:, 1:], products + (before[:, 1:] if add else 0))
        assert torch.equal(y[:, 0], before[:, 0])


def test_settings_are_looked_up_by_the_name_of_the_device() -> None:
    assert tuned_kernels("NVIDIA H100-SXM 80GB", "SHRINK").name == "NVIDIA_H100_SXM_80GB_SHRINK.json"
    assert tuned_kernels(H200, "SHRINK").exists() and tuned_kernels(H200, "EXPAND_TRUE").exists()


@needs_vllm
def test_vllm_finds_the_settings_of_every_product_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    utils = pytest.importorskip("vllm.lora.ops.triton_ops.utils")
    # Not through the environment, which vLLM reads no more once an engine has run in the process.
    monkeypatch.setattr(utils, "envs", SimpleNamespace(VLLM_TUNED_CONFIG_FOLDER=str(TUNED_KERNELS)))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: H200)
    for cached in (utils.load_lora_op_config, utils.get_lora_op_configs):
        cached.cache_clear()
    found = []
    for layer in layers_of(shape_named("qwen2.5-7b")):
        for tokens in TOKENS:
            for kernel, size in layer.products():
                slices, hidden = (size, layer.inputs) if kernel == "shrink" else (1, size)
                settings = utils.get_lora_op_configs(kernel, 4, tokens, hidden, RANK, slices, add_inputs=True)
                assert {"block_m", "block_n", "block_k", "num_warps"} <= set(settings)
                found.append(tuple(settings.values()))
    for cached in (utils.load_lora_op_config, utils.get_lora_op_configs):
        cached.cache_clear()
    assert len(set(found)) > 4


def test_a_device_without_settings_keeps_vllms_own(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = ModuleType("vllm.lora.punica_wrapper.punica_gpu")
    stub.PunicaWrapperGPU = type("PunicaWrapperGPU", (), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm.lora.punica_wrapper.punica_gpu", stub)
    monkeypatch.delenv("VLLM_TUNED_CONFIG_FOLDER", raising=False)
    speed_up_lora("NVIDIA A0")
    assert "VLLM_TUNED_CONFIG_FOLDER" not in os.environ
    assert stub.PunicaWrapperGPU.add_expand is expand_one_by_one
    assert stub.PunicaWrapperGPU.update_metadata is slots_of_rows


@needs_vllm
@given(st.lists(st.sampled_from([0, 7, 9, 4]), min_size=1, max_size=40), st.integers(1, 5))
def test_rows_are_told_the_slots_of_their_adapters(adapters: list[int], tokens: int) -> None:
    """What the kernels read, for batches of rows without adapter (0) and of adapters 7, 9 and 4 in slots 0, 1 and 3."""
    metadata = pytest.importorskip("vllm.lora.ops.triton_ops.lora_kernel_metadata")
    wrapper = SimpleNamespace(
        token_mapping_meta=metadata.LoRAKernelMeta.make(4, 256, "cpu"),
        prompt_mapping_meta=metadata.LoRAKernelMeta.make(4, 256, "cpu"),
        _update_base_metadata=lambda *given: based.append(given),
    )
    based: list[Any] = []
    rows = [adapter for adapter in adapters for _ in range(tokens)]
    mapping = SimpleNamespace(index_mapping=tuple(rows), prompt_mapping=tuple(adapters), is_prefill=True)
    slots_of_rows(wrapper, mapping, [7, 9, None, 4], 5, 100)
    assert based == [(mapping, [7, 9, None, 4], 5, 100)]
    assert wrapper.is_prefill
    for meta, of in ((wrapper.token_mapping_meta, rows), (wrapper.prompt_mapping_meta, adapters)):
        slots = [{0: -1, 7: 0, 9: 1, 4: 3}[adapter] for adapter in of]
        assert bool(meta.no_lora_flag_cpu) == (set(slots) == {-1})
        if bool(meta.no_lora_flag_cpu):
            continue
        present = sorted(set(slots))
        assert meta.token_lora_mapping[: len(of)].tolist() == slots
        assert meta.active_lora_ids.tolist() == present + [-1] * (5 - len(present))
        begins = meta.lora_token_start_loc.tolist()
        ordered = meta.token_indices_sorted_by_lora_ids[: len(of)].tolist()
        for place, slot in enumerate(present):
            assert int(meta.num_tokens_per_lora[place]) == slots.count(slot)
            assert ordered[begins[place] : begins[place + 1]] == [row for row, own in enumerate(slots) if own == slot]


def test_a_row_of_an_adapter_without_slot_is_an_error() -> None:
    mapping = SimpleNamespace(index_mapping=(7, 8), prompt_mapping=(7, 8), is_prefill=True)
    meta = SimpleNamespace(prepare_tensors=lambda _: None)
    wrapper = SimpleNamespace(token_mapping_meta=meta, prompt_mapping_meta=meta, _update_base_metadata=lambda *_: None)
    with pytest.raises(KeyError):
        slots_of_rows(wrapper, mapping, [7, None], 3, 100)


def _top_p_kernel(monkeypatch: pytest.MonkeyPatch, **attributes: Any) -> ModuleType:
    """The module of vLLM's kernel, and its count of multiprocessors, replaced."""
    kernel, ops, platform = (ModuleType(name) for name in ("topk_topp_triton", "ops", "platform_utils"))
    vars(kernel).update(attributes, num_compute_units=None)
    ops.topk_topp_triton = kernel  # type: ignore[attr-defined]
    platform.num_compute_units = lambda device: 100 + device  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm.v1.sample.ops", ops)
    monkeypatch.setitem(sys.modules, "vllm.utils.platform_utils", platform)
    return kernel


def test_the_top_p_kernel_has_several_programs_on_each_multiprocessor(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = _top_p_kernel(monkeypatch)
    for _ in range(2):  # an engine that is started again
        speed_up_top_p()
        assert kernel.num_compute_units(3) == TOP_P_PROGRAMS * 103


def test_a_top_p_kernel_that_divides_rows_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = _top_p_kernel(monkeypatch, _SPLIT_MAX_BATCH=64)
    speed_up_top_p()
    assert kernel.num_compute_units is None


@needs_vllm
def test_the_class_of_a_model_is_looked_at_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.model_executor.models import registry

    monkeypatch.setattr(registry, "_run_in_subprocess", registry._run_in_subprocess)
    look_at_models_here()
    assert registry._run_in_subprocess(os.getpid) == os.getpid()
    lazy = registry._LazyRegisteredModel("vllm.model_executor.models.qwen2", "Qwen2ForCausalLM")
    for name in ("_load_modelinfo_from_cache", "_save_modelinfo_to_cache"):
        monkeypatch.setattr(registry._LazyRegisteredModel, name, lambda *_: None)
    assert lazy.inspect_model_cls().is_text_generation_model


def _blocks_of(manager: Any, told: Any) -> tuple[Any, ...]:
    return told and told.get_block_ids(), manager.block_pool.get_num_free_blocks()


def _lived(
    allocate: Any, manager: Any, prompts: list[tuple[int, int]], new_tokens: int, lookahead: int
) -> list[tuple[Any, ...]]:
    """What `manager` tells of blocks while requests of (beginning, tokens) are read, go on together and end."""
    from vllm import SamplingParams
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.request import Request

    init_none_hash(hash)
    seen, requests = [], []
    for number, (beginning, tokens) in enumerate(prompts):
        ids = [beginning, *range(tokens)]
        hasher = get_request_block_hasher(BLOCK, lambda value: repr(value).encode())
        request = Request(str(number), ids, SamplingParams(max_tokens=99), None, block_hasher=hasher)
        cached, already = manager.get_computed_blocks(request)[:2]
        told = allocate(manager, request, len(ids) - already, already, cached)
        seen.append((already, *_blocks_of(manager, told)))
        if told is not None:
            request.num_computed_tokens = len(ids)
            requests.append(request)
    for token in range(new_tokens):
        for request in list(requests):
            request.append_output_token_ids(1000 + token)
            told = allocate(manager, request, 1, num_lookahead_tokens=lookahead)
            seen.append(_blocks_of(manager, told))
            if told is None:
                manager.free(request)
                requests.remove(request)
            else:
                request.num_computed_tokens += 1
    return seen + [(manager.get_block_ids(request.request_id),) for request in requests]


@needs_vllm
@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(1, 19)), min_size=1, max_size=6),
    st.integers(1, 24),
    st.sampled_from([0, 0, 3]),
    st.integers(12, 90),
)
def test_blocks_are_the_same_where_only_those_without_room_are_asked(
    prompts: list[tuple[int, int]], new_tokens: int, lookahead: int, blocks: int
) -> None:
    """Prompts that share a beginning, caches that run out, blocks that fill up, and drafts."""
    pytest.importorskip("vllm")
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

    own = getattr(KVCacheManager.allocate_slots, "__wrapped__", KVCacheManager.allocate_slots)
    asked = [0, 0]

    def counted(place: int) -> Any:
        def allocate(self: Any, request: Any, tokens: int, *rest: Any, **options: Any) -> Any:
            asked[place] += 1
            return own(self, request, tokens, *rest, **options)

        return allocate

    layers = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
    managers = [
        KVCacheManager(KVCacheConfig(blocks, [], [KVCacheGroupSpec(["layer"], layers)]), 512, BLOCK, BLOCK)
        for _ in range(2)
    ]
    plain = _lived(counted(0), managers[0], prompts, new_tokens, lookahead)
    quick = _lived(unless_there_is_room(counted(1), FullAttentionManager), managers[1], prompts, new_tokens, lookahead)
    assert plain == quick
    assert asked[1] == asked[0] if lookahead else asked[1] <= asked[0]
    if not lookahead and new_tokens >= 2 * BLOCK and None not in [told for told, *_ in plain]:
        assert asked[1] - len(prompts) < 0.8 * (asked[0] - len(prompts))
