"""A straight line through few points: what it predicts for new ones, and which points it hangs on.

Least squares, prediction and influence are statsmodels'; the formulas beside them are what the tests compare with.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from leakage_assets.statistics.correlation import flat
from leakage_assets.statistics.points import MIN_POINTS, Points
from leakage_assets.statistics.resampling import Floats, check_level
from leakage_assets.statistics.result import Estimate, StatisticsError, undefined

if TYPE_CHECKING:
    import polars as pl

PARAMETERS = 2
"""Of a line: intercept and slope."""

ON_THE_LINE = 1e-12
"""Residuals below this share of the spread of y are rounding: the points lie on a line."""

PREDICTION = "ordinary least squares; prediction interval and p of the new point: t, n-2 df"


@dataclass(frozen=True)
class Line:
    """Slope, intercept and residual standard deviation (n-2) of y on x."""

    slope: Estimate
    intercept: Estimate
    residual_sd: Estimate

    def estimates(self) -> tuple[Estimate, ...]:
        return (self.slope, self.intercept, self.residual_sd)


@dataclass(frozen=True)
class PredictionCheck:
    """A new point against a line that was fitted without it.

    ``predicted``: ŷ with its prediction interval, and the two-sided p of the new point under the line.
    ``deviation``: observed - predicted with the interval of the same width, and the p of the equivalence test (two
    one-sided t tests, Schuirmann 1987) that the deviation lies within ± ``margin``: small where the point is shown to
    be near the line, not merely not shown to be far from it. ``half_width`` and ``inside`` are None where there is no
    interval.
    """

    name: str
    observed: float
    margin: float
    predicted: Estimate
    deviation: Estimate

    @property
    def half_width(self) -> float | None:
        if self.predicted.ci_high is None or self.predicted.ci_low is None:
            return None
        return (self.predicted.ci_high - self.predicted.ci_low) / 2

    @property
    def inside(self) -> bool | None:
        """Whether \\|observed - predicted\\| is at most half the width of the prediction interval."""
        half, away = self.half_width, self.deviation.estimate
        return None if half is None or away is None else abs(away) <= half


@dataclass(frozen=True)
class Refits:
    """Checks of lines that were fitted with one point left out: (left out, check) in the order of the points.

    ``coverage``: the share of refits all of whose checked points lie inside.
    """

    coverage: Estimate
    checks: tuple[tuple[str, PredictionCheck], ...]


@dataclass(frozen=True)
class Influence:
    """How far a point pulls the line: its leverage and Cook's distance, each with the threshold above which it is
    ``flagged``.
    """

    name: str
    leverage: Estimate
    cooks_d: Estimate
    leverage_threshold: float
    cooks_threshold: float

    @property
    def high_leverage(self) -> bool | None:
        return None if self.leverage.estimate is None else self.leverage.estimate > self.leverage_threshold

    @property
    def influential(self) -> bool | None:
        return None if self.cooks_d.estimate is None else self.cooks_d.estimate > self.cooks_threshold


def fit_line(points: Points, *, level: float = 0.95) -> Line:
    """Ordinary least squares of y on x: slope and intercept with t intervals and p (n-2 df), and s = √(SSE/(n-2)).

    Undefined for fewer than 4 points or where x does not vary. Where the points lie on a line there are no intervals:
    a width of 0 would claim a certainty that nobody has.
    """
    check_level(level)
    n, unit, method = len(points), points.unit, "ordinary least squares, t interval and p, n-2 df"
    names = ("slope", "intercept", "residual_sd")
    fitted = _ols(points)
    if isinstance(fitted, str):
        return Line(*(undefined(name, fitted, n=n, unit=unit, method=method) for name in names))
    spread = Estimate(
        "residual_sd", float(np.sqrt(fitted.mse_resid)), None, None, None, None, n, unit, "√(SSE/(n-2)) of the line"
    )
    if exact := _on_the_line(points, fitted):
        plain = [
            Estimate(name, float(value), None, None, None, None, n, unit, f"{method}; no interval: {exact}")
            for name, value in zip(names, fitted.params[::-1], strict=False)
        ]
        return Line(plain[0], plain[1], spread)
    low, high = fitted.conf_int(alpha=1 - level)[::-1].T
    slope, intercept = (
        Estimate(name, float(value), float(lo), float(hi), level, float(p), n, unit, method)
        for name, value, lo, hi, p in zip(names, fitted.params[::-1], low, high, fitted.pvalues[::-1], strict=False)
    )
    return Line(slope, intercept, spread)


def check_predictions(
    fitted: Points, new: Points, *, margin: float, level: float = 0.95
) -> tuple[PredictionCheck, ...]:
    """Each new point against the line through the fitted ones.

    ŷ = a + b·x₀ ± t(n-2)·s·√(1 + 1/n + (x₀ - x̄)²/Sxx) (Draper & Smith 1998, section 1.4). ``margin`` is in units of y.
    Undefined for fewer than 4 fitted points, where their x does not vary, or where they lie on a line. Raises
    ``StatisticsError`` for a margin that is not positive.
    """
    from scipy.special import stdtr

    check_level(level)
    if not margin > 0:
        raise StatisticsError(f"equivalence margin {margin}; expected a positive number in units of y")
    n, unit = len(fitted), fitted.unit
    near = f"observed - predicted; p: two one-sided t tests of |deviation| < {margin:g}, n-2 df"
    model = _ols(fitted)
    reason = model if isinstance(model, str) else _on_the_line(fitted, model)
    if isinstance(model, str) or reason:
        both = [
            undefined(label, reason or "", n=n, unit=unit, method=how)
            for label, how in (("predicted", PREDICTION), ("deviation", near))
        ]
        return tuple(
            PredictionCheck(name, float(y), margin, both[0], both[1]) for name, y in zip(new.names, new.y, strict=True)
        )
    expected, se, half = _predicted(model, new.x, level)
    away = new.y - expected
    df = n - PARAMETERS
    p = 2 * stdtr(df, -np.abs(away) / se)
    equivalent = np.maximum(stdtr(df, -(away + margin) / se), stdtr(df, (away - margin) / se))
    return tuple(
        PredictionCheck(
            name,
            float(new.y[i]),
            margin,
            Estimate("predicted", *_around(expected[i], half[i]), level, p[i], n, unit, PREDICTION),
            Estimate("deviation", *_around(away[i], half[i]), level, equivalent[i], n, unit, near),
        )
        for i, name in enumerate(new.names)
    )


def leave_one_out(
    name: str, fitted: Points, *, checked: Points | None = None, margin: float, level: float = 0.95
) -> Refits:
    """Leave each fitted point out in turn, draw the line through the others, and check points against it.

    ``checked`` are looked at in every refit, whether they are among the fitted or not; None checks the point that was
    left out. Coverage has no interval: the refits share all points but one. It is undefined where a refit has no
    prediction interval.
    """
    checks: list[tuple[str, PredictionCheck]] = []
    inside: list[bool | None] = []
    for left_out in fitted.names:
        rest, asked = fitted.without(left_out), fitted.only([left_out]) if checked is None else checked
        found = check_predictions(rest, asked, margin=margin, level=level)
        checks += [(left_out, check) for check in found]
        passed = [check.inside for check in found]
        inside.append(None if None in passed else all(passed))
    n, unit = len(inside), "left-out point"
    subject = "that point" if checked is None else f"every one of {', '.join(checked.names)}"
    method = f"share of refits without one of {n} points whose {level:.0%} prediction interval holds {subject}"
    if not inside or None in inside:
        reason = f"no prediction interval without {fitted.names[inside.index(None)]}" if inside else "no points"
        return Refits(undefined(name, reason, n=n, unit=unit, method=method), tuple(checks))
    share = sum(map(bool, inside)) / n
    method += "; no interval: the refits share points"
    return Refits(Estimate(name, share, None, None, None, None, n, unit, method), tuple(checks))


def influence(points: Points) -> tuple[Influence, ...]:
    """Leverage h_i = 1/n + (x_i - x̄)²/Sxx and Cook's D_i = e_i²/(2·MSE)·h_i/(1 - h_i)² of every point (Cook 1977).

    Thresholds: D > 4/n (Bollen & Jackman 1985), h > 2·2/n (Hoaglin & Welsch 1978). Undefined as the line is; D also
    where the points lie on a line, or a point alone has its x and fixes the slope.
    """
    from statsmodels.stats.outliers_influence import OLSInfluence

    n, unit = len(points), points.unit
    methods = {"leverage": "diagonal of the hat matrix of the line", "cooks_d": "Cook's distance from the line"}
    model = _ols(points)
    thresholds = (2 * PARAMETERS / n, 4 / n) if n else (0.0, 0.0)

    def none(label: str, reason: str) -> Estimate:
        return undefined(label, reason, n=n, unit=unit, method=methods[label])

    if isinstance(model, str):
        return tuple(Influence(p, none("leverage", model), none("cooks_d", model), *thresholds) for p in points.names)
    measured = OLSInfluence(model)
    leverage = measured.hat_matrix_diag
    on_line = _on_the_line(points, model)
    with np.errstate(divide="ignore", invalid="ignore"):
        cooks = measured.cooks_distance[0]

    def distance(i: int) -> Estimate:
        if on_line:
            return none("cooks_d", on_line)
        if 1 - leverage[i] <= ON_THE_LINE:
            return none("cooks_d", "all other points have one x: without this one there is no line")
        return Estimate("cooks_d", cooks[i], None, None, None, None, n, unit, methods["cooks_d"])

    return tuple(
        Influence(
            name,
            Estimate("leverage", leverage[i], None, None, None, None, n, unit, methods["leverage"]),
            distance(i),
            *thresholds,
        )
        for i, name in enumerate(points.names)
    )


def prediction_band(points: Points, at: ArrayLike, *, level: float = 0.95) -> pl.DataFrame:
    """The line and its prediction interval at each x: columns x, predicted, ci_low, ci_high.

    No rows where the interval is undefined.
    """
    import polars as pl

    where = np.asarray(at, dtype=np.float64)
    model = _ols(points)
    if isinstance(model, str) or _on_the_line(points, model):
        return pl.DataFrame(schema=dict.fromkeys(("x", "predicted", "ci_low", "ci_high"), pl.Float64))
    expected, _, half = _predicted(model, where, level)
    return pl.DataFrame({"x": where, "predicted": expected, "ci_low": expected - half, "ci_high": expected + half})


def check_table(checks: Collection[tuple[str | None, PredictionCheck]]) -> pl.DataFrame:
    """One row per check: dropped, target, observed, predicted, ci_low, ci_high, half_width, inside, p, deviation,
    margin, equivalence_p, n, unit, method, undefined.
    """
    import polars as pl

    text = dict.fromkeys(("dropped", "target", "unit", "method", "undefined"), pl.String)
    schema = {
        name: text.get(name, pl.Float64)
        for name in (
            "dropped", "target", "observed", "predicted", "ci_low", "ci_high", "half_width", "p", "deviation",
            "margin", "equivalence_p", "unit", "method", "undefined",
        )
    } | {"inside": pl.Boolean, "n": pl.Int64}  # fmt: skip
    rows = [
        {
            "dropped": dropped,
            "target": check.name,
            "observed": check.observed,
            "predicted": check.predicted.estimate,
            "ci_low": check.predicted.ci_low,
            "ci_high": check.predicted.ci_high,
            "half_width": check.half_width,
            "p": check.predicted.p,
            "deviation": check.deviation.estimate,
            "margin": check.margin,
            "equivalence_p": check.deviation.p,
            "unit": check.predicted.unit,
            "method": check.predicted.method,
            "undefined": check.predicted.undefined,
            "inside": check.inside,
            "n": check.predicted.n,
        }
        for dropped, check in checks
    ]
    return pl.DataFrame(rows, schema=schema)


def _ols(points: Points) -> Any:
    """statsmodels' fit, or the reason why there is none."""
    if len(points) < MIN_POINTS:
        return f"{len(points)} points, fewer than {MIN_POINTS}"
    if problem := flat(points.x):
        return f"x {problem}"
    from statsmodels.regression.linear_model import OLS

    return OLS(points.y, _design(points.x)).fit()


def _design(x: Floats) -> Floats:
    return np.column_stack([np.ones(len(x)), x])


def _predicted(model: Any, x: Floats, level: float) -> tuple[Floats, Floats, Floats]:
    """ŷ at each x, its standard error as that of a new observation, and half the width of its interval."""
    from scipy.special import stdtrit

    found = model.get_prediction(_design(x))
    half = float(stdtrit(model.df_resid, (1 + level) / 2)) * found.se_obs
    return found.predicted_mean, found.se_obs, half


def _on_the_line(points: Points, model: Any) -> str | None:
    spread = np.abs(points.y - points.y.mean()).max()
    if flat(points.y) or np.abs(model.resid).max() <= ON_THE_LINE * spread:
        return "the points lie on a line"
    return None


def _around(value: float, half: float) -> tuple[float, float, float]:
    return float(value), float(value - half), float(value + half)
