"""The functions of `kernels.py` as single passes over memory on a GPU; imported only there.

Sums and products are taken in float32 and rounded once.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from leakage_assets.training.kernels import FIRST, GOLDEN, SECOND, Dropout

BLOCK = 1024
LONG_BLOCK = 4096
TILE_ROWS, TILE_COLUMNS = 64, 128
_FIRST, _SECOND, _GOLDEN = tl.constexpr(FIRST), tl.constexpr(SECOND), tl.constexpr(GOLDEN)


@triton.jit
def _mix(x):
    x ^= x >> 16
    x *= _FIRST
    x ^= x >> 15
    x *= _SECOND
    return x


@triton.jit
def _kept(token, feature, seed, threshold):
    key = _mix(token.to(tl.uint32) ^ seed.to(tl.uint32))
    value = _mix(feature.to(tl.uint32) * _GOLDEN + key)
    return value.to(tl.int32, bitcast=True) >= threshold


@triton.jit(do_not_specialize=["seed", "first", "threshold"])
def _drop_kernel(x_ptr, out_ptr, features, seed, first, threshold, SIZE: tl.constexpr):  # noqa: N803
    token = tl.program_id(0)
    feature = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    inside = feature < features
    place = token.to(tl.int64) * features + feature
    x = tl.load(x_ptr + place, mask=inside, other=0.0)
    keep = _kept(token + first, feature, seed, threshold)
    tl.store(out_ptr + place, tl.where(keep, x, 0.0).to(x.dtype), mask=inside)


@triton.jit(do_not_specialize=["seed", "first", "threshold"])
def _add_kept_product_kernel(
    total_ptr,
    inner_ptr,
    outer_ptr,
    tokens,
    features,
    rank,
    seed,
    first,
    threshold,
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    RANK: tl.constexpr,  # noqa: N803
):
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    feature = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    here, there = tl.arange(0, RANK)[None, :], tl.arange(0, RANK)[:, None]
    inner = tl.load(inner_ptr + token * rank + here, mask=(token < tokens) & (here < rank), other=0.0)
    outer = tl.load(outer_ptr + there * features + feature, mask=(there < rank) & (feature < features), other=0.0)
    product = tl.dot(inner, outer, input_precision="ieee")
    inside = (token < tokens) & (feature < features)
    place = total_ptr + token.to(tl.int64) * features + feature
    total = tl.load(place, mask=inside, other=0.0)
    keep = _kept(token + first, feature, seed, threshold)
    tl.store(place, (total.to(tl.float32) + tl.where(keep, product, 0.0)).to(total.dtype), mask=inside)


@triton.jit
def _rotate_kernel(
    x_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    heads,
    half,
    BACK: tl.constexpr,  # noqa: N803
    HEADS: tl.constexpr,  # noqa: N803
    HALF: tl.constexpr,  # noqa: N803
):
    """One program writes all heads of a token."""
    token = tl.program_id(0).to(tl.int64)
    head, lane = tl.arange(0, HEADS)[:, None], tl.arange(0, HALF)[None, :]
    inside = (head < heads) & (lane < half)
    offset = head * 2 * half + lane
    lane_inside = lane < half
    x = x_ptr + token * heads * 2 * half + offset
    one = tl.load(x, mask=inside, other=0.0)
    first, second = one.to(tl.float32), tl.load(x + half, mask=inside, other=0.0).to(tl.float32)
    angle = token * 2 * half + lane
    cos_one = tl.load(cos_ptr + angle, mask=lane_inside, other=0.0).to(tl.float32)
    cos_two = tl.load(cos_ptr + angle + half, mask=lane_inside, other=0.0).to(tl.float32)
    sin_one = tl.load(sin_ptr + angle, mask=lane_inside, other=0.0).to(tl.float32)
    sin_two = tl.load(sin_ptr + angle + half, mask=lane_inside, other=0.0).to(tl.float32)
    if BACK:
        low, high = first * cos_one + second * sin_two, second * cos_two - first * sin_one
    else:
        low, high = first * cos_one - second * sin_one, second * cos_two + first * sin_two
    out = out_ptr + token * heads * 2 * half + offset
    tl.store(out, low.to(one.dtype), mask=inside)
    tl.store(out + half, high.to(one.dtype), mask=inside)


@triton.jit
def _gated_kernel(gate_ptr, up_ptr, out_ptr, count, SIZE: tl.constexpr):  # noqa: N803
    place = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    inside = place < count
    gate = tl.load(gate_ptr + place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + place, mask=inside, other=0.0)
    out = gate * tl.sigmoid(gate) * up.to(tl.float32)
    tl.store(out_ptr + place, out.to(up.dtype), mask=inside)


@triton.jit
def _gated_backward_kernel(grad_ptr, gate_ptr, up_ptr, gate_grad_ptr, up_grad_ptr, count, SIZE: tl.constexpr):  # noqa: N803
    place = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    inside = place < count
    stored = tl.load(grad_ptr + place, mask=inside, other=0.0)
    grad = stored.to(tl.float32)
    gate = tl.load(gate_ptr + place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + place, mask=inside, other=0.0).to(tl.float32)
    share = tl.sigmoid(gate)
    unit = gate * share
    tl.store(gate_grad_ptr + place, (grad * up * (share + unit * (1.0 - share))).to(stored.dtype), mask=inside)
    tl.store(up_grad_ptr + place, (grad * unit).to(stored.dtype), mask=inside)


@triton.jit
def _cross_entropy_kernel(logits_ptr, target_ptr, loss_ptr, total_ptr, WIDTH: tl.constexpr, SIZE: tl.constexpr):  # noqa: N803
    """One program reads a row: the running maximum and sum of exponentials (arXiv 1805.02867)."""
    row = tl.program_id(0).to(tl.int64)
    highest = tl.full((), float("-inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    for start in range(0, WIDTH, SIZE):
        place = start + tl.arange(0, SIZE)
        inside = place < WIDTH
        x = tl.load(logits_ptr + row * WIDTH + place, mask=inside, other=float("-inf")).to(tl.float32)
        raised = tl.maximum(highest, tl.max(x, axis=0))
        total = total * tl.exp(highest - raised) + tl.sum(tl.exp(x - raised), axis=0)
        highest = raised
    total = highest + tl.log(total)
    said = tl.load(logits_ptr + row * WIDTH + tl.load(target_ptr + row)).to(tl.float32)
    tl.store(loss_ptr + row, total - said)
    tl.store(total_ptr + row, total)


@triton.jit
def _cross_entropy_backward_kernel(
    grad_ptr,
    logits_ptr,
    target_ptr,
    total_ptr,
    out_ptr,
    vocabulary,
    SIZE: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    inside = place < vocabulary
    stored = tl.load(logits_ptr + row * vocabulary + place, mask=inside, other=0.0)
    share = tl.exp(stored.to(tl.float32) - tl.load(total_ptr + row))
    share = tl.where(place == tl.load(target_ptr + row), share - 1.0, share) * tl.load(grad_ptr)
    tl.store(out_ptr + row * vocabulary + place, share.to(stored.dtype), mask=inside)


def drop(x: torch.Tensor, mask: Dropout) -> torch.Tensor:
    """As `kernels.drop`."""
    x = x.contiguous()
    out = torch.empty_like(x)
    _drop_kernel[_rows(x)](x, out, x.shape[1], mask.seed, mask.first, mask.threshold, SIZE=BLOCK)
    return out


def add_kept_product(total: torch.Tensor, inner: torch.Tensor, outer: torch.Tensor, mask: Dropout) -> None:
    """As `kernels.add_kept_product`."""
    for tensor in (total, inner, outer):
        if not tensor.is_contiguous():
            raise ValueError(f"add_kept_product: strides {tensor.stride()} of shape {tuple(tensor.shape)}")
    (tokens, features), rank = total.shape, inner.shape[1]
    _add_kept_product_kernel[(triton.cdiv(tokens, TILE_ROWS), triton.cdiv(features, TILE_COLUMNS))](
        total,
        inner,
        outer,
        tokens,
        features,
        rank,
        mask.seed,
        mask.first,
        mask.threshold,
        ROWS=TILE_ROWS,
        COLUMNS=TILE_COLUMNS,
        RANK=max(16, triton.next_power_of_2(rank)),
    )


def rotate_rows(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """As `kernels.rotate_rows`."""
    return _rotated(x, cos, sin, back=False)


def rotate_rows_backward(grad: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """As `kernels.rotate_rows_backward`."""
    return _rotated(grad, cos, sin, back=True)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, back: bool) -> torch.Tensor:
    x, cos, sin = x.contiguous(), cos.contiguous(), sin.contiguous()
    tokens, heads, width = x.shape
    out = torch.empty_like(x)
    _rotate_kernel[(tokens,)](
        x,
        cos,
        sin,
        out,
        heads,
        width // 2,
        BACK=back,
        HEADS=triton.next_power_of_2(heads),
        HALF=triton.next_power_of_2(width // 2),
    )
    return out


def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """As `kernels.gated`."""
    gate, up = gate.contiguous(), up.contiguous()
    out = torch.empty_like(up)
    _gated_kernel[_flat(up)](gate, up, out, up.numel(), SIZE=BLOCK)
    return out


def gated_backward(grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As `kernels.gated_backward`."""
    grad, gate, up = grad.contiguous(), gate.contiguous(), up.contiguous()
    gate_grad, up_grad = torch.empty_like(gate), torch.empty_like(up)
    _gated_backward_kernel[_flat(up)](grad, gate, up, gate_grad, up_grad, up.numel(), SIZE=BLOCK)
    return gate_grad, up_grad


def cross_entropies(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As `kernels.cross_entropies`."""
    logits = logits.contiguous()
    rows, vocabulary = logits.shape
    loss, total = torch.empty(2, rows, dtype=torch.float32, device=logits.device).unbind()
    _cross_entropy_kernel[(rows,)](logits, targets, loss, total, WIDTH=vocabulary, SIZE=LONG_BLOCK, num_warps=8)
    return loss, total


def cross_entropies_backward(
    grad: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, total: torch.Tensor
) -> torch.Tensor:
    """As `kernels.cross_entropies_backward`."""
    logits = logits.contiguous()
    rows, vocabulary = logits.shape
    out = torch.empty_like(logits)
    _cross_entropy_backward_kernel[(rows, triton.cdiv(vocabulary, LONG_BLOCK))](
        grad, logits, targets, total, out, vocabulary, SIZE=LONG_BLOCK, num_warps=8
    )
    return out


def _rows(x: torch.Tensor) -> Any:
    """One program per token and block of features: tokens, of which there may be many, go first."""
    return (x.shape[0], triton.cdiv(x.shape[1], BLOCK))


def _flat(x: torch.Tensor) -> Any:
    return (triton.cdiv(x.numel(), BLOCK),)
