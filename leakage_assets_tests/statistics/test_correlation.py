from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from leakage_assets.statistics.correlation import (
    COEFFICIENTS,
    correlate,
    correlate_rows,
    pearson,
    ranks,
    spearman,
)
from leakage_assets.statistics.result import StatisticsError

SCIPY = {"spearman": stats.spearmanr, "pearson": stats.pearsonr}


@st.composite
def vectors(draw) -> tuple[list[float], list[float]]:
    """Pairs with many ties or none."""
    n = draw(st.integers(4, 60))
    values = draw(st.sampled_from([st.integers(0, 5).map(float), st.floats(-1e3, 1e3).map(lambda v: round(v, 4))]))
    return draw(st.lists(values, min_size=n, max_size=n)), draw(st.lists(values, min_size=n, max_size=n))


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
@given(pair=vectors())
@settings(max_examples=50)
def test_equals_scipy(coefficient, pair) -> None:
    x, y = pair
    assume(len(set(x)) > 1 and len(set(y)) > 1)
    theirs = SCIPY[coefficient](x, y)
    ours = correlate("r", x, y, coefficient=coefficient, unit="pair")
    assert ours.estimate == pytest.approx(theirs.statistic, abs=1e-10)
    if abs(theirs.statistic) < 1 - 1e-9:  # beyond, p hangs on the last bits of r
        assert ours.p == pytest.approx(theirs.pvalue, rel=1e-6)
    assert ours.n == len(x)


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_p_holds_in_the_far_tail(coefficient) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=550)
    y = 2 * x + rng.normal(size=550)
    theirs = SCIPY[coefficient](x, y)
    assert theirs.pvalue < 1e-150
    assert correlate("r", x, y, coefficient=coefficient, unit="pair").p == pytest.approx(theirs.pvalue, rel=1e-6)


def test_pearson_interval_is_that_of_scipy() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 30))
    theirs = stats.pearsonr(x, y).confidence_interval(0.9)
    ours = pearson("r", x, y, unit="pair", level=0.9)
    assert (ours.ci_low, ours.ci_high) == pytest.approx(tuple(theirs))
    assert ours.ci_level == 0.9


def test_spearman_interval_is_that_of_bonett_and_wright() -> None:
    x, y = np.random.default_rng(2).normal(size=(2, 40))
    ours = spearman("rho", x, y, unit="pair")
    half = stats.norm.ppf(0.975) * np.sqrt((1 + ours.estimate**2 / 2) / 37)
    expected = np.tanh(np.arctanh(ours.estimate) + np.array([-half, half]))
    assert (ours.ci_low, ours.ci_high) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_interval_covers_the_planted_correlation(coefficient) -> None:
    rng = np.random.default_rng(3)
    r = 0.6
    truth = {"pearson": r, "spearman": 6 / np.pi * np.arcsin(r / 2)}[coefficient]  # bivariate normal
    inside = 0
    for _ in range(1000):
        x, noise = rng.normal(size=(2, 60))
        e = correlate("r", x, r * x + np.sqrt(1 - r**2) * noise, coefficient=coefficient, unit="pair")
        inside += e.ci_low <= truth <= e.ci_high
    assert 930 <= inside <= 970


def test_null_p_is_uniform() -> None:
    rng = np.random.default_rng(4)
    p = [spearman("rho", *rng.normal(size=(2, 50)), unit="pair").p for _ in range(500)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
def test_degenerate_pairs(coefficient) -> None:
    def of(x, y):
        return correlate("r", x, y, coefficient=coefficient, unit="pair")

    assert of([0.1, 0.1, 0.1], [1, 2, 3]).undefined == "x is constant"
    assert of([1, 2, 3], [0, 0, 0]).undefined == "y is constant"
    exact = of([1, 2, 3, 4], [2, 4, 6, 8])
    assert (exact.estimate, exact.p, exact.ci_low) == (pytest.approx(1), pytest.approx(0, abs=1e-12), None)
    assert "no interval: |r| = 1" in exact.method
    assert "more than 3 pairs" in of([1, 2, 3], [2, 1, 3]).method
    assert of([0, 0, 1e-300, 0], [0, 0, 1, 0]).estimate == pytest.approx(1)
    assert correlate("r", [1, 2, 4], [1, 3, 2], coefficient=coefficient, unit="pair", interval=False).ci_low is None


def test_spread_below_resolution_is_undefined() -> None:
    assert "floating-point" in pearson("r", [1, 1 + 2e-16, 1 + 4e-16], [1, 2, 4], unit="pair").undefined


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2], [1, 2], "at least 3"),
        ([1, 2, 3], [1, 2], "one length"),
        ([[1, 2, 3]], [[1, 2, 3]], "two vectors"),
        ([1, 2, float("nan")], [1, 2, 3], r"x\[2\] is nan"),
        ([1, 2, 3], [float("inf"), 2, 3], r"y\[0\] is inf"),
    ],
)
def test_misuse_raises(x, y, message) -> None:
    with pytest.raises(StatisticsError, match=message):
        spearman("rho", x, y, unit="pair")


def test_rows_equal_one_by_one() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.integers(0, 6, size=(2, 5, 30)).astype(float)
    x[2] = 0.1
    rows = correlate_rows(ranks(x), ranks(y))
    assert np.isnan(rows[2])
    for i in (0, 1, 3, 4):
        assert rows[i] == pytest.approx(stats.spearmanr(x[i], y[i]).statistic)
