from __future__ import annotations

import numpy as np
import pytest

from leakage_assets.statistics.resampling import (
    cluster_weights,
    percentile_interval,
    permutation_p,
    permutations,
)
from leakage_assets.statistics.result import StatisticsError


def test_weights_are_resamples_with_replacement() -> None:
    weights = cluster_weights(20, 4000, seed=1)
    assert (weights.sum(axis=1) == 20).all()
    # Multinomial: mean 1, variance 1 - 1/20, and about (1 - 1/20)^20 of the clusters left out.
    assert weights.mean() == pytest.approx(1)
    assert weights.var() == pytest.approx(0.95, abs=0.02)
    assert (weights == 0).mean() == pytest.approx(0.95**20, abs=0.01)


def test_draws_depend_on_the_seed_alone() -> None:
    assert np.array_equal(cluster_weights(9, 50, seed=3), cluster_weights(9, 50, seed=3))
    assert not np.array_equal(cluster_weights(9, 50, seed=3), cluster_weights(9, 50, seed=4))
    assert np.array_equal(permutations(9, 50, seed=3), permutations(9, 50, seed=3))


def test_permutations_are_uniform() -> None:
    order = permutations(3, 6000, seed=0)
    assert (np.sort(order, axis=1) == np.arange(3)).all()
    _, counts = np.unique(order, axis=0, return_counts=True)
    assert len(counts) == 6
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


def test_p_counts_ties_both_tails_and_the_observed_one() -> None:
    permuted = np.array([0.5, -0.5, 0.5 - 1e-15, 0.4, 0.0])
    assert permutation_p(0.5, permuted) == 4 / 6
    assert permutation_p(-0.5, permuted) == 4 / 6
    assert permutation_p(0.9, permuted) == 1 / 6


def test_percentile_interval_says_why_there_is_none() -> None:
    draws = np.linspace(0, 1, 101)
    assert percentile_interval(draws, 0.9) == pytest.approx((0.05, 0.95))
    assert percentile_interval(np.append(draws, np.nan), 0.9) == pytest.approx((0.05, 0.95))
    assert percentile_interval(np.append(draws, [np.nan] * 10), 0.9) == "10 of 111 resamples are undefined"
    assert percentile_interval(np.full(10, np.nan), 0.9) == "10 of 10 resamples are undefined"
    assert percentile_interval(np.zeros(10), 0.9) == "no variation between resamples"


@pytest.mark.parametrize("call", [
    lambda: cluster_weights(5, 0, seed=1), lambda: cluster_weights(0, 5, seed=1),
    lambda: permutations(5, 0, seed=1), lambda: percentile_interval(np.arange(5.0), 95),
])  # fmt: skip
def test_misuse_raises(call) -> None:
    with pytest.raises(StatisticsError):
        call()
