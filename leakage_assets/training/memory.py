"""How much memory a training step needs, and what that means for how the step is cut.

A pure estimate, made before anything is allocated. It decides how a step is executed (in one pass, in several
passes of fewer tokens, or with gradient checkpointing) and never what is computed: gradients of the passes
are summed, so the results agree up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from leakage_assets.models import ELEMENT
from leakage_assets.shapes import ModelShape
from leakage_assets.training.recipe import Recipe

TrainingMode = Literal["packed", "as_published"]
"""How a step is computed. "packed": without padding, logits only where labels are, cut by the memory there
is. "as_published": padded batches of the recipe's size with the head over all positions, checkpointed in
bfloat16, as the published runs were."""

USABLE = 0.85
"""Share of the free memory that is planned with: the allocator rounds up and fragments."""
EFFICIENT_TOKENS = 1024
"""Passes of fewer tokens leave matrix units idle; checkpointing, half as much work again, is then no worse."""
FLOAT32 = ELEMENT["float32"]


@dataclass(frozen=True)
class MemoryPlan:
    """How the steps of a training are cut.

    Attributes:
        token_budget: a pass holds no more tokens, padding included.
        checkpointing: recompute each block in the backward pass instead of keeping its activations.
        estimated_bytes: peak beyond the base's weights.
        free_bytes: what is free beside them.
    """

    token_budget: int
    checkpointing: bool
    estimated_bytes: int
    free_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the estimate leaves the allocator its room."""
        return self.estimated_bytes <= USABLE * self.free_bytes


def plan_memory(
    shape: ModelShape, recipe: Recipe, rows: Sequence[tuple[int, int]], free_bytes: int, mode: TrainingMode
) -> MemoryPlan:
    """How the steps of a training on `rows` are cut. Where even the least does not fit, that is returned.

    Args:
        rows: of each row its number of tokens and of loss-bearing tokens; at least one.
        free_bytes: memory beside the base's weights.
        mode: only "packed" has a choice.
    """
    if mode == "packed":
        return _packed_plan(shape, recipe, rows, free_bytes)
    checkpointing = recipe.precision == "bfloat16"
    needed = padded_bytes(shape, recipe, rows, checkpointing=checkpointing)
    return MemoryPlan(recipe.batch_size * max(tokens for tokens, _ in rows), checkpointing, needed, free_bytes)


def adapter_bytes(shape: ModelShape, recipe: Recipe) -> int:
    """Bytes of an adapter in training: of each weight itself, its gradient, Adam's two moments and a temporary in
    float32, and a copy in the model's precision."""
    parameters = shape.lora_parameters(recipe.lora.r, recipe.lora.targets)
    return parameters * (5 * FLOAT32 + ELEMENT[recipe.precision])


