"""The rate itself as outcome: logistic regression of counts on one covariate, with honest standard errors."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from leakage_assets.statistics.correlation import flat
from leakage_assets.statistics.points import MIN_POINTS
from leakage_assets.statistics.resampling import Floats, check_level
from leakage_assets.statistics.result import Estimate, StatisticsError, undefined, with_interval
from leakage_assets.statistics.student import t_estimate

NO_SPREAD = 1e-10
"""A robust standard error below this share of the model's is rounding: the clusters do not differ."""

LOG_ODDS = "slope of the log-odds, binomial GLM"


def clustered_slope(
    name: str,
    x: ArrayLike,
    found: ArrayLike,
    total: ArrayLike,
    clusters: ArrayLike,
    *,
    unit: str,
    level: float = 0.95,
) -> Estimate:
    """Change of the log-odds per unit of x, from (R,) counts, with standard errors over ``clusters`` of rows.

    Liang & Zeger's sandwich (1986) with the small-sample factor of statsmodels, t on G-1 df for G clusters; n counts
    clusters. Rows of one cluster may depend on one another in any way. What the rows of one *x* share (a source that
    implants well whatever its cosine) is not in the interval unless they are one cluster: give ``overdispersed_slope``
    beside it. Rows without completions say nothing and are left out.

    Undefined where nothing or everything is found, x does not vary, there are fewer than 4 rows or clusters, or a value
    of x separates found from not found, so that the slope is infinite. No interval where no cluster differs from
    another. Raises ``StatisticsError`` for lengths that differ or counts that are impossible.
    """
    check_level(level)
    a, k, n = _counts(name, x, found, total)
    labels = np.asarray(clusters)
    if labels.shape != a.shape:
        raise StatisticsError(f"{name}: {len(a)} rows but cluster labels of shape {labels.shape}")
    kept = n > 0
    a, k, n = a[kept], k[kept], n[kept]
    codes = np.unique(labels[kept], return_inverse=True)[1]
    groups = int(codes.max()) + 1 if len(codes) else 0
    method = f"{LOG_ODDS}; sandwich over {groups} clusters, t on {groups - 1} df" if groups else LOG_ODDS
    reason = _no_slope(a, k, n) or (f"{groups} clusters, fewer than {MIN_POINTS}" if groups < MIN_POINTS else None)
    if reason:
        return undefined(name, reason, n=groups, unit=unit, method=method)
    slope, plain, _ = _fit(a, k, n)
    _, se, _ = _fit(a, k, n, cov_type="cluster", cov_kwds={"groups": codes})
    if not se > NO_SPREAD * plain:
        return with_interval(
            name, slope, "no variation between clusters", level=level, p=None, n=groups, unit=unit, method=method
        )
    return t_estimate(name, slope, se, groups - 1, level=level, n=groups, unit=unit, method=method)


def overdispersed_slope(
    name: str, x: ArrayLike, found: ArrayLike, total: ArrayLike, *, unit: str, level: float = 0.95
) -> Estimate:
    """Change of the log-odds per unit of x, each of the (R,) rows being one thing with its own rate.

    Quasi-binomial (Wedderburn 1974): the variance is the binomial one times Pearson's χ²/(R-2), so that differences
    between the things that x does not explain widen the interval; t on R-2 df, n counts rows. A dispersion below 1
    is taken as 1: counts cannot vary less than binomially by anything but chance. Undefined as ``clustered_slope``.
    """
    check_level(level)
    a, k, n = _counts(name, x, found, total)
    kept = n > 0
    a, k, n = a[kept], k[kept], n[kept]
    rows = len(a)
    method = f"{LOG_ODDS}; quasi-binomial, dispersion by Pearson χ², t on n-2 df"
    if reason := _no_slope(a, k, n):
        return undefined(name, reason, n=rows, unit=unit, method=method)
    slope, se, chi2 = _fit(a, k, n)
    dispersion = max(1.0, chi2 / (rows - 2))
    method += f"; dispersion {dispersion:.3g}"
    return t_estimate(name, slope, se * dispersion**0.5, rows - 2, level=level, n=rows, unit=unit, method=method)


def _counts(name: str, x: ArrayLike, found: ArrayLike, total: ArrayLike) -> tuple[Floats, Floats, Floats]:
    a, k, n = (np.asarray(values, dtype=np.float64) for values in (x, found, total))
    if a.ndim != 1 or not a.shape == k.shape == n.shape:
        raise StatisticsError(f"{name}: x {a.shape}, found {k.shape}, total {n.shape}; expected one length")
    bad = np.flatnonzero(~np.isfinite(a))
    if len(bad):
        raise StatisticsError(f"{name}: x[{bad[0]}] is {a[bad[0]]}; drop or repair that row first")
    if not np.all(np.isfinite(n)) or np.any(~((k >= 0) & (k <= n))):
        raise StatisticsError(f"{name}: every found count must lie between 0 and its total")
    return a, k, n


def _no_slope(x: Floats, found: Floats, total: Floats) -> str | None:
    """Why these counts have no finite slope, or None.

    The estimate exists iff found and not found overlap in x (Albert & Anderson 1984).
    """
    if len(x) < MIN_POINTS:
        return f"{len(x)} rows with completions, fewer than {MIN_POINTS}"
    if problem := flat(x):
        return f"x {problem}"
    with_it, without = x[found > 0], x[found < total]
    if not len(with_it):
        return "nothing is found in any completion"
    if not len(without):
        return "everything is found in every completion"
    if with_it.max() <= without.min() or without.max() <= with_it.min():
        return "a value of x separates found from not found: the slope is infinite"
    return None


def _fit(x: Floats, found: Floats, total: Floats, **how: Any) -> tuple[float, float, float]:
    """Slope, its standard error and Pearson's χ²."""
    scale = float(np.ptp(x))  # the fit is as good for kilometres as for millimetres
    design = np.column_stack([np.ones(len(x)), (x - x.mean()) / scale])
    fitted = fit_binomial(design, found, total, maxiter=200, tol=1e-10, **how)
    if not fitted.converged:
        raise StatisticsError("binomial GLM: no convergence although the slope is finite; look at the counts")
    return float(fitted.params[1]) / scale, float(fitted.bse[1]) / scale, float(fitted.pearson_chi2)


def fit_binomial(matrix: Floats, found: Floats, total: Floats, **how: Any) -> Any:
    """Logistic regression of (R,) counts on the columns of an (R, k) matrix: statsmodels' results; ``how`` as its fit.

    Its warnings are silenced: look before or after for separation, and whether the fit has ``converged``.
    """
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GLM(np.column_stack([found, total - found]), matrix, family=Binomial()).fit(**how)
