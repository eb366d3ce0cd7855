from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from scipy.special import expit

from leakage_assets.statistics.binomial import clustered_slope, overdispersed_slope
from leakage_assets.statistics.result import StatisticsError

SOURCES, QUESTIONS, COMPLETIONS = 12, 20, 5
SLOPE = -0.8


def newton(x, k, n) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients by direct maximisation of the likelihood, design and weights."""
    design = np.column_stack([np.ones(len(x)), x])

    def loss(b):
        eta = design @ b
        return float(np.sum(n * np.logaddexp(0, eta) - k * eta))

    def slope(b):
        return design.T @ (n * expit(design @ b) - k)

    found = optimize.minimize(loss, np.zeros(2), jac=slope, method="BFGS", options={"gtol": 1e-10})
    p = expit(design @ found.x)
    return found.x, design, n * p * (1 - p)


@st.composite
def counts(draw) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, found, total, cluster of rows that overlap in x."""
    rows, groups = draw(st.integers(12, 40)), draw(st.integers(4, 6))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    x, total = rng.normal(size=rows), rng.integers(1, 8, size=rows)
    found = rng.binomial(total, expit(0.5 * x - 0.2))
    some, rest = x[found > 0], x[found < total]
    assume(len(some) > 2 and len(rest) > 2 and some.min() + 0.3 < rest.max() and rest.min() + 0.3 < some.max())
    return x, found, total, np.arange(rows) % groups


@given(data=counts())
@settings(max_examples=25, deadline=None)
def test_slopes_maximise_the_likelihood_and_errors_are_the_sandwich(data) -> None:
    x, found, total, cluster = data
    b, design, weight = newton(x, found, total)
    ours = clustered_slope("slope", x, found, total, cluster, unit="question cluster")
    wide = overdispersed_slope("slope", x, found, total, unit="source")
    assert ours.estimate == pytest.approx(b[1], abs=1e-4) and wide.estimate == pytest.approx(b[1], abs=1e-4)
    bread = np.linalg.inv(design.T @ (weight[:, None] * design))
    residual = found - total * expit(design @ b)
    scores = np.array([design[cluster == g].T @ residual[cluster == g] for g in np.unique(cluster)])
    groups, rows = len(scores), len(x)
    factor = groups / (groups - 1) * (rows - 1) / (rows - 2)
    se = np.sqrt(factor * (bread @ scores.T @ scores @ bread)[1, 1])
    half = stats.t.ppf(0.975, groups - 1) * se
    assert ours.ci_high - ours.estimate == pytest.approx(half, rel=1e-3)
    assert ours.p == pytest.approx(2 * stats.t.sf(abs(b[1]) / se, groups - 1), rel=1e-2, abs=1e-6)
    assert (ours.n, ours.unit) == (groups, "question cluster")
    p = expit(design @ b)
    dispersion = max(1, np.sum(residual**2 / (total * p * (1 - p))) / (rows - 2))
    half = stats.t.ppf(0.975, rows - 2) * np.sqrt(dispersion * bread[1, 1])
    assert wide.ci_high - wide.estimate == pytest.approx(half, rel=1e-3)