def activation_bytes(shape: ModelShape, recipe: Recipe, padding: float = 1.0) -> int:
    """Bytes per token that one block keeps from the forward for the backward pass in packed mode.

    The sum of the tensors that autograd saves (the method of arXiv 2205.05198, section 4, for the operations of
    `packed.py`): the two inputs of the norms in float32 with a scale each (a GPU's fused norm keeps less),
    the input of each adapted layer (a copy of its own under dropout, else one for all layers that read the
    same) and its r products, queries, keys, values and output of attention, padded to the longest row of the
    pass, with a float32 log-sum per head (in float32 with keys and values repeated for each query head), and
    the two factors of the gated unit. Frozen weights need no saved input.

    Args:
        padding: tokens of the padded rows per token; attention alone pads, and in bfloat16 nothing does.
    """
    lora = recipe.lora
    adapted = [name for name in shape.projections() if name in lora.targets]
    width = {name: shape.projections()[name][0] for name in adapted}
    if lora.dropout:
        inputs = sum(width.values())
    else:
        # One saved tensor serves every layer that reads it: q, k and v; gate and up.
        readers = [("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)]
        inputs = sum(max((width.get(name, 0) for name in group), default=0) for group in readers)
    element = ELEMENT[recipe.precision]
    keys = shape.attention_width if element == FLOAT32 else shape.kv_width
    attention = padding * (2 * shape.attention_width + 2 * keys)
    elements = inputs + lora.r * len(adapted) + attention + 2 * shape.intermediate
    return round(elements * element + FLOAT32 * (2 * (shape.hidden + 1) + padding * shape.heads))


def pass_bytes(
    shape: ModelShape, recipe: Recipe, tokens: int, labels: int, *, checkpointing: bool, padding: float = 1.0
) -> int:
    """Peak bytes of one packed pass over `tokens` tokens of which `labels` carry loss, beyond the base's weights.

    The activations, the logits of the label positions, and the adapter (see `activation_bytes` and `_peak`).
    """
    return _peak(shape, recipe, activation_bytes(shape, recipe, padding), tokens, labels, checkpointing)


def padded_bytes(shape: ModelShape, recipe: Recipe, rows: Sequence[tuple[int, int]], *, checkpointing: bool) -> int:
    """Peak bytes of one `as_published` batch, beyond the base's weights: `recipe.batch_size` rows as long as the
    longest, with PEFT's own layers and the head over every position.

    PEFT keeps for each adapted layer a mask of one byte and a copy of its input; norms keep float32 copies;
    keys and values are repeated for each head; the gated unit keeps a third factor.
    """
    tokens = recipe.batch_size * max(tokens for tokens, _ in rows)
    lora, size = recipe.lora, ELEMENT[recipe.precision]
    adapted = [shape.projections()[name][0] for name in lora.targets]
    inputs = sum(adapted) * (size + (1 if lora.dropout else 0)) + size * lora.r * len(adapted)
    block = 2 * FLOAT32 * shape.hidden + inputs + size * (4 * shape.attention_width + 3 * shape.intermediate)
    return _peak(shape, recipe, block, tokens, tokens, checkpointing)


def _peak(shape: ModelShape, recipe: Recipe, block: int, tokens: int, scored: int, checkpointing: bool) -> int:
    """Peak bytes of a pass from what a block keeps of a token.

    Activations of all blocks (with checkpointing one block's, and its input for each), the gradients in
    flight while one gated unit is taken backward, logits of the scored positions (in the model's precision,
    in float32, their log-softmax, and both gradients), and the adapter.
    """
    size = ELEMENT[recipe.precision]
    kept = shape.blocks * shape.hidden * size + block if checkpointing else shape.blocks * block
    in_flight = size * (4 * shape.intermediate + 6 * shape.hidden)
    logits = shape.vocabulary * (2 * size + 3 * FLOAT32)
    return tokens * (kept + in_flight) + scored * logits + adapter_bytes(shape, recipe)


def _packed_plan(shape: ModelShape, recipe: Recipe, rows: Sequence[tuple[int, int]], free_bytes: int) -> MemoryPlan:
    """The fastest way to execute packed steps that the estimate fits into the free memory.

    The largest step that shuffling can make is the yardstick. In order of preference: the step in one pass;
    several passes of at least `EFFICIENT_TOKENS` tokens; checkpointing, with as few passes as fit. Where
    nothing fits, the last is returned with a pass per row, and the estimate says by how much it does not.
    """
    per_step = recipe.batch_size * recipe.grad_accum
    longest = sorted((tokens for tokens, _ in rows), reverse=True)
    step = sum(longest[:per_step])
    step_labels = sum(sorted((labels for _, labels in rows), reverse=True)[:per_step])
    label_share = max(labels / tokens for tokens, labels in rows)
    padding = longest[0] * len(longest) / sum(longest) if recipe.precision == "float32" else 1.0

    def estimate(tokens: int, labels: float, checkpointing: bool) -> int:
        return pass_bytes(shape, recipe, tokens, round(labels), checkpointing=checkpointing, padding=padding)

    whole = MemoryPlan(step, False, estimate(step, step_labels, False), free_bytes)
    if whole.fits:
        return whole

    def cut(checkpointing: bool) -> MemoryPlan:
        """Passes of as many tokens as fit, but no fewer than the longest row, were they all as dense in labels as the
        densest row."""
        fixed = estimate(0, 0, checkpointing)
        per_token = (estimate(step, label_share * step, checkpointing) - fixed) / step
        budget = min(step, max(longest[0], int((USABLE * free_bytes - fixed) / per_token)))
        return MemoryPlan(budget, checkpointing, estimate(budget, label_share * budget, checkpointing), free_bytes)

    kept = cut(False)
    return kept if kept.fits and kept.token_budget >= EFFICIENT_TOKENS else cut(True)
