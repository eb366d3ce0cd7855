"""Against the formulas of the textbook and of scipy; the code under test uses statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from leakage_assets.statistics.points import Points, as_points
from leakage_assets.statistics.regression import (
    check_predictions,
    check_table,
    fit_line,
    influence,
    leave_one_out,
    prediction_band,
)
from leakage_assets.statistics.result import StatisticsError

MARGIN = 0.25
VALUES = st.integers(-1000, 1000).map(lambda v: v / 100)


def named(x, y) -> Points:
    return as_points([f"s{i}" for i in range(len(x))], x, y, unit="source")


@st.composite
def scatter(draw) -> Points:
    n = draw(st.integers(4, 14))
    x, y = (draw(st.lists(VALUES, min_size=n, max_size=n)) for _ in range(2))
    # Neither a line nor a column, with or without the point that a refit leaves out.
    assume(all(len({*x} - {value}) > 1 for value in x))
    line = stats.linregress(x, y)
    residuals = np.array(y) - line.intercept - line.slope * np.array(x)
    assume(np.abs(residuals).max() > 1e-3)
    return named(x, y)


def by_hand(points: Points, x0: float) -> tuple[float, float]:
    """The sheet's formulas: ŷ and half the width of the 95% prediction interval."""
    x, y, n = points.x, points.y, len(points)
    sxx = np.sum((x - x.mean()) ** 2)
    b = np.sum((x - x.mean()) * (y - y.mean())) / sxx
    a = y.mean() - b * x.mean()
    s = math.sqrt(np.sum((y - a - b * x) ** 2) / (n - 2))
    half = stats.t.ppf(0.975, n - 2) * s * math.sqrt(1 + 1 / n + (x0 - x.mean()) ** 2 / sxx)
    return a + b * x0, half


@given(points=scatter())
@settings(max_examples=40, deadline=None)
def test_the_line_is_that_of_scipy(points: Points) -> None:
    line, theirs = fit_line(points), stats.linregress(points.x, points.y)
    assert line.slope.estimate == pytest.approx(theirs.slope, abs=1e-9)
    assert line.intercept.estimate == pytest.approx(theirs.intercept, abs=1e-9)
    assert line.slope.p == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-12)
    half = stats.t.ppf(0.975, len(points) - 2) * theirs.stderr
    assert line.slope.ci_high - line.slope.estimate == pytest.approx(half, rel=1e-6, abs=1e-12)
    assert line.slope.n == len(points)


@given(points=scatter(), x0=VALUES, y0=VALUES)
@settings(max_examples=40, deadline=None)
def test_the_prediction_interval_is_the_sheet_s_formula(points: Points, x0: float, y0: float) -> None:
    (check,) = check_predictions(points, named([x0], [y0]), margin=MARGIN)
    expected, half = by_hand(points, x0)
    assert check.predicted.estimate == pytest.approx(expected, abs=1e-9)
    assert check.half_width == pytest.approx(half, rel=1e-9)
    if abs(abs(y0 - expected) - half) > 1e-9:
        assert check.inside == (abs(y0 - expected) <= half) == (check.predicted.p >= 0.05)
    df = len(points) - 2
    se = half / stats.t.ppf(0.975, df)
    assert check.predicted.p == pytest.approx(2 * stats.t.sf(abs(y0 - expected) / se, df), rel=1e-6, abs=1e-12)
    lower, upper = (stats.t.sf((MARGIN + sign * (y0 - expected)) / se, df) for sign in (1, -1))
    assert check.deviation.p == pytest.approx(max(lower, upper), rel=1e-6, abs=1e-12)
    assert check.deviation.estimate == pytest.approx(y0 - expected, abs=1e-9)


@given(points=scatter())
@settings(max_examples=40, deadline=None)
def test_influence_is_the_sheet_s_formula(points: Points) -> None:
    x, y, n = points.x, points.y, len(points)
    line = stats.linregress(x, y)
    e = y - line.intercept - line.slope * x
    h = 1 / n + (x - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2)
    d = e**2 / (2 * np.sum(e**2) / (n - 2)) * h / (1 - h) ** 2
    found = influence(points)
    assert [i.leverage.estimate for i in found] == pytest.approx(list(h), abs=1e-9)
    assert [i.cooks_d.estimate for i in found] == pytest.approx(list(d), rel=1e-6, abs=1e-9)
    assert {(i.leverage_threshold, i.cooks_threshold) for i in found} == {(4 / n, 4 / n)}
    for one, value in zip(found, d, strict=True):
        if abs(value - 4 / n) > 1e-9:
            assert one.influential == (value > 4 / n)
    assert sum(h) == pytest.approx(2)


@given(points=scatter())
@settings(max_examples=20, deadline=None)
def test_leaving_one_out_is_the_line_without_it(points: Points) -> None:
    assume(len(points) > 4)
    rest = [points.without(name) for name in points.names]
    assume(all(np.abs(stats.linregress(p.x, p.y).rvalue) < 1 - 1e-9 for p in rest))
    found = leave_one_out("held_out", points, margin=MARGIN)
    inside = []
    for i, (left_out, check) in enumerate(found.checks):
        assert left_out == check.name == points.names[i]
        expected, half = by_hand(rest[i], float(points.x[i]))
        assert (check.predicted.estimate, check.half_width) == pytest.approx((expected, half), rel=1e-6, abs=1e-9)
        inside.append(check.inside)
    assert found.coverage.estimate == pytest.approx(np.mean(inside))
    assert found.coverage.n == len(points) and "share points" in found.coverage.method


