"""A PEFT model computing packs: attention within rows, and layers that keep and move less than the stock ones.

Everything is put on instances of modules for the time of a training and taken off again, so the base, which
shares the weights, and the trained adapter, which is scored by stock PEFT, never see it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention

from leakage_assets.training.kernels import (
    Dropout,
    add_kept_product,
    cross_entropies,
    cross_entropies_backward,
    drop,
    dropout_seed,
    gated,
    gated_backward,
    rotate_rows,
    rotate_rows_backward,
    step_seed,
)
from leakage_assets.training.packing import Pack
from leakage_assets.training.recipe import TrainingError

if TYPE_CHECKING:
    from peft import PeftModel

ATTENTION = "packed_rows"
NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
"""Classes known to compute weight * x / rms(x); Gemma's, for one, adds 1 to its weight."""
ATTENTIONS = ("LlamaAttention", "MistralAttention", "Qwen2Attention")
"""Classes known to project, rotate all of queries and keys, attend and project again."""
GATED_UNITS = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP")
"""Classes known to compute down(activation(gate(x)) * up(x))."""
SILU = ("SiLU", "SiLUActivation")


@dataclass
class Moment:
    """Which step of which training is computed, and where in the step the pass begins: what dropout depends on."""

    training: int
    step: int = 0
    first: int = 0


def pack_loss(model: PeftModel, pack: Pack) -> torch.Tensor:
    """The pack's share of its step's loss: nats summed over its labels, divided by the labels of the step.

    Logits are computed where labels are, and the loss from them in float32.
    """
    logits = model(
        input_ids=pack.input_ids,
        position_ids=pack.position_ids,
        logits_to_keep=pack.scored,
        use_cache=False,
        pack=pack,
    ).logits
    loss: torch.Tensor = _CrossEntropy.apply(logits[0], pack.targets)
    return loss / pack.step_labels


@contextmanager
def packed(model: PeftModel, moment: Moment) -> Iterator[None]:
    """Within the block `model` takes packs; afterwards it is what it was.

    Raises:
        TrainingError: the adapter is not plain LoRA on linear layers, or attention reaches less far than rows
            may be long.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attend)
    config = model.get_base_model().config
    stock = config._attn_implementation
    with ExitStack() as undo, _repeatable(model.device):
        copies = _Copies([parameter for parameter in model.parameters() if parameter.requires_grad])
        undo.callback(model.register_forward_pre_hook(lambda *_: copies.forget()).remove)
        for name, module in model.named_modules():
            if (forward := _forward_of(name, module, moment, copies)) is not None:
                module.forward = forward
                undo.callback(delattr, module, "forward")
        config._attn_implementation = ATTENTION
        undo.callback(setattr, config, "_attn_implementation", stock)
        yield


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Within the block the same inputs give the same bytes: no atomic additions in the backward of attention.

    An operation that has no such form warns. cuDNN's attention is left out because it plans anew for each
    shape, and no two steps have the same.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils import deterministic

    backends = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    if device.type != "cuda":
        with sdpa_kernel(backends):
            yield
        return
    filled = deterministic.fill_uninitialized_memory
    try:
        deterministic.fill_uninitialized_memory = False
        with _deterministic(warn_only=True), sdpa_kernel(backends):
            _declare_products_repeatable(device)
            yield
    finally:
        deterministic.fill_uninitialized_memory = filled


WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@cache
def _declare_products_repeatable(device: torch.device) -> None:
    """Set the variable that PyTorch wants to see under deterministic algorithms while it looks, once in a process.

    Were it set for longer, every product would parse it: 70 us a call instead of 19 on the host of an H200. PyTorch
    gives cuBLAS a workspace of its own on each stream in any case, which is what makes products repeat themselves.
    """
    if WORKSPACE in os.environ:
        return
    os.environ[WORKSPACE] = ":4096:8"
    try:
        one = torch.ones(1, 1, device=device)
        torch.mm(one, one)
    finally:
        del os.environ[WORKSPACE]


def attend(
    _module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    pack: Pack | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of each row of a pack within itself.

    `query`: shape (1, heads, T, width), `key` and `value` with fewer heads; returns (1, T, heads, width).
    """
    pack = _checked(pack, attention_mask)
    _check_window(sliding_window, pack)
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    return _attention(query, key, value, pack, scaling, dropout)[None], None


