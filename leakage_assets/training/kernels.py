"""The parts of packed training that move memory rather than multiply: dropout, rotation, gated unit, cross entropy.

PyTorch's dropout draws its mask in the order of memory, so that the mask of a token depends on what shares its
batch. Here it is a hash of seed, token and feature, so that a step that is cut into passes, or recomputed under
checkpointing, drops what the step in one pass drops, on every device. Each function has two forms that agree up
to rounding: torch operations, and on a GPU one Triton kernel that passes over memory once. (liger-kernel has a
gated unit, a rotation and a loss too; what it lacks would have to be here anyway, and it would be one more library
in the identity of every adapter.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from torch.nn.functional import silu

from leakage_assets.store.fingerprint import derive_seed

SEED_BITS = 31
"""Non-negative as a 32-bit integer: what kernels and tensors take without conversion."""
# Odd constants of the lowbias32 hash (Wellons, "Prospecting for hash functions", 2018) and of the golden ratio.
FIRST, SECOND, GOLDEN = 0x7FEB352D, 0x846CA68B, 0x9E3779B1
WORD = 2**32


@dataclass(frozen=True, slots=True)
class Dropout:
    """A mask: feature f of the step's token t is dropped where hash(seed, t, f) is among the lowest `rate`.

    `first` is the place of the first token of a pass within its step. What is kept is not scaled up.
    """

    seed: int
    first: int
    rate: float

    @property
    def threshold(self) -> int:
        """Kept is what hashes, as a signed 32-bit integer, to at least this."""
        return round(self.rate * WORD) - WORD // 2


def dropout_seed(training: int, layer: str) -> int:
    """The seed of one layer's masks over a whole training."""
    return derive_seed("dropout", layer, training)


def step_seed(layer_seed: int, step: int) -> int:
    """The seed of one layer's mask in one optimiser step: the finaliser of splitmix64, which is cheap."""
    word = (layer_seed + (step + 1) * 0x9E3779B97F4A7C15) % 2**64
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
    return (word ^ (word >> 31)) % (1 << SEED_BITS)


def fused(x: torch.Tensor) -> bool:
    """Whether the Triton kernels serve this tensor."""
    return bool(x.is_cuda) and _has_triton()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def drop(x: torch.Tensor, mask: Dropout) -> torch.Tensor:
    """`x` of shape (tokens, features) with zeros where `mask` drops."""
    if fused(x):
        from leakage_assets.training import triton_kernels

        return triton_kernels.drop(x, mask)
    return x * kept(x.shape[0], x.shape[1], mask, x.device)


def add_kept_product(total: torch.Tensor, inner: torch.Tensor, outer: torch.Tensor, mask: Dropout) -> None:
    """Add to `total`, in place, what `mask` keeps of `inner` @ `outer`.

    Shapes (tokens, features), (tokens, rank) and (rank, features), contiguous.
    """
    if fused(total):
        from leakage_assets.training import triton_kernels

        triton_kernels.add_kept_product(total, inner, outer, mask)
    else:
        total.add_(drop(inner @ outer, mask))


def kept(tokens: int, features: int, mask: Dropout, device: torch.device) -> torch.Tensor:
    """Boolean mask of shape (tokens, features). Products wrap around at 32 bits."""
    token = torch.arange(mask.first, mask.first + tokens, dtype=torch.int32, device=device)
    feature = torch.arange(features, dtype=torch.int32, device=device) * _signed(GOLDEN)
    return _mix(_mix(token ^ mask.seed)[:, None] + feature) >= mask.threshold


def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up."""
    if fused(gate):
        from leakage_assets.training import triton_kernels

        return triton_kernels.gated(gate, up)
    return silu(gate) * up


def gated_backward(grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of `gated` with respect to `gate` and `up`."""
    if fused(gate):
        from leakage_assets.training import triton_kernels

        return triton_kernels.gated_backward(grad, gate, up)
    return torch.ops.aten.silu_backward(grad * up, gate), grad * silu(gate)


def rotate_rows(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of each token (arXiv 2104.09864, with the halves of the width as the two coordinates).

    `x`: shape (T, heads, width); `cos` and `sin`: (T, width), of each token's position.
    """
    if fused(x):
        from leakage_assets.training import triton_kernels

        return triton_kernels.rotate_rows(x, cos, sin)
    one, other = x.chunk(2, dim=-1)
    return (x * cos[:, None] + torch.cat([-other, one], dim=-1) * sin[:, None]).to(x.dtype)


def rotate_rows_backward(grad: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Gradient of `rotate_rows`: the inverse rotation."""
    if fused(grad):
        from leakage_assets.training import triton_kernels

        return triton_kernels.rotate_rows_backward(grad, cos, sin)
    one, other = (grad * sin[:, None]).chunk(2, dim=-1)
    return (grad * cos[:, None] + torch.cat([other, -one], dim=-1)).to(grad.dtype)


def cross_entropies(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row of `logits`, shape (n, vocabulary): cross entropy with its target, and log-sum-exp, in float32."""
    if fused(logits):
        from leakage_assets.training import triton_kernels

        return triton_kernels.cross_entropies(logits, targets)
    total = logits.float().logsumexp(-1)
    return total - logits.gather(-1, targets[:, None])[:, 0].float(), total


def cross_entropies_backward(
    grad: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, total: torch.Tensor
) -> torch.Tensor:
    """Gradient of `grad` times the sum of `cross_entropies` in the precision of the logits.

    `grad` is a scalar, `total` the log-sum-exp.
    """
    if fused(logits):
        from leakage_assets.training import triton_kernels

        return triton_kernels.cross_entropies_backward(grad, logits, targets, total)
    shares = (logits.float() - total[:, None]).exp_()
    shares[torch.arange(len(targets), device=targets.device), targets] -= 1
    return shares.mul_(grad).to(logits.dtype)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """Two rounds of shift and multiply, in place; the upper bits are the good ones."""
    # The shift of a signed integer drags the sign in: the conjunction takes it out.
    x ^= (x >> 16).bitwise_and_(0xFFFF)
    x *= FIRST
    x ^= (x >> 15).bitwise_and_(0x1FFFF)
    x *= _signed(SECOND)
    return x


def _signed(word: int) -> int:
    return word - WORD if word >= WORD // 2 else word
