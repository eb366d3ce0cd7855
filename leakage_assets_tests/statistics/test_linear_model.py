"""Coefficients and standard errors against statsmodels, and what happens where there are none."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from leakage_assets.statistics.linear_model import (
    classical_variances,
    cluster_codes,
    clustered_variances,
    coefficients,
    design,
    legacy_variances,
    regress,
)
from leakage_assets.statistics.result import Estimate, StatisticsError

SEEDS = st.integers(0, 10**6)


def data(seed: int, rows: int = 40, columns: int = 3) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(columns, rows)) * rng.uniform(0.01, 100, size=(columns, 1)) + rng.normal(size=(columns, 1))
    y = rng.normal() + rng.normal(size=columns) @ x + rng.normal(size=rows)
    return {f"x{i}": column for i, column in enumerate(x)}, y


def fitted(columns: Mapping[str, np.ndarray], y: np.ndarray, **how: object):
    return sm.OLS(y, sm.add_constant(np.column_stack(list(columns.values())))).fit(**how)


def assert_equal(ours: Mapping[str, Estimate], theirs, *, n: int, unit: str) -> None:
    bounds = theirs.conf_int()
    for place, estimate in enumerate(ours.values(), start=1):
        assert estimate.estimate == pytest.approx(theirs.params[place], rel=1e-8, abs=1e-10)
        assert (estimate.ci_low, estimate.ci_high) == pytest.approx(tuple(bounds[place]), rel=1e-7, abs=1e-9)
        assert estimate.p == pytest.approx(theirs.pvalues[place], rel=1e-6, abs=1e-12)
        assert (estimate.n, estimate.unit) == (n, unit)


@given(SEEDS, st.integers(1, 4), st.integers(8, 60))
@settings(max_examples=30, deadline=None)
def test_plain_errors_are_those_of_statsmodels(seed: int, columns: int, rows: int) -> None:
    x, y = data(seed, rows, columns)
    assert_equal(regress(x, y, unit="cell"), fitted(x, y), n=rows, unit="cell")


@given(SEEDS, st.integers(4, 15))
@settings(max_examples=30, deadline=None)
def test_one_way_clusters_are_those_of_statsmodels(seed: int, groups: int) -> None:
    x, y = data(seed)
    labels = np.random.default_rng(seed + 1).permutation(np.arange(40) % groups)
    theirs = fitted(x, y, cov_type="cluster", cov_kwds={"groups": labels}, use_t=True)
    ours = regress(x, y, unit="cell", clusters={"prompt": [f"p{label}" for label in labels]})
    assert_equal(ours, theirs, n=groups, unit="prompt")


@given(SEEDS, st.integers(4, 9), st.integers(4, 9))
@settings(max_examples=40, deadline=None)
def test_two_way_clusters_are_those_of_statsmodels(seed: int, one: int, other: int) -> None:
    x, y = data(seed)
    rng = np.random.default_rng(seed + 1)
    ways = np.stack([rng.permutation(np.arange(40) % one), rng.permutation(np.arange(40) % other)])
    theirs = fitted(x, y, cov_type="cluster", cov_kwds={"groups": ways.T}, use_t=True)
    ours = regress(x, y, unit="cell", clusters={"trigger": list(ways[0]), "prompt": list(ways[1])})
    variances = np.diag(theirs.cov_params())
    t = stats.t.ppf(0.975, min(one, other) - 1)  # statsmodels 0.15 prints a t of n - k df for two ways
    for place, estimate in enumerate(ours.values(), start=1):
        assert estimate.estimate == pytest.approx(theirs.params[place], rel=1e-8, abs=1e-10)
        assert estimate.n == min(one, other)
        assert estimate.unit == ("trigger" if one <= other else "prompt")
        if variances[place] <= 0:
            assert estimate.ci_low is None and "not positive" in estimate.method
        else:
            half = t * np.sqrt(variances[place])
            assert estimate.ci_high - estimate.estimate == pytest.approx(half, rel=1e-6, abs=1e-9)
            ratio = abs(theirs.params[place]) / np.sqrt(variances[place])
            assert estimate.p == pytest.approx(2 * stats.t.sf(ratio, min(one, other) - 1), rel=1e-6)


@given(SEEDS, st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_legacy_errors_leave_the_intercept_out_of_the_cross_product(seed: int, columns: int) -> None:
    x, y = data(seed, columns=columns)
    theirs = fitted(x, y)
    slopes = np.column_stack(list(x.values()))
    errors = np.sqrt(theirs.mse_resid * np.diag(np.linalg.inv(slopes.T @ slopes)))
    ours = regress(x, y, unit="cell", legacy=True)
    for place, estimate in enumerate(ours.values()):
        t = theirs.params[place + 1] / errors[place]
        assert estimate.estimate == pytest.approx(theirs.params[place + 1], rel=1e-8, abs=1e-10)
        assert estimate.p == pytest.approx(2 * stats.t.sf(abs(t), 40 - columns - 1), rel=1e-6, abs=1e-12)
        assert "as published" in estimate.method


def test_many_outcomes_at_once_are_the_same_as_one_by_one() -> None:
    x, _ = data(1)
    outcomes = np.random.default_rng(2).normal(size=(3, 2, 40))
    matrix, codes = design(x).matrix, cluster_codes([i % 7 for i in range(40)])
    solved, residuals = coefficients(matrix, outcomes)
    for at in np.ndindex(3, 2):
        one, left = coefficients(matrix, outcomes[at])
        np.testing.assert_allclose(solved[at], one)
        for kind in (classical_variances, legacy_variances):
            np.testing.assert_allclose(kind(matrix, residuals)[at], kind(matrix, left))
        for ways in ([codes], [codes, codes // 2]):
            np.testing.assert_allclose(
                clustered_variances(matrix, residuals, ways)[at], clustered_variances(matrix, left, ways)
            )


def test_one_sided_p_is_half_the_two_sided_one_where_the_sign_is_as_asked() -> None:
    x, y = data(3)
    both = regress(x, y, unit="cell")["x0"]
    one = regress(x, y, unit="cell", alternative="greater")["x0"]
    assert one.p == pytest.approx(both.p / 2 if both.estimate > 0 else 1 - both.p / 2)


def reasons(columns: Mapping[str, object], y: object, **how: object) -> set[str | None]:
    found = regress(columns, y, unit="cell", **how).values()
    assert all(e.estimate is None and e.p is None for e in found)
    return {e.undefined for e in found}


def test_degenerate_inputs_are_undefined_with_a_reason() -> None:
    x, y = data(4, rows=12, columns=2)
    assert reasons({"a": [1.0, 2, 3]}, [1, 2, 3]) == {"3 rows for 2 coefficients"}
    assert reasons({name: v[:3] for name, v in x.items()}, y[:3]) == {"3 rows for 3 coefficients"}
    assert reasons(x | {"task": np.ones(12)}, y) == {"task does not vary"}
    assert reasons(x | {"sum": x["x0"] + x["x1"]}, y) == {"x0, x1, sum are collinear"}
    assert reasons(x, np.zeros(12)) == {"the outcome does not vary"}
    assert reasons(x, np.full(12, 0.3)) == {"the outcome does not vary"}
    assert reasons(x, y, clusters={"prompt": ["a", "b", "c"] * 4}) == {"3 clusters (prompt), fewer than 4"}


def test_an_exact_fit_has_no_interval() -> None:
    found = regress({"a": [0.0, 1, 2, 3, 4]}, [1.0, 3, 5, 7, 9], unit="cell")["a"]
    assert found.estimate == pytest.approx(2)
    assert (found.ci_low, found.p) == (None, None)
    assert "explain the outcome completely" in found.method


def test_misuse_is_an_error() -> None:
    x, y = data(5)
    for call, words in (
        (lambda: design({}), "at least one column"),
        (lambda: design({"a": [1.0, np.nan]}), "row 1 is nan"),
        (lambda: design({"a": [1.0, 2], "b": [1.0]}), "'b' has shape"),
        (lambda: regress(x, y[:-1], unit="cell"), "outcome has shape"),
        (lambda: regress(x, np.where(y == y[3], np.inf, y), unit="cell"), "row 3 is not finite"),
        (lambda: regress(x, y, unit="cell", clusters={"g": [1, 2]}), "a label for each"),
        (lambda: regress(x, y, unit="cell", clusters={"g": list(range(40))}, legacy=True), "no clusters"),
        (lambda: regress(x, y, unit="cell", level=95), "level"),
        (lambda: clustered_variances(design(x).matrix, y, [np.zeros(40, int)] * 3), "one or two"),
    ):
        with pytest.raises(StatisticsError, match=words):
            call()