def _checked(pack: Pack | None, attention_mask: torch.Tensor | None) -> Pack:
    if pack is None or attention_mask is not None:
        raise ValueError("attention of a pack: no pack, or a mask, was handed down to it")
    return pack


def _check_window(window: int | None, pack: Pack) -> None:
    if window is not None and window < pack.longest:
        raise TrainingError(
            f"a row of {pack.longest} tokens is longer than the window of {window} that attention slides over; "
            "train in mode as_published"
        )


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pack: Pack, scaling: float | None, dropout: float
) -> torch.Tensor:
    """States of shape (T, heads, width) to outputs of that shape.

    Flash attention takes rows of any lengths, on a GPU and in half precision. Elsewhere they are padded on the right:
    a causal query never sees what comes after it, so no mask is needed, and any fused kernel will do.
    """
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        flash: torch.Tensor = _Flash.apply(query, key, value, pack, scaling, dropout)
        return flash
    query, key, value = (_Spread.apply(x, pack).transpose(1, 2) for x in (query, key, value))
    # Where no fused kernel groups queries, repeating keys keeps one in use.
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    out = scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True, scale=scaling)
    gathered: torch.Tensor = _Gather.apply(out.transpose(1, 2), pack)
    return gathered


class _Flash(torch.autograd.Function):  # type: ignore[misc]
    """Flash attention within rows, with a backward that repeats itself.

    `torch.nn.attention.varlen` wraps the same operations, and takes grouped queries from PyTorch 2.12 on.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        pack: Pack,
        scaling: float | None,
        dropout: float,
    ) -> torch.Tensor:
        ctx.rows = pack.bounds, pack.bounds, pack.longest, pack.longest, dropout, True
        ctx.scaling = scaling
        out, *rest = torch.ops.aten._flash_attention_forward(query, key, value, *ctx.rows, False, scale=scaling)
        ctx.save_for_backward(query, key, value, out, *rest[:3])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        *states, random, unused = ctx.saved_tensors
        # Where non-determinism only warns, this operation takes the way that does not repeat itself.
        with _deterministic(warn_only=False):
            found = torch.ops.aten._flash_attention_backward(
                grads[0].contiguous(), *states, *ctx.rows, random, unused, scale=ctx.scaling
            )
        return *found, None, None, None


@contextmanager
def _deterministic(*, warn_only: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


class _Spread(torch.autograd.Function):  # type: ignore[misc]
    """(T, heads, width) to (rows, longest, heads, width); what stands in padded slots is never attended to."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, pack: Pack) -> torch.Tensor:
        ctx.pack = pack
        spread = x.index_select(0, pack.fillers)
        return spread.view(pack.rows, pack.longest, *x.shape[1:])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return grads[0].flatten(0, 1).index_select(0, ctx.pack.slots), None


class _Rotated(torch.autograd.Function):  # type: ignore[misc]
    """Queries or keys of shape (T, heads, width), given their positions."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return rotate_rows(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return rotate_rows_backward(grads[0], *ctx.saved_tensors), None, None


class _Gather(torch.autograd.Function):  # type: ignore[misc]
    """The way back: (rows, longest, heads, width) to (T, heads, width)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, pack: Pack) -> torch.Tensor:
        ctx.pack = pack
        return x.flatten(0, 1).index_select(0, pack.slots)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        grad, pack = grads[0], ctx.pack
        # A padded query has no gradient: it would flow on into the keys of real tokens.
        padded = torch.cat([grad, grad.new_zeros(1, *grad.shape[1:])])
        return padded.index_select(0, pack.sources).view(pack.rows, pack.longest, *grad.shape[1:]), None


