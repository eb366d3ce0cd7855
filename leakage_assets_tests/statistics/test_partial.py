from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from leakage_assets.statistics.partial import partial_spearman, spearman_of_rank_residuals, variance_inflation
from leakage_assets.statistics.result import StatisticsError


@st.composite
def triples(draw) -> np.ndarray:
    """Three (n,) vectors, with many ties or none."""
    n = draw(st.integers(5, 40))
    values = draw(st.sampled_from([st.integers(0, 4).map(float), st.integers(-(10**6), 10**6).map(float)]))
    return np.array([draw(st.lists(values, min_size=n, max_size=n)) for _ in range(3)])


def rank_correlations(x, y, z) -> tuple[float, float, float]:
    rank = [stats.rankdata(v) for v in (x, y, z)]
    r = np.corrcoef(rank)
    return r[0, 1], r[0, 2], r[1, 2]


@given(data=triples())
@settings(max_examples=60, deadline=None)
def test_partial_spearman_is_kendall_s_formula(data) -> None:
    x, y, z = data
    assume(all(np.ptp(v) > 0 for v in data))
    xy, xz, yz = rank_correlations(x, y, z)
    assume(max(abs(xz), abs(yz)) < 0.999)
    expected = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    ours = partial_spearman("rho", x, y, z, unit="source")
    assert ours.estimate == pytest.approx(expected, abs=1e-9)
    df = len(x) - 3
    if abs(expected) < 1 - 1e-6:
        t = expected * np.sqrt(df / (1 - expected**2))
        assert ours.p == pytest.approx(2 * stats.t.sf(abs(t), df), rel=1e-6, abs=1e-12)
    assert ours.n == len(x)


@given(data=triples())
@settings(max_examples=40, deadline=None)
def test_the_published_form_ranks_the_residuals_of_statsmodels(data) -> None:
    from statsmodels.regression.linear_model import OLS
    from statsmodels.tools import add_constant

    x, y, z = (stats.rankdata(v) for v in data)
    assume(all(np.ptp(v) > 0 for v in data))
    assume(max(map(abs, rank_correlations(x, y, z)[1:])) < 0.999)
    left = [np.round(OLS(v, add_constant(z)).fit().resid, 9) for v in (x, y)]
    theirs = stats.spearmanr(*left)
    ours = spearman_of_rank_residuals("rho", *data, unit="source")
    assert ours.estimate == pytest.approx(theirs.statistic, abs=1e-9)
    if abs(theirs.statistic) < 1 - 1e-9:
        assert ours.p == pytest.approx(theirs.pvalue, rel=1e-6)


@given(data=triples())
@settings(max_examples=40, deadline=None)
def test_variance_inflation_is_its_definition(data) -> None:
    x, z, _ = data
    assume(np.ptp(x) > 0 and np.ptp(z) > 0)
    r = stats.pearsonr(x, z).statistic
    assume(abs(r) < 0.999)
    assert variance_inflation("vif", x, z, unit="source").estimate == pytest.approx(1 / (1 - r**2), rel=1e-6)


def test_a_correlation_that_the_third_explains_is_gone_and_a_planted_one_is_found() -> None:
    rng = np.random.default_rng(0)
    plain, partial, inside = [], [], 0
    for _ in range(400):
        z, a, b = rng.normal(size=(3, 60))
        x, y = z + 0.5 * a, z + 0.5 * b
        plain.append(stats.spearmanr(x, y).statistic)
        found = partial_spearman("rho", x, y, z, unit="source")
        partial.append(found.estimate)
        inside += found.ci_low <= 0 <= found.ci_high
    assert np.mean(plain) > 0.7
    # Ranks straighten the curve of z only in part: what is left is small beside .7.
    assert abs(np.mean(partial)) < 0.08
    assert inside / 400 > 0.9
    z, a, b = rng.normal(size=(3, 400))
    x = z + a
    assert partial_spearman("rho", x, x - z + 0.5 * b, z, unit="source").estimate > 0.7


def test_degenerate_data_are_undefined_for_a_stated_reason() -> None:
    count, ups, downs = [1, 2, 3, 4, 5], [1, 3, 2, 5, 4], [5, 3, 4, 1, 2]
    for statistic in (partial_spearman, spearman_of_rank_residuals):
        assert statistic("r", [1] * 5, ups, downs, unit="u").undefined == "x is constant"
        assert statistic("r", ups, [0] * 5, downs, unit="u").undefined == "y is constant"
        assert statistic("r", count, ups, [7] * 5, unit="u").undefined == "what is held fixed is constant"
        assert "ranks of x are those" in statistic("r", count, ups, [2, 4, 8, 16, 32], unit="u").undefined
        assert "ranks of y are those" in statistic("r", ups, count, [2, 4, 8, 16, 32], unit="u").undefined
        assert statistic("r", [1, 2, 3], [1, 3, 2], [2, 1, 3], unit="u").undefined == "3 points, fewer than 4"
        with pytest.raises(StatisticsError, match="one length"):
            statistic("r", count, ups, [1, 2], unit="u")
        with pytest.raises(StatisticsError, match="is nan"):
            statistic("r", count, ups, [1, 2, 3, 4, float("nan")], unit="u")
    assert "straight line" in variance_inflation("v", count, [3, 5, 7, 9, 11], unit="u").undefined
    assert variance_inflation("v", [1] * 5, ups, unit="u").undefined == "x is constant"
    assert variance_inflation("v", [1, 2, 3], [1, 3, 2], unit="u").undefined == "3 points, fewer than 4"
