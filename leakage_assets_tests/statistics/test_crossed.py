from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm

from leakage_assets.statistics.crossed import column_variance_ratio, mean_squares
from leakage_assets.statistics.result import StatisticsError


def ratio(table: np.ndarray):
    return column_variance_ratio("prompt_effect", table, rows="trigger", columns="prompt")


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(4, 12))
@settings(max_examples=20, deadline=None)
def test_mean_squares_and_p_are_those_of_an_analysis_of_variance(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(rows, columns)) + rng.normal(size=columns)
    long = pl.DataFrame(
        {"y": table.ravel(), "r": np.repeat(np.arange(rows), columns), "c": np.tile(np.arange(columns), rows)}
    ).to_dict(as_series=False)
    theirs = anova_lm(ols("y ~ C(r) + C(c)", long).fit())
    squares = mean_squares(table)
    expected = theirs["mean_sq"].to_numpy()
    np.testing.assert_allclose([squares.rows, squares.columns, squares.left], expected, rtol=1e-9)
    assert ratio(table).p == pytest.approx(theirs["PR(>F)"].to_numpy()[1], rel=1e-6)


def test_the_interval_holds_the_ratios_that_the_f_test_does_not_refuse() -> None:
    table = np.random.default_rng(1).normal(size=(4, 20)) + np.random.default_rng(2).normal(size=20)
    found, squares = ratio(table), mean_squares(table)
    observed = squares.columns / squares.left
    for bound, tail in ((found.ci_low, 0.025), (found.ci_high, 0.975)):
        assert stats.f.sf(observed / (1 + 4 * bound), 19, 57) == pytest.approx(tail)
    assert found.ci_low < found.estimate < found.ci_high
    assert (found.n, found.unit) == (20, "prompt")


def test_degenerate_tables() -> None:
    rng = np.random.default_rng(3)
    assert "fewer than 2 and 4" in ratio(rng.normal(size=(1, 9))).undefined
    assert "fewer than 2 and 4" in ratio(rng.normal(size=(4, 3))).undefined
    assert ratio(np.zeros((4, 8))).undefined == "the values do not vary"
    assert ratio(np.arange(4.0)[:, None] + rng.normal(size=8)).undefined == "triggers and prompts leave nothing"
    for table in (np.zeros(4), np.full((4, 8), np.nan)):
        with pytest.raises(StatisticsError, match="expected"):
            ratio(table)