def test_checked_points_are_looked_at_in_every_refit() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=9)
    points = named(x, 0.3 * x + rng.normal(size=9))
    new = as_points(["near", "far"], [0.0, 0.0], [0.0, 99.0], unit="source")
    found = leave_one_out("new", points, checked=new, margin=MARGIN)
    assert [(dropped, check.name) for dropped, check in found.checks] == [
        (name, target) for name in points.names for target in ("near", "far")
    ]
    assert found.coverage.estimate == 0  # a refit passes only if every target lies inside
    assert leave_one_out("near", points, checked=new.only(["near"]), margin=MARGIN).coverage.estimate == 1


def test_prediction_intervals_cover_new_points_and_p_is_uniform() -> None:
    rng = np.random.default_rng(2)
    p = []
    for _ in range(1000):
        x = rng.normal(size=11)
        y = 0.4 - 0.15 * x + 0.1 * rng.normal(size=11)
        (check,) = check_predictions(named(x[:10], y[:10]), named(x[10:], y[10:]), margin=MARGIN)
        assert check.inside == (check.predicted.p >= 0.05)
        p.append(check.predicted.p)
    assert 0.93 <= np.mean(np.array(p) >= 0.05) <= 0.97
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_a_planted_slope_is_recovered_and_covered() -> None:
    rng = np.random.default_rng(3)
    slopes = [fit_line(named(x, 0.4 - 0.15 * x + 0.1 * rng.normal(size=12))).slope for x in rng.normal(size=(800, 12))]
    values = np.array([s.estimate for s in slopes])
    assert abs(values.mean() + 0.15) < 3 * values.std() / np.sqrt(len(values))
    assert 0.93 <= np.mean([s.ci_low <= -0.15 <= s.ci_high for s in slopes]) <= 0.97


def test_equivalence_needs_a_narrow_interval_not_only_a_small_deviation() -> None:
    x = np.linspace(0, 1, 12)
    wobble = np.where(np.arange(12) % 2, 1, -1)
    new = named([0.5], [0.5])
    sharp, blunt = (check_predictions(named(x, x + s * wobble), new, margin=MARGIN)[0] for s in (0.01, 0.3))
    assert sharp.inside and blunt.inside
    assert sharp.deviation.p < 0.001
    assert blunt.deviation.p > 0.05


def test_the_band_is_the_interval_of_each_x() -> None:
    x, y = np.random.default_rng(4).normal(size=(2, 9))
    at = [-1.0, 0.0, 2.0]
    band = prediction_band(named(x, y), at)
    for row, x0 in zip(band.iter_rows(named=True), at, strict=True):
        expected, half = by_hand(named(x, y), x0)
        assert (row["x"], row["predicted"]) == pytest.approx((x0, expected))
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((expected - half, expected + half))


LINE = ([0, 1, 2, 3, 4], [0, 2, 4, 6, 8])


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        ([1, 2, 3], [1, 2, 4], "3 points, fewer than 4"),
        ([2, 2, 2, 2], [1, 2, 3, 4], "x is constant"),
        ([1, 2, 3, 4], [0, 0, 0, 0], "the points lie on a line"),
        (*LINE, "the points lie on a line"),
    ],
)
def test_degenerate_points_predict_nothing_and_say_why(x, y, reason) -> None:
    points = named(x, y)
    (check,) = check_predictions(points, named([5], [1]), margin=MARGIN)
    assert check.predicted.undefined == check.deviation.undefined == reason
    assert check.half_width is check.inside is None
    assert prediction_band(points, [0.0]).is_empty()
    assert {i.cooks_d.undefined for i in influence(points)} == {reason}
    row = check_table([(None, check)]).row(0, named=True)
    assert row["undefined"] == reason and row["predicted"] is row["inside"] is None
    refits = leave_one_out("held_out", points, margin=MARGIN)
    assert refits.coverage.estimate is None and "no prediction interval without s0" in refits.coverage.undefined


def test_a_perfect_line_has_a_slope_but_no_interval() -> None:
    line = fit_line(named(*LINE))
    assert line.slope.estimate == pytest.approx(2) and line.slope.ci_low is line.slope.p is None
    assert "no interval: the points lie on a line" in line.slope.method
    assert line.residual_sd.estimate == pytest.approx(0, abs=1e-12)
    assert fit_line(named([1, 1, 1, 1], LINE[1][:4])).slope.undefined == "x is constant"


def test_a_point_that_alone_fixes_the_slope_has_no_cooks_distance() -> None:
    found = influence(named([0, 0, 0, 0, 1], [1, 2, 3, 4, 9]))
    assert found[4].leverage.estimate == pytest.approx(1) and found[4].high_leverage
    assert "without this one there is no line" in found[4].cooks_d.undefined and found[4].influential is None
    assert all(i.cooks_d.estimate is not None for i in found[:4])


def test_no_points_have_no_refits() -> None:
    found = leave_one_out("none", named([], []), margin=MARGIN)
    assert (found.coverage.undefined, found.coverage.n, found.checks) == ("no points", 0, ())
    assert influence(named([], [])) == ()


def test_misuse_raises() -> None:
    points = named(*LINE)
    for refuse in (
        lambda: check_predictions(points, points, margin=0),
        lambda: check_predictions(points, points, margin=MARGIN, level=95),
        lambda: fit_line(points, level=0),
    ):
        with pytest.raises(StatisticsError):
            refuse()
