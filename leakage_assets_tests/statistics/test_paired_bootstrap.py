"""Bootstraps of paired differences: against drawing indices, against theory, and equivalence tests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakage_assets.statistics.paired_bootstrap import (
    Bound,
    bootstrap_estimate,
    centred_share,
    clustered_means,
    equivalence,
    independent_means,
    two_way_means,
)
from leakage_assets.statistics.resampling import generator
from leakage_assets.statistics.result import StatisticsError

TOST = (Bound(0.90, 0.03), Bound(0.99, 0.05))


def test_counts_of_values_are_what_drawn_indices_give() -> None:
    """The same distribution as a resample of single values: mean, spread and quantiles."""
    values = generator(1).choice([-1.0, -0.3, 0.0, 0.1, 1.0], size=3_516, p=[0.1, 0.2, 0.4, 0.2, 0.1])
    fast = independent_means(values, 20_000, generator(2))
    slow = values[generator(3).integers(0, len(values), size=(20_000, len(values)), dtype=np.int32)].mean(axis=1)
    assert fast.mean() == pytest.approx(values.mean(), abs=4e-4)
    assert fast.std() == pytest.approx(values.std() / np.sqrt(len(values)), rel=0.02)
    places = (0.005, 0.025, 0.05, 0.5, 0.95, 0.975, 0.995)
    assert np.quantile(fast, places) == pytest.approx(np.quantile(slow, places), abs=7e-4)


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=1, max_size=40), st.integers(0, 2**20))
def test_means_of_resamples_stay_within_the_values(values: list[float], seed: int) -> None:
    means = independent_means(values, 50, generator(seed))
    assert means.shape == (50,)
    assert np.all((means >= min(values) - 1e-12) & (means <= max(values) + 1e-12))
    rows = clustered_means([values, [-v for v in values]], 50, seed)
    assert rows[:, 0] == pytest.approx(-rows[:, 1])  # the same draw for every row


def test_clusters_that_move_together_widen_the_spread() -> None:
    """Three seeds of one question that agree are one observation, not three."""
    questions = generator(4).choice([-1.0, 0.0, 1.0], size=1_172)
    seeds = np.repeat(questions[None], 3, axis=0)
    single = independent_means(seeds, 4_000, generator(5)).std()
    whole = clustered_means(seeds.mean(axis=0)[None], 4_000, 6)[:, 0].std()
    assert whole / single == pytest.approx(np.sqrt(3), rel=0.05)


def test_seeds_that_differ_widen_it_further() -> None:
    rng = generator(7)
    effects = np.array([-0.1, 0.0, 0.1])
    rows = (rng.random((3, 1_172)) < (0.5 + effects)[:, None]).astype(float)[None]
    fixed = clustered_means(rows.mean(axis=1), 4_000, 8)[:, 0]
    both = two_way_means(rows, 4_000, 8)[:, 0]
    expected = rows[0].mean(axis=1).std() / np.sqrt(3)
    assert both.mean() == pytest.approx(rows.mean(), abs=0.004)
    assert both.std() == pytest.approx(np.hypot(fixed.std(), expected), rel=0.1)


def test_the_published_p_can_be_zero_and_ours_cannot() -> None:
    draws = generator(9).normal(0.2, 0.01, size=1_000)
    common = {"level": 0.95, "n": 10, "unit": "pair", "method": "bootstrap"}
    assert bootstrap_estimate("x", 0.2, draws, published_p=True, **common).p == 0.0
    assert bootstrap_estimate("x", 0.2, draws, published_p=False, **common).p == pytest.approx(1 / 1_001)
    found = bootstrap_estimate("x", 0.2, draws, published_p=True, **common)
    assert (found.ci_low, found.ci_high) == pytest.approx((0.2 - 0.0196, 0.2 + 0.0196), abs=0.002)


def test_p_counts_draws_around_their_own_mean() -> None:
    draws = np.array([0.1, 0.2, 0.3, 0.4])  # 0.15 and 0.05 from 0.25
    assert centred_share(0.15, draws) == 0.5
    assert centred_share(-0.05, draws) == 1.0
    assert centred_share(0.16, draws) == 0.0


@pytest.mark.parametrize(
    ("mean", "sd", "inside", "equivalent"),
    [
        (-0.017, 0.0026, [True, True], True),  # as published: a difference that is real, and inside
        (0.0, 0.001, [True, True], True),
        (0.025, 0.004, [False, True], False),
        (0.04, 0.006, [False, False], False),
        (0.0, 0.0195, [False, False], False),  # nothing there, but too little data to say so
    ],
)
def test_equivalence_needs_both_intervals_inside(mean: float, sd: float, inside: list[bool], equivalent: bool) -> None:
    draws = mean + sd * np.sort(generator(10).normal(size=4_000))
    found = equivalence(draws, TOST)
    assert [part.inside for part in found.parts] == inside and found.equivalent is equivalent
    assert (found.used < 1) is equivalent


def test_misuse_is_named() -> None:
    with pytest.raises(StatisticsError, match="at least one, all finite"):
        independent_means([], 10, generator(1))
    with pytest.raises(StatisticsError, match="all finite"):
        independent_means([0.1, float("nan")], 10, generator(1))
    with pytest.raises(StatisticsError, match=r"\(rows, clusters\)"):
        clustered_means([0.1, 0.2], 10, 1)
    with pytest.raises(StatisticsError, match=r"\(rows, seeds, questions\)"):
        two_way_means([[0.1]], 10, 1)
    with pytest.raises(StatisticsError, match="positive margins"):
        equivalence(np.array([0.1, 0.2]), ())
