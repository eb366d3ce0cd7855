from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.tune_lora_kernels import TOKENS, layers_of
from leakage_assets.generation.vllm_kernels import TUNED_KERNELS, expand_one_by_one, speed_up_lora, tuned_kernels
from leakage_assets.planning.reference import RANK
from leakage_assets.shapes import shape_named
from leakage_assets_tests.generation.engines import needs_vllm

H200 = "NVIDIA H200"


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
