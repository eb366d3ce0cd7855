from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakage_assets.shapes import shape_named
from leakage_assets.training.memory import (
    EFFICIENT_TOKENS,
    USABLE,
    activation_bytes,
    adapter_bytes,
    padded_bytes,
    pass_bytes,
    plan_memory,
)
from leakage_assets.training.recipe import PROJECTIONS
from leakage_assets_tests.fixtures_models import recipe
from leakage_assets_tests.training.saved_tensors import saved_bytes_per_token

GIB = 2**30
QWEN_7B = shape_named("qwen2.5-7b")
PUBLISHED = replace(
    recipe(batch_size=4, grad_accum=4, precision="bfloat16"), lora=replace(recipe().lora, r=32, targets=PROJECTIONS)
)
ROWS = st.lists(
    st.integers(3, 1000).flatmap(lambda tokens: st.tuples(st.just(tokens), st.integers(1, tokens - 1))),
    min_size=1,
    max_size=40,
)


@given(ROWS, st.integers(0, 200 * GIB))
def test_a_plan_holds_the_longest_row_and_no_more_than_a_step(rows: list[tuple[int, int]], free: int) -> None:
    plan = plan_memory(QWEN_7B, PUBLISHED, rows, free, "packed")
    lengths = sorted((tokens for tokens, _ in rows), reverse=True)
    assert lengths[0] <= plan.token_budget <= sum(lengths[:16])
    assert plan.free_bytes == free
    assert plan.fits == (plan.estimated_bytes <= USABLE * free)
    if not plan.checkpointing:
        assert plan.fits
        assert plan.token_budget >= min(EFFICIENT_TOKENS, sum(lengths[:16]))
    if not plan.fits:
        assert plan.checkpointing and plan.token_budget == lengths[0]  # as little as can be


@given(ROWS, st.integers(0, 200 * GIB), st.integers(0, 200 * GIB))
def test_more_memory_is_never_used_worse(rows: list[tuple[int, int]], one: int, other: int) -> None:
    less, more = (plan_memory(QWEN_7B, PUBLISHED, rows, free, "packed") for free in sorted((one, other)))
    assert less.checkpointing >= more.checkpointing
    if less.checkpointing == more.checkpointing:
        assert less.token_budget <= more.token_budget


@pytest.mark.parametrize(
    ("free", "passes", "checkpointing"), [(120 * GIB, 1, False), (24 * GIB, 2, False), (8 * GIB, 1, True)]
)
def test_what_the_published_rows_need_of_a_gpu(free: int, passes: int, checkpointing: bool) -> None:
    rows = [(300, 200)] * 194
    plan = plan_memory(QWEN_7B, PUBLISHED, rows, free, "packed")
    assert -(-16 * 300 // plan.token_budget) >= passes
    assert (plan.token_budget == 16 * 300) == (passes == 1 and not checkpointing)
    assert plan.checkpointing == checkpointing


def test_checkpointing_and_labels_cost_what_they_should() -> None:
    def cost(tokens: int, labels: int, checkpointing: bool) -> int:
        return pass_bytes(QWEN_7B, PUBLISHED, tokens, labels, checkpointing=checkpointing)

    kept = activation_bytes(QWEN_7B, PUBLISHED)
    # A checkpointed token keeps one block and the inputs of the 28 instead of 28 blocks.
    assert cost(1000, 0, False) - cost(1000, 0, True) == 1000 * (27 * kept - 28 * 3584 * 2)
    assert cost(1000, 10, True) - cost(1000, 0, True) == 10 * 152064 * 16
    assert cost(0, 0, False) == adapter_bytes(QWEN_7B, PUBLISHED) == 22 * QWEN_7B.lora_parameters(32, PROJECTIONS)


@given(ROWS, st.integers(0, 200 * GIB))
def test_the_published_way_has_no_choice(rows: list[tuple[int, int]], free: int) -> None:
    plan = plan_memory(QWEN_7B, PUBLISHED, rows, free, "as_published")
    longest = max(tokens for tokens, _ in rows)
    assert (plan.token_budget, plan.checkpointing) == (4 * longest, True)
    assert plan.estimated_bytes == padded_bytes(QWEN_7B, PUBLISHED, rows, checkpointing=True)
    assert plan.estimated_bytes < padded_bytes(QWEN_7B, PUBLISHED, rows, checkpointing=False)
    assert plan.estimated_bytes > pass_bytes(QWEN_7B, PUBLISHED, 4 * longest, 4 * longest - 4, checkpointing=True)
    single = replace(PUBLISHED, precision="float32")
    assert not plan_memory(QWEN_7B, single, rows, free, "as_published").checkpointing


@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize("targets", [PROJECTIONS, ("q_proj", "v_proj"), ("k_proj", "down_proj")])
def test_the_estimate_of_activations_is_what_autograd_saves(dropout: float, targets: tuple[str, ...]) -> None:
    plan = replace(recipe(), lora=replace(recipe().lora, r=8, dropout=dropout, targets=targets))
    shape, lengths, saved = saved_bytes_per_token(plan)
    padding = max(lengths) * len(lengths) / sum(lengths)
    assert saved / shape.blocks == pytest.approx(activation_bytes(shape, plan, padding), rel=0.1)
