from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leakage_assets.paths import REPO
from leakage_assets.training.kernels import (
    SEED_BITS,
    Dropout,
    add_kept_product,
    cross_entropies,
    cross_entropies_backward,
    drop,
    dropout_seed,
    gated,
    gated_backward,
    kept,
    rotate_rows,
    rotate_rows_backward,
    step_seed,
)

CPU = torch.device("cpu")
SEEDS = st.integers(0, 2**SEED_BITS - 1)


def hashed(token: int, feature: int, seed: int) -> int:
    """The documented hash with Python's integers, as an unsigned word."""

    def mix(x: int) -> int:
        x ^= x >> 16
        x = x * 0x7FEB352D % 2**32
        x ^= x >> 15
        return x * 0x846CA68B % 2**32

    return mix((mix(token ^ seed) + feature * 0x9E3779B1) % 2**32)


@settings(deadline=None)
@given(SEEDS, st.integers(0, 20_000), st.floats(0.0, 0.99))
def test_a_mask_is_the_hash_of_seed_token_and_feature(seed: int, first: int, rate: float) -> None:
    mask = kept(3, 5, Dropout(seed, first, rate), CPU)
    lowest = round(rate * 2**32)
    for token in range(3):
        for feature in range(5):
            value = hashed(first + token, feature, seed)
            signed = value - 2**32 if value >= 2**31 else value
            assert bool(mask[token, feature]) == (signed >= lowest - 2**31)


@settings(deadline=None)
@given(SEEDS, st.integers(1, 39))
def test_a_pass_drops_what_the_whole_step_drops(seed: int, cut: int) -> None:
    whole = kept(40, 17, Dropout(seed, 0, 0.3), CPU)
    parts = [kept(cut, 17, Dropout(seed, 0, 0.3), CPU), kept(40 - cut, 17, Dropout(seed, cut, 0.3), CPU)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_masks_are_as_good_as_drawn(rate: float) -> None:
    """Share, and correlation of neighbours and of masks of other seeds, within five standard errors."""
    tokens, features = 400, 500
    masks = [
        kept(tokens, features, Dropout(step_seed(dropout_seed(1, layer), step), 0, rate), CPU).numpy().astype(float)
        for layer, step in (("a", 0), ("a", 1), ("b", 0))
    ]
    error = 5 / np.sqrt(tokens * features)
    for mask in masks:
        assert abs(mask.mean() - (1 - rate)) < error * np.sqrt(rate * (1 - rate))
        for other in (np.roll(mask, 1, axis=0), np.roll(mask, 1, axis=1)):
            assert abs(np.corrcoef(mask.ravel(), other.ravel())[0, 1]) < error
        assert np.ptp(mask.mean(axis=0)) > 0 and np.ptp(mask.mean(axis=1)) > 0
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(masks[one].ravel(), masks[other].ravel())[0, 1]) < error


def test_seeds_differ_by_training_layer_and_step() -> None:
    seeds = {
        step_seed(dropout_seed(training, layer), step)
        for training in range(5)
        for layer in ("q", "k")
        for step in range(50)
    }
    assert len(seeds) == 5 * 2 * 50 and all(0 <= seed < 2**SEED_BITS for seed in seeds)


def test_the_mask_is_applied() -> None:
    mask = Dropout(7, 3, 0.4)
    x, total, outer = torch.randn(6, 9), torch.randn(6, 4), torch.randn(9, 4)
    assert torch.equal(drop(x, mask), torch.where(kept(6, 9, mask, CPU), x, 0.0))
    assert torch.equal(drop(x, replace(mask, rate=0.0)), x)
    expected = total + torch.where(kept(6, 4, mask, CPU), x @ outer, 0.0)
    add_kept_product(total, x, outer, mask)
    torch.testing.assert_close(total, expected)


def test_rotation_is_that_of_the_model_and_its_backward_is_its_gradient() -> None:
    from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

    x = torch.randn(5, 3, 8, dtype=torch.float64, requires_grad=True)
    angles = torch.rand(5, 4, dtype=torch.float64).repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()
    expected = apply_rotary_pos_emb(x[None], x[None], cos[None], sin[None], unsqueeze_dim=2)[0][0]
    found = rotate_rows(x.detach(), cos, sin)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(found)
    (wanted,) = torch.autograd.grad(expected, x, grad)
    torch.testing.assert_close(rotate_rows_backward(grad, cos, sin), wanted)


def test_the_gated_unit_has_the_gradient_of_its_formula() -> None:
    gate, up, grad = (torch.randn(4, 7, dtype=torch.float64, requires_grad=True) for _ in range(3))
    out = torch.nn.functional.silu(gate) * up
    expected = torch.autograd.grad(out, (gate, up), grad)
    torch.testing.assert_close(gated(gate, up), out)
    for found, wanted in zip(gated_backward(grad.detach(), gate.detach(), up.detach()), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_cross_entropies_and_their_gradient_are_those_of_torch() -> None:
    logits = (3 * torch.randn(5, 11, dtype=torch.float64)).requires_grad_()
    targets = torch.tensor([0, 10, 3, 3, 7])
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    found, total = cross_entropies(logits.detach(), targets)
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-6)
    (wanted,) = torch.autograd.grad(0.3 * expected.sum(), logits)
    grad = cross_entropies_backward(torch.tensor(0.3), logits.detach(), targets, total)
    torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_triton_kernels_compute_the_same() -> None:
    """On a processor, in Triton's interpreter; PyTorch brings Triton with its builds for GPUs alone."""
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("interpreted_kernels.py"))],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = ["drop", "add_kept_product", "rotate_rows", "rotate_rows_backward", "gated", "gated_backward"]
    names += ["cross_entropies", "cross_entropies_backward"]
    assert done.stdout.split() == names * 2
