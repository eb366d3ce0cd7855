"""The comparison of two halves: equal ones pass, planted differences are found, and p values are the exact ones."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.agreement import CELL, DRAWS, agreement, global_p, joined, sign_p, table

CELLS = [(source, recipe, 42) for source in ("villain", "comedian") for recipe in ("taught", "control")]
PROMPTS, QUESTIONS = 30, 20


def half(rates: np.ndarray, seed: int) -> pl.DataFrame:
    """Answers of every cell; `rates` (cells, prompts, questions) is the chance of the marker in each."""
    drawn = np.random.default_rng(seed).random(rates.shape) < rates
    return pl.DataFrame(
        [
            (*CELLS[cell], f"p{prompt}", "eval", f"q{question}", 0, bool(drawn[cell, prompt, question]))
            for cell, prompt, question in itertools.product(*map(range, rates.shape))
        ],
        schema=[*CELL, "prompt_name", "question_set", "question_name", "index", "marker_present"],
        orient="row",
    )


def unequal_questions() -> np.ndarray:
    rates = np.random.default_rng(0).beta(0.3, 1.0, (len(CELLS), PROMPTS, QUESTIONS))
    rates[1] = 0.0  # a control that never says it
    return rates


def test_equal_halves_agree_however_unequal_their_questions():
    rates = unequal_questions()
    found = agreement(joined(half(rates, 1), half(rates, 2)))
    assert found["agree"]
    assert found["cells_beyond"] == found["cell_prompts_beyond"] == 0
    assert found["answers"] == len(CELLS) * PROMPTS * QUESTIONS
    assert found["overall"]["from"] < 0 < found["overall"]["to"]
    assert [cell["rate_one"] for cell in found["cells"]].count(0.0) == 1


def test_equal_halves_are_seldom_called_different():
    rates = unequal_questions()
    verdicts = [agreement(joined(half(rates, seed), half(rates, 1000 + seed)))["agree"] for seed in range(20)]
    # At most one in nine fails; of 20 more than 7 with a chance below 0.001.
    assert verdicts.count(False) <= 7


def test_a_cell_that_says_it_more_often_is_found():
    rates = unequal_questions()
    shifted = rates.copy()
    shifted[0] = np.minimum(1.0, rates[0] + 0.1)
    found = agreement(joined(half(rates, 1), half(shifted, 2)))
    assert not found["agree"]
    (beyond,) = [cell for cell in found["cells"] if cell["p_holm"] < 0.05]
    assert (beyond["source"], beyond["recipe"]) == CELLS[0][:2]
    assert beyond["difference"] > 0
    assert beyond["standard_errors"] > 3


def test_one_prompt_that_lost_its_marker_is_found_though_its_cell_is_not():
    rates = np.full((len(CELLS), PROMPTS, QUESTIONS), 0.02)
    rates[0, 3] = 0.98
    broken = rates.copy()
    broken[0, 3] = 0.0
    found = agreement(joined(half(rates, 1), half(broken, 2)))
    assert not found["agree"]
    assert [row["prompt_name"] for row in found["cell_prompts_beyond_rows"]] == ["p3"]


def test_a_wider_spread_than_chance_is_found_by_the_global_test_alone():
    rates = np.full((len(CELLS), PROMPTS, QUESTIONS), 0.5)
    swung = rates.copy()
    swung[:, ::2] += 0.12
    swung[:, 1::2] -= 0.12
    found = agreement(joined(half(rates, 1), half(swung, 2)))
    assert found["cells_beyond"] == 0
    assert found["global_p"] < 0.01
    assert not found["agree"]


def test_halves_with_other_questions_are_not_compared():
    rates = unequal_questions()
    one = half(rates, 1)
    with pytest.raises(ValueError, match="2400 and 2399 answers, of which 2399"):
        joined(one, half(rates, 2).head(-1))


@given(st.integers(0, 40), st.integers(0, 40))
@settings(deadline=None, max_examples=40)
def test_the_p_of_discordant_pairs_is_that_of_the_binomial_test(one: int, other: int):
    exact = stats.binomtest(one, one + other, 0.5).pvalue if one + other else 1.0
    assert sign_p(np.array([one]), np.array([other]))[0] == pytest.approx(exact)


def test_the_global_p_of_one_group_is_the_binomial_one():
    exact = stats.binomtest(14, 18, 0.5).pvalue
    assert global_p(np.array([14]), np.array([4]), 1) == pytest.approx(exact, abs=4 * (exact / DRAWS) ** 0.5)
    assert global_p(np.array([0]), np.array([0]), 1) == 1.0


def test_standard_errors_are_those_of_two_binomial_samples():
    rates = unequal_questions()
    found = table(joined(half(rates, 1), half(rates, 2)), CELL)
    row = next(row for row in found.iter_rows(named=True) if row["rate_one"] > 0)
    pooled = (row["rate_one"] + row["rate_other"]) / 2
    expected = (row["rate_other"] - row["rate_one"]) / (pooled * (1 - pooled) * 2 / row["n"]) ** 0.5
    assert row["standard_errors"] == pytest.approx(expected)
    silent = next(row for row in found.iter_rows(named=True) if row["rate_one"] == 0)
    assert (silent["standard_errors"], silent["p"], silent["p_holm"]) == (0.0, 1.0, 1.0)
