from __future__ import annotations

import warnings

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from leakage_assets.statistics.linear_model import regress
from leakage_assets.statistics.random_intercept import random_intercept
from leakage_assets.statistics.result import StatisticsError


def data(seed: int, *, groups: int = 12, spread: float = 1.0) -> tuple[dict[str, np.ndarray], np.ndarray, list[str]]:
    """Groups of 2 to 6 rows; one column varies within groups, one only between them."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(groups), rng.integers(2, 7, size=groups))
    level = rng.normal(scale=spread, size=groups)
    x = {"within": rng.normal(size=len(codes)), "between": rng.normal(size=groups)[codes]}
    y = 0.3 + 0.5 * x["within"] - 0.4 * x["between"] + level[codes] + rng.normal(scale=0.5, size=len(codes))
    return x, y, [f"p{code}" for code in codes]


def mixed(x: dict[str, np.ndarray], y: np.ndarray, groups: list[str]):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = sm.MixedLM(y, sm.add_constant(np.column_stack(list(x.values()))), groups=groups)
        return model.fit(reml=True, method=["bfgs", "lbfgs"])


@given(st.integers(0, 10**6), st.sampled_from([1.0, 3.0]))
@settings(max_examples=20, deadline=None)
def test_it_is_statsmodels_mixed_model(seed: int, spread: float) -> None:
    """Groups that differ clearly: where they hardly do, the likelihood is flat and statsmodels stops anywhere on it."""
    x, y, groups = data(seed, groups=30, spread=spread)
    theirs, ours = mixed(x, y, groups), random_intercept(x, y, groups, group_unit="prompt")
    variance = float(theirs.cov_re[0, 0])
    assume(theirs.converged)
    assert ours.group_variance == pytest.approx(variance, rel=2e-3)
    assert ours.residual_variance == pytest.approx(theirs.scale, rel=1e-3)
    for place, estimate in enumerate(ours.coefficients.values(), start=1):
        assert estimate.estimate == pytest.approx(theirs.fe_params[place], abs=1e-3)
        assert (estimate.n, estimate.unit) == (30, "prompt")


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.4, 3.0]))
@settings(max_examples=20, deadline=None)
def test_coefficients_and_errors_are_those_of_generalised_least_squares(seed: int, spread: float) -> None:
    x, y, groups = data(seed, spread=spread)
    ours = random_intercept(x, y, groups, group_unit="prompt")
    same = np.array(groups)[:, None] == np.array(groups)[None]
    covariance = np.eye(len(y)) + ours.group_variance / ours.residual_variance * same
    theirs = sm.GLS(y, sm.add_constant(np.column_stack(list(x.values()))), sigma=covariance).fit()
    assert ours.residual_variance == pytest.approx(theirs.scale)
    for place, estimate in enumerate(ours.coefficients.values(), start=1):
        assert estimate.estimate == pytest.approx(theirs.params[place])
        assert estimate.ci_high - estimate.estimate == pytest.approx(stats.t.ppf(0.975, 11) * theirs.bse[place])
        assert estimate.p == pytest.approx(2 * stats.t.sf(abs(theirs.tvalues[place]), 11))


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_the_variance_ratio_is_where_the_restricted_likelihood_is_highest(seed: int) -> None:
    """Against the likelihood written with matrices, n x n."""
    x, y, groups = data(seed, spread=0.5)
    matrix = sm.add_constant(np.column_stack(list(x.values())))
    same = (np.array(groups)[:, None] == np.array(groups)[None]).astype(float)

    def height(ratio: float) -> float:
        inverse = np.linalg.inv(np.eye(len(y)) + ratio * same)
        inner = matrix.T @ inverse @ matrix
        left = y - matrix @ np.linalg.solve(inner, matrix.T @ inverse @ y)
        df = len(y) - matrix.shape[1]
        logdets = -np.linalg.slogdet(inverse)[1] + np.linalg.slogdet(inner)[1]
        return -(df * np.log(left @ inverse @ left) + logdets)

    fit = random_intercept(x, y, groups, group_unit="prompt")
    best = height(fit.group_variance / fit.residual_variance)
    assert all(best >= height(ratio) - 1e-6 for ratio in [0, *np.geomspace(1e-4, 1e4, 80)])


def test_without_differences_between_groups_it_is_plain_least_squares() -> None:
    x, y, groups = data(5)
    codes = np.unique(groups, return_inverse=True)[1]
    residual = np.random.default_rng(1).normal(size=len(y))
    residual -= np.array([residual[codes == c].mean() for c in range(12)])[codes]  # no group differs from another
    y = 1 + x["within"] + residual
    fit = random_intercept(x, y, groups, group_unit="prompt")
    assert fit.group_variance == 0
    plain = regress(x, y, unit="row")
    for term, estimate in fit.coefficients.items():
        assert estimate.estimate == pytest.approx(plain[term].estimate)
        assert estimate.ci_low is not None


def test_degenerate_inputs_are_undefined_with_a_reason() -> None:
    x, y, groups = data(6)
    few = [g if g in ("p0", "p1") else "p2" for g in groups]
    codes = np.unique(groups, return_inverse=True)[1].astype(float)
    cases = {
        "3 groups (prompt), fewer than 4": (x, y, few),
        "every prompt has one row": (x, y, [str(i) for i in range(len(y))]),
        "the outcome does not vary": (x, np.zeros(len(y)), groups),
        "within does not vary": (x | {"within": np.ones(len(y))}, y, groups),
        "the columns and a level for every prompt explain the outcome completely": (x, codes + x["within"], groups),
    }
    for reason, (columns, outcome, labels) in cases.items():
        fit = random_intercept(columns, outcome, labels, group_unit="prompt")
        assert fit.fault == reason
        assert {e.undefined for e in fit.coefficients.values()} == {reason}
        assert fit.group_variance is fit.residual_variance is None
    with pytest.raises(StatisticsError, match="one for each"):
        random_intercept(x, y, groups[1:], group_unit="prompt")
