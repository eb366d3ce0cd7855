from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from leakage_assets.statistics.intervals import (
    mean_rates,
    question_bootstrap_rate,
    question_bootstrap_rates,
    wilson_bounds,
)
from leakage_assets.statistics.resampling import cluster_weights
from leakage_assets.statistics.result import StatisticsError


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilson_is_that_of_statsmodels(counts: tuple[int, int], level: float) -> None:
    k, n = counts
    low, high = proportion_confint(k, n, alpha=1 - level, method="wilson")
    ours = [float(bound[0]) for bound in wilson_bounds([k], [n], level=level)]
    assert ours == pytest.approx([low, high], abs=1e-12)
    assert 0 <= ours[0] <= k / n <= ours[1] <= 1


def test_wilson_bounds_of_many_rates_at_once() -> None:
    k, n = np.array([[0, 3], [7, 200]]), np.array([[10, 10], [10, 200]])
    low, high = wilson_bounds(k, n)
    expected_low, expected_high = proportion_confint(k, n, method="wilson")
    np.testing.assert_allclose(low, expected_low, atol=1e-12)
    np.testing.assert_allclose(high, expected_high, atol=1e-12)
    assert low[0, 0] == 0
    assert high[1, 1] == 1


def test_wilson_without_trials_has_no_bounds() -> None:
    assert np.isnan(wilson_bounds([0], [0])).all()


@pytest.mark.parametrize(("k", "n"), [(3, 2), (-1, 2), (0, -1)])
def test_wilson_refuses_impossible_counts(k: int, n: int) -> None:
    with pytest.raises(StatisticsError, match="between 0 and"):
        wilson_bounds([k], [n])


def test_question_bootstrap_is_the_slow_one() -> None:
    rng = np.random.default_rng(0)
    total = rng.integers(0, 12, size=(6, 20))
    found = rng.binomial(total, rng.random((6, 20)))
    ours = question_bootstrap_rates(list("abcdef"), found, total, seed=7, draws=300, level=0.9)
    weights = cluster_weights(20, 300, seed=7).astype(int)
    for row, estimate in enumerate(ours):
        draws = []
        for weight in weights:
            chosen = np.repeat(np.arange(20), weight)
            draws.append(found[row, chosen].sum() / total[row, chosen].sum())
        assert estimate.estimate == pytest.approx(found[row].sum() / total[row].sum())
        assert (estimate.ci_low, estimate.ci_high) == pytest.approx(tuple(np.quantile(draws, [0.05, 0.95])))
        assert (estimate.n, estimate.unit) == (20, "question cluster")
        assert "300 resamples, seed 7; questions resampled, sources and seeds held fixed" in estimate.method


def test_one_rate_equals_its_row_among_many() -> None:
    found, total = np.array([[3, 0, 5], [1, 2, 3]]), np.full((2, 3), 10)
    many = question_bootstrap_rates(["a", "b"], found, total, seed=1, draws=200)
    assert question_bootstrap_rate("b", found[1], total[1], seed=1, draws=200) == many[1]


def test_question_bootstrap_covers_a_clustered_rate_where_wilson_does_not() -> None:
    """Completions of one question agree: Wilson over completions is far too narrow, the bootstrap is not."""
    rng = np.random.default_rng(5)
    inside = {"wilson": 0, "bootstrap": 0}
    for trial in range(200):
        rates = rng.beta(0.6, 1.4, size=40)
        found = rng.binomial(10, rates)
        boot = question_bootstrap_rate("rate", found, np.full(40, 10), seed=trial, draws=400)
        low, high = wilson_bounds([found.sum()], [400])
        inside["bootstrap"] += boot.ci_low <= 0.3 <= boot.ci_high
        inside["wilson"] += low[0] <= 0.3 <= high[0]
    assert 178 <= inside["bootstrap"] <= 198
    assert inside["wilson"] < 140


def test_degenerate_rates_have_no_zero_width_interval() -> None:
    found, total = (
        np.array([[0, 0, 0], [5, 5, 5], [1, 0, 0], [0, 0, 0]]),
        np.array([[10] * 3] * 2 + [[1, 0, 0], [0] * 3]),
    )
    zero, even, sparse, empty = question_bootstrap_rates(list("abcd"), found, total, seed=1)
    assert (zero.estimate, zero.ci_low) == (0.0, None)
    assert "no variation" in zero.method
    assert even.ci_low is None
    assert (sparse.estimate, sparse.ci_low) == (1.0, None)
    assert "resamples are undefined" in sparse.method
    assert empty.undefined == "no completions"
    assert question_bootstrap_rate("one question", [3], [10], seed=1).ci_low is None


@pytest.mark.parametrize(("names", "found", "total"), [
    (["a"], [[1, 2]], [[1, 2, 3]]), (["a", "b"], [[1]], [[2]]), (["a"], [[3]], [[2]]), (["a"], [1], [2]),
])  # fmt: skip
def test_question_bootstrap_refuses_misuse(names, found, total) -> None:
    with pytest.raises(StatisticsError):
        question_bootstrap_rates(names, found, total, seed=1)


def test_mean_rates_are_means_of_rates_not_of_counts() -> None:
    found, total = np.array([[1.0, 3.0], [0.0, 0.0], [4.0, 0.0]]), np.array([[2.0, 4.0], [50.0, 50.0], [4.0, 4.0]])
    share = np.array([0.5, 0.25, 0.25])
    weights = np.array([[1.0, 1.0], [2.0, 0.0]])
    expected = [0.5 * 4 / 6 + 0.25 * 0 + 0.25 * 0.5, 0.5 * 0.5 + 0.25 * 0 + 0.25 * 1]
    np.testing.assert_allclose(mean_rates(found, total, share, weights), expected)
    assert np.isnan(mean_rates(found * [[1, 0]], total * [[1, 0]], share, np.array([[0.0, 1.0]]))).all()
    with pytest.raises(StatisticsError, match="mean rates"):
        mean_rates(found, total, share[:2], weights)