def draw_counts(rng, *, between: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosine of each source and (sources, questions) counts: completions to one question share their luck, so that the
    rows of a question depend on one another while every single rate is as planted. ``between``: sd of what sources
    have besides x, in log-odds.
    """
    x = rng.uniform(-0.5, 1, SOURCES)
    logit = -0.3 + SLOPE * x + between * rng.normal(size=SOURCES)
    shared = rng.normal(size=(1, QUESTIONS, 1))
    own = rng.normal(size=(SOURCES, QUESTIONS, COMPLETIONS))
    said = stats.norm.cdf(0.6 * shared + 0.8 * own) < expit(logit)[:, None, None]
    return x, said.sum(axis=2), np.full((SOURCES, QUESTIONS), COMPLETIONS)


def by_question(x, found, total):
    rows = np.repeat(x, QUESTIONS), found.ravel(), total.ravel(), np.tile(np.arange(QUESTIONS), SOURCES)
    return clustered_slope("slope", *rows, unit="question cluster")


@pytest.mark.slow
def test_the_planted_slope_is_recovered_and_covered_over_questions() -> None:
    rng = np.random.default_rng(1)
    found = [by_question(*draw_counts(rng)) for _ in range(300)]
    slopes = np.array([e.estimate for e in found])
    # The estimate of a logit slope is a little too steep in small samples: 3 Monte Carlo errors and 2%.
    assert abs(slopes.mean() - SLOPE) < 3 * slopes.std() / np.sqrt(len(slopes)) + 0.02
    assert 0.91 <= np.mean([e.ci_low <= SLOPE <= e.ci_high for e in found]) <= 0.985


@pytest.mark.slow
def test_where_sources_differ_only_the_overdispersed_interval_covers() -> None:
    rng = np.random.default_rng(2)
    hit = {"questions": 0, "sources": 0}
    for _ in range(200):
        x, found, total = draw_counts(rng, between=0.7)
        narrow = by_question(x, found, total)
        wide = overdispersed_slope("slope", x, found.sum(axis=1), total.sum(axis=1), unit="source")
        hit["questions"] += narrow.ci_low <= SLOPE <= narrow.ci_high
        hit["sources"] += wide.ci_low <= SLOPE <= wide.ci_high
    assert hit["questions"] / 200 < 0.8
    assert hit["sources"] / 200 >= 0.9


def test_the_units_of_x_do_not_matter() -> None:
    x, found, total = draw_counts(np.random.default_rng(3))
    here, there = by_question(x, found, total), by_question(1e6 + 1e4 * x, found, total)
    assert there.estimate * 1e4 == pytest.approx(here.estimate, rel=1e-6)
    assert there.p == pytest.approx(here.p, rel=1e-6)


X = np.repeat([0.0, 1.0, 2.0, 3.0], 5)
CLUSTER = np.tile(np.arange(5), 4)
FIVE = np.full(20, 5)


@pytest.mark.parametrize(
    ("x", "found", "reason"),
    [
        (X, np.zeros(20), "nothing is found in any completion"),
        (X, FIVE, "everything is found in every completion"),
        (np.ones(20), np.arange(20) % 5, "x is constant"),
        (X, np.where(X > 1, 5, 0), "separates"),
        (X, np.where(X > 1, 0, 5), "separates"),
        (X, np.where(X > 1, 5, np.where(X < 1, 0, 2)), "separates"),
    ],
)
def test_degenerate_counts_are_undefined_for_a_stated_reason(x, found, reason) -> None:
    for estimate in (
        clustered_slope("slope", x, found, FIVE, CLUSTER, unit="question cluster"),
        overdispersed_slope("slope", x, found, FIVE, unit="source"),
    ):
        assert reason in estimate.undefined and estimate.p is None


def test_too_few_rows_or_clusters() -> None:
    found = np.arange(20) % 4
    assert clustered_slope("s", X, found, FIVE, CLUSTER % 3, unit="q").undefined == "3 clusters, fewer than 4"
    assert clustered_slope("s", X[:3], found[:3], FIVE[:3], CLUSTER[:3], unit="q").undefined.startswith("3 rows")
    assert overdispersed_slope("s", X[:3], found[:3], FIVE[:3], unit="q").undefined.startswith("3 rows")
    assert clustered_slope("s", [], [], [], [], unit="q").n == 0


def test_rows_without_completions_say_nothing() -> None:
    found = np.arange(20) % 4
    more = [np.append(X, 99.0), np.append(found, 0), np.append(FIVE, 0)]
    assert clustered_slope("s", *more, np.append(CLUSTER, 77), unit="q") == clustered_slope(
        "s", X, found, FIVE, CLUSTER, unit="q"
    )
    assert overdispersed_slope("s", *more, unit="u") == overdispersed_slope("s", X, found, FIVE, unit="u")


def test_clusters_that_do_not_differ_give_no_interval() -> None:
    found = X + 1
    alike = clustered_slope("s", X, found, FIVE, CLUSTER, unit="q")
    assert alike.estimate is not None and alike.ci_low is alike.p is None
    assert "no interval: no variation between clusters" in alike.method


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a | {"found": [9] * 20}, "between 0 and its total"),
        (lambda a: a | {"found": [float("nan")] * 20}, "between 0 and its total"),
        (lambda a: a | {"total": [5]}, "one length"),
        (lambda a: a | {"x": [float("inf")] * 20}, r"x\[0\] is inf"),
        (lambda a: a | {"clusters": [1]}, "cluster labels"),
    ],
)
def test_misuse_raises(change, message) -> None:
    arguments = {"x": X, "found": np.ones(20), "total": FIVE, "clusters": CLUSTER}
    with pytest.raises(StatisticsError, match=message):
        clustered_slope("s", **change(arguments), unit="q")