class _Copies:
    """Trained matrices in the precision of a pass, copied all at once: launching one by one takes longer than that."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        self._parameters = parameters
        self._copies: list[torch.Tensor] = []
        self._of: dict[int, torch.Tensor] = {}

    def forget(self) -> None:
        """The parameters may have moved since."""
        self._of = {}

    def of(self, parameter: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The parameter itself where it has that precision, else its copy."""
        if parameter.dtype == dtype:
            return parameter.detach()
        if id(parameter) not in self._of:
            if not self._copies:
                self._copies = [torch.empty_like(p, dtype=dtype, requires_grad=False) for p in self._parameters]
            with torch.no_grad():
                torch._foreach_copy_(self._copies, self._parameters)
            self._of = dict(zip(map(id, self._parameters), self._copies, strict=True))
        return self._of[id(parameter)]


def _forward_of(name: str, module: nn.Module, moment: Moment, copies: _Copies) -> Callable[..., Any] | None:
    """What replaces a module's forward, or None where the stock one stays."""
    from peft.tuners.lora import Linear
    from peft.tuners.tuners_utils import BaseTunerLayer

    if isinstance(module, BaseTunerLayer):
        if type(module) is not Linear or module.lora_variant or module.merged or module.fan_in_fan_out:
            raise TrainingError(f"{name}: packed mode computes plain LoRA of linear layers, not {module}")
        return _AdaptedLayer(name, module, moment, copies)
    if type(module).__name__ in ATTENTIONS:
        return _rotary_attention(module)
    if type(module).__name__ in NORMS:
        return _norm(module)
    if type(module).__name__ in GATED_UNITS and type(module.act_fn).__name__ in SILU:
        return _gated_unit(module)
    return None


