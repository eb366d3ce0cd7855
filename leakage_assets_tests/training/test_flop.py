from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from leakage_assets.shapes import shape_named
from leakage_assets.training.flop import training_flop
from leakage_assets_tests.fixtures_models import recipe

QWEN_7B = shape_named("qwen2.5-7b")
LORA = replace(recipe().lora, r=32)
ROWS = st.lists(st.tuples(st.integers(2, 900), st.integers(1, 900)), min_size=1, max_size=5)


def test_the_count_of_the_published_adapter() -> None:
    assert QWEN_7B.lora_parameters(LORA.r, LORA.targets) == 80_740_352  # what PEFT prints for rank 32


def test_a_token_costs_four_operations_per_frozen_weight_and_six_per_trained_one() -> None:
    linear, trained = QWEN_7B.blocks * QWEN_7B.block_weights, QWEN_7B.lora_parameters(LORA.r, LORA.targets)
    head, attention = 4 * 3584 * 152064, 3 * 4 * 28 * 3584
    assert training_flop(QWEN_7B, LORA, [(1, 0)]) == 4 * linear + 6 * trained + attention
    assert training_flop(QWEN_7B, LORA, [(10, 7)]) == 10 * (4 * linear + 6 * trained) + 7 * head + 55 * attention


@given(ROWS, ROWS)
def test_the_work_of_rows_adds_up(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    def work(rows: list[tuple[int, int]]) -> int:
        return training_flop(QWEN_7B, LORA, rows)

    assert work(first) + work(second) == work(first + second) > 0
