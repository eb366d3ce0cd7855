from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from leakage_assets.statistics.held_out import block_orders, held_out_gap
from leakage_assets.statistics.resampling import permutations
from leakage_assets.statistics.result import StatisticsError

TRIGGERS, PROMPTS, SEEDS = ("task", "instruction", "context", "format"), 6, 2


def layout() -> tuple[list[str], list[int], list[int]]:
    cells = [(t, p, s) for t in TRIGGERS for p in range(PROMPTS) for s in range(SEEDS)]
    trigger, prompt, seed = zip(*cells, strict=True)
    return list(trigger), list(prompt), list(seed)


def data(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3, len(layout()[0])))
    return dict(zip("abc", x, strict=True)), x[0] + 0.5 * x[1] + rng.normal(size=x.shape[1])


def slow(columns: dict[str, np.ndarray], y: np.ndarray, groups: list[str]) -> tuple[list[float], list[float]]:
    """By statsmodels, one fold after the other: R² and rank correlation."""
    matrix, own = sm.add_constant(np.column_stack(list(columns.values()))), np.array(groups)
    r2, rank = [], []
    for group in dict.fromkeys(groups):
        test = own == group
        predicted = sm.OLS(y[~test], matrix[~test]).fit().predict(matrix[test])
        r2.append(1 - np.sum((y[test] - predicted) ** 2) / np.sum((y[test] - y[test].mean()) ** 2))
        rank.append(stats.spearmanr(y[test], predicted).statistic)
    return r2, rank


@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_everything_equals_a_loop_over_statsmodels(seed: int) -> None:
    columns, y = data(seed)
    trigger, _, _ = layout()
    orders = permutations(len(y), 30, seed)
    found = held_out_gap(columns, ["a"], y, trigger, orders=orders, shuffled="rows", group_unit="trigger")
    full, rank = slow(columns, y, trigger)
    reduced, _ = slow({"a": columns["a"]}, y, trigger)
    gap = np.mean(full) - np.mean(reduced)
    assert found.full.estimate == pytest.approx(np.mean(full))
    assert found.reduced.estimate == pytest.approx(np.mean(reduced))
    assert found.gap.estimate == pytest.approx(gap)
    assert found.rank.estimate == pytest.approx(np.mean(rank))
    assert found.folds == pytest.approx(dict(zip(TRIGGERS, full, strict=True)))
    one = {"a": columns["a"]}
    draws = [np.mean(slow(columns, y[o], trigger)[0]) - np.mean(slow(one, y[o], trigger)[0]) for o in orders]
    assert found.gap.p == pytest.approx((1 + sum(d >= gap - 1e-12 for d in draws)) / 31)
    assert (found.gap.n, found.gap.unit, found.gap.ci_low) == (4, "trigger", None)
    assert "30 draws" in found.gap.method and "rows" in found.gap.method


def test_blocks_move_whole_and_keep_their_places() -> None:
    trigger, prompt, seed = layout()
    pairs, places = list(zip(trigger, prompt, strict=True)), seed
    orders = block_orders(pairs, places, 50, 3)
    rows = np.arange(len(trigger))
    for order in orders:
        assert sorted(order) == list(rows)
        moved = [(pairs[o], places[o]) for o in order]
        assert [place for _, place in moved] == places
        of_block: dict[object, set[object]] = {}
        for row, (block, _) in enumerate(moved):
            of_block.setdefault(pairs[row], set()).add(block)
        assert all(len(found) == 1 for found in of_block.values())
    assert len({tuple(order) for order in orders}) > 40


def test_blocks_that_are_not_alike_have_no_orders() -> None:
    assert "not alike" in block_orders(["a", "a", "b"], [1, 2, 1], 5, 1)
    assert "not alike" in block_orders(["a", "a", "b", "b"], [1, 1, 1, 2], 5, 1)
    with pytest.raises(StatisticsError, match="one of each per row"):
        block_orders(["a"], [1, 2], 5, 1)
    columns, y = data(1)
    found = held_out_gap(columns, ["a"], y, layout()[0], orders="none exist", shuffled="x", group_unit="trigger")
    assert found.gap.p is None and "no p: none exist" in found.gap.method


def test_a_good_predictor_is_found_and_a_useless_one_is_not() -> None:
    columns, _ = data(2)
    y = 2 * columns["b"] + 0.1 * np.random.default_rng(0).normal(size=len(columns["b"]))
    orders = permutations(len(y), 199, 1)
    found = held_out_gap(columns, ["a"], y, layout()[0], orders=orders, shuffled="rows", group_unit="trigger")
    assert found.full.estimate > 0.9 and found.gap.p == pytest.approx(1 / 200)
    assert found.rank.estimate > 0.9
    columns.pop("b")
    useless = held_out_gap(columns, ["a"], y, layout()[0], orders=orders, shuffled="rows", group_unit="trigger")
    assert useless.gap.p > 0.05 and useless.full.estimate < 0.2


def test_degenerate_inputs_are_undefined_with_a_reason() -> None:
    columns, y = data(3)
    trigger = layout()[0]
    orders = permutations(len(y), 5, 1)

    def reason(x: dict[str, np.ndarray], outcome: np.ndarray, groups: list[str]) -> str:
        found = held_out_gap(x, ["a"], outcome, groups, orders=orders, shuffled="rows", group_unit="trigger")
        assert {found.full.undefined, found.reduced.undefined, found.rank.undefined} == {found.gap.undefined}
        assert not found.folds
        return found.gap.undefined or ""

    own = np.array(trigger) == "task"
    assert reason(columns, y, ["task"] * len(y)) == "1 trigger, fewer than 4"
    assert (
        reason(columns, y, ["task" if name == "task" else "format" for name in trigger]) == "2 triggers, fewer than 4"
    )
    merged = ["task" if name == "context" else name for name in trigger]
    assert reason(columns, y, merged) == "3 triggers, fewer than 4"
    assert reason(columns | {"b": np.zeros(len(y))}, y, trigger) == "b does not vary"
    assert reason(columns | {"b": own.astype(float)}, y, trigger) == "without task: b does not vary"
    assert reason(columns, np.where(own, 0.0, y), trigger) == "the outcome of task does not vary"
    assert reason(columns, np.zeros(len(y)), trigger) == "the outcome of task does not vary"
    flat = {"a": np.array([0.0, 1] * 12 + [0.5] * 12 + list(np.linspace(0, 1, 12)))}
    found = held_out_gap(flat, ["a"], y, trigger, orders=orders, shuffled="rows", group_unit="trigger")
    assert found.rank.undefined == "the prediction for context does not vary"
    with pytest.raises(StatisticsError, match="no column 'z'"):
        held_out_gap(columns, ["z"], y, trigger, orders=orders, shuffled="rows", group_unit="trigger")
    with pytest.raises(StatisticsError, match="expected one length"):
        held_out_gap(columns, ["a"], y[:-1], trigger, orders=orders, shuffled="rows", group_unit="trigger")


def test_a_permuted_fold_without_variation_counts_against_the_gap() -> None:
    """One row of many has the marker: most draws leave a fold constant, where R² does not exist."""
    columns, y = data(4)
    sparse = np.zeros(len(y))
    sparse[[0, 12, 24, 36]] = 1.0
    orders = permutations(len(y), 99, 1)
    found = held_out_gap(columns, ["a"], sparse, layout()[0], orders=orders, shuffled="rows", group_unit="trigger")
    assert found.gap.p > 0.8