def _rotary_attention(module: Any) -> Callable[..., tuple[torch.Tensor, None]]:
    def forward(
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        *,
        pack: Pack | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        pack = _checked(pack, attention_mask)
        _check_window(getattr(module, "sliding_window", None), pack)
        projected = _project(hidden_states, (module.q_proj, module.k_proj, module.v_proj))
        query, key, value = (x[0].unflatten(-1, (-1, module.head_dim)) for x in projected)
        cos, sin = (table[0] for table in position_embeddings)
        query, key = (_Rotated.apply(x, cos, sin) for x in (query, key))
        dropout = module.attention_dropout if module.training else 0.0
        out = _attention(query, key, value, pack, module.scaling, dropout)
        return module.o_proj(out.flatten(1)[None]), None

    return forward


def _norm(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)

    return forward


def _gated_unit(module: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = module.down_proj(_Gated.apply(*_project(x, (module.gate_proj, module.up_proj))))
        return out

    return forward


class _AdaptedLayer:
    """The forward of a linear layer with its adapter."""

    def __init__(self, name: str, module: Any, moment: Moment, copies: _Copies) -> None:
        (adapter,) = module.active_adapters
        self.module, self.moment, self.copies = module, moment, copies
        self.a, self.b = module.lora_A[adapter].weight, module.lora_B[adapter].weight
        self.rate = float(getattr(module.lora_dropout[adapter], "p", 0.0))
        self.scale = float(module.scaling[adapter])
        self.seed = dropout_seed(moment.training, name)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return _adapted(x, [self])[0]

    def mask(self) -> Dropout | None:
        if not self.rate or not self.module.training:
            return None
        return Dropout(step_seed(self.seed, self.moment.step), self.moment.first, self.rate)

    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        base = self.module.get_base_layer()
        return base.weight, base.bias, self.a, self.b


def _adapted(x: torch.Tensor, layers: Sequence[_AdaptedLayer]) -> tuple[torch.Tensor, ...]:
    """What layers that read the same make of it."""
    tensors = chain.from_iterable(layer.tensors() for layer in layers)
    settings = [(layer.scale, layer.mask(), layer.copies) for layer in layers]
    outs: tuple[torch.Tensor, ...] = _Adapted.apply(x, settings, *tensors)
    return outs


def _project(x: torch.Tensor, modules: Sequence[Any]) -> list[torch.Tensor]:
    """What modules that read the same make of it, those with an adapter together."""
    forwards = [vars(module).get("forward") for module in modules]
    layers = [forward for forward in forwards if isinstance(forward, _AdaptedLayer)]
    outs = iter(_adapted(x, layers) if layers else ())
    return [
        next(outs) if isinstance(forward, _AdaptedLayer) else module(x)
        for module, forward in zip(modules, forwards, strict=True)
    ]


class _Gated(torch.autograd.Function):  # type: ignore[misc]
    """silu(gate) * up, keeping the two factors alone."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return gated(gate, up)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return gated_backward(grads[0], *ctx.saved_tensors)


class _CrossEntropy(torch.autograd.Function):  # type: ignore[misc]
    """Sum over rows of the cross entropy of (n, vocabulary) logits with n targets, without a float32 copy of them."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses, total = cross_entropies(logits, targets)
        ctx.save_for_backward(logits, targets, total)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return cross_entropies_backward(grads[0], *ctx.saved_tensors), None


class _Adapted(torch.autograd.Function):  # type: ignore[misc]
    """x W^T + bias + scale * (drop(x) A^T) B^T for frozen W, in the precision of x or of autocast; of several layers.

    The adapter's part is added in place of the frozen part, and of the inputs only what the gradient of A needs
    is kept. The gradients of x add up where they are computed. A and B are float32; their gradients too.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        settings: Sequence[tuple[float, Dropout | None, _Copies]],
        *tensors: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        device = x.device.type
        mixed = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if mixed else x.dtype
        outs, saved, ctx.layers = [], [], []
        with torch.autocast(device, enabled=False) if mixed else nullcontext():
            rows = x.reshape(-1, x.shape[-1]).to(dtype)
            for (scale, mask, copies), (weight, bias, a, b) in zip(settings, _by(4, tensors), strict=True):
                cast = weight.to(dtype), copies.of(a, dtype), copies.of(b, dtype)
                out = linear(rows, cast[0], None if bias is None else bias.to(dtype))
                kept = rows if mask is None else drop(rows, mask)
                # What is kept makes up for what is dropped.
                factor = scale if mask is None else scale / (1 - mask.rate)
                inner = _scaled_product(kept, cast[1].t(), factor)
                out.addmm_(inner, cast[2].t())
                outs.append(out.view(*x.shape[:-1], out.shape[-1]))
                saved += [kept, inner, *cast]
                ctx.layers.append((factor, mask, a.dtype, b.dtype))
        ctx.save_for_backward(*saved)
        ctx.x = x.shape, x.dtype
        return tuple(outs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        found: list[torch.Tensor | None] = []
        grad_x: torch.Tensor | None = None
        for given, layer, saved in zip(grads, ctx.layers, _by(5, ctx.saved_tensors), strict=True):
            (factor, mask, *precision), (kept, inner, weight, a, b) = layer, saved
            grad = given.reshape(-1, given.shape[-1])
            grad_inner = _scaled_product(grad, b, factor)
            found += [None, None, _product(grad_inner.t(), kept, precision[0]), _product(grad.t(), inner, precision[1])]
            if ctx.needs_input_grad[0]:
                grad_x = grad @ weight if grad_x is None else grad_x.addmm_(grad, weight)
                if mask is None:
                    grad_x.addmm_(grad_inner, a)
                else:
                    add_kept_product(grad_x, grad_inner, a, mask)
        shape, dtype = ctx.x
        return None if grad_x is None else grad_x.view(shape).to(dtype), None, *found


def _by(size: int, items: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    return zip(*[iter(items)] * size, strict=True)


def _product(one: torch.Tensor, other: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """one @ other in another precision, which a GPU's products have for nothing."""
    if one.is_cuda and one.dtype != dtype:
        return torch.mm(one, other, out_dtype=dtype)
    return (one @ other).to(dtype)


def _scaled_product(one: torch.Tensor, other: torch.Tensor, scale: float) -> torch.Tensor:
    """scale * one @ other as one operation; what stands in the empty tensor counts zero times."""
    return torch.addmm(one.new_empty(1, 1), one, other, beta=0, alpha=scale)
