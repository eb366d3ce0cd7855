"""A rank correlation with a third quantity held fixed, and how far that quantity explains the first."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from leakage_assets.statistics.correlation import asymptotic_p, correlate_rows, fisher_interval, flat, paired, ranks
from leakage_assets.statistics.points import MIN_POINTS
from leakage_assets.statistics.resampling import Floats, check_level
from leakage_assets.statistics.result import Estimate, StatisticsError, undefined, with_interval

DECIMALS = 9
"""Residuals of ranks are rounded to these before they are ranked again: two that are equal must tie."""

EXPLAINED = 1e-9
"""Residuals of ranks below this are rounding: the ranks are a straight line of those held fixed."""


def partial_spearman(
    name: str, x: ArrayLike, y: ArrayLike, held: ArrayLike, *, unit: str, level: float = 0.95
) -> Estimate:
    """Spearman of x and y with ``held`` fixed: Pearson of the residuals of their ranks on the ranks of ``held``.

    Equal to (r_xy - r_xz r_yz) / √((1 - r_xz²)(1 - r_yz²)) on ranks (Kendall 1942). p: t on n-3 df; interval: Fisher z
    with variance (1 + ρ²/2)/(n-4), one pair fewer for the quantity held fixed. Undefined for fewer than 4 points, where
    one of the three does not vary, or x or y is a monotone straight line of ``held`` in ranks. Raises
    ``StatisticsError`` for lengths that differ or values that are not finite.
    """
    check_level(level)
    method = "partial Spearman: Pearson of rank residuals, asymptotic two-sided p (t, n-3 df)"
    found = _residuals(name, x, y, held, unit, method)
    if isinstance(found, Estimate):
        return found
    a, b = found
    r, n = float(correlate_rows(a, b)), len(a)
    interval = fisher_interval(r, n - 1, level, "spearman")
    p = asymptotic_p(r, n - 1)  # n-3 df
    return with_interval(name, r, interval, level=level, p=p, n=n, unit=unit, method=f"{method}, Fisher-z interval")


def spearman_of_rank_residuals(name: str, x: ArrayLike, y: ArrayLike, held: ArrayLike, *, unit: str) -> Estimate:
    """As ``partial_spearman``, but the residuals are ranked once more and p is that of a plain Spearman (n-2 df).

    The published form of #271, kept beside the textbook's (sheet D6). No interval: its distribution is not known.
    """
    method = "Spearman of rank residuals, asymptotic two-sided p (t, n-2 df)"
    found = _residuals(name, x, y, held, unit, method)
    if isinstance(found, Estimate):
        return found
    a, b = (ranks(np.round(residual, DECIMALS)) for residual in found)
    r = float(correlate_rows(a, b))
    return Estimate(name, r, None, None, None, asymptotic_p(r, len(a)), len(a), unit, method)


def variance_inflation(name: str, x: ArrayLike, held: ArrayLike, *, unit: str) -> Estimate:
    """1/(1 - r²) of x and ``held``: by how much the variance of a slope on x grows when ``held`` enters beside it.

    Undefined for fewer than 4 points, where either does not vary, or where one is a straight line of the other.
    """
    from statsmodels.stats.outliers_influence import variance_inflation_factor

    a, z = paired(name, x, held)
    method = "variance inflation factor, 1/(1 - r²)"
    if problem := _too_little(a, z):
        return undefined(name, problem, n=len(a), unit=unit, method=method)
    if 1 - abs(float(correlate_rows(a, z))) < EXPLAINED:
        return undefined(name, "x is a straight line of what is held fixed", n=len(a), unit=unit, method=method)
    # Centred and scaled: a factor does not depend on the units, but its computation does.
    design = np.column_stack([np.ones(len(a)), _scaled(a), _scaled(z)])
    factor = float(variance_inflation_factor(design, 1))
    return Estimate(name, factor, None, None, None, None, len(a), unit, method)


def _residuals(
    name: str, x: ArrayLike, y: ArrayLike, held: ArrayLike, unit: str, method: str
) -> tuple[Floats, Floats] | Estimate:
    """Residuals of the ranks of x and of y on the ranks of what is held fixed, or why there are none."""
    a, b = paired(name, x, y)
    z = paired(name, x, held)[1]
    problem = _too_little(a, z) or (f"y {flat(b)}" if flat(b) else None)
    if problem:
        return undefined(name, problem, n=len(a), unit=unit, method=method)
    fixed = ranks(z) - (len(z) + 1) / 2
    residuals = []
    for label, values in (("x", a), ("y", b)):
        centred = ranks(values) - (len(values) + 1) / 2
        left = centred - fixed * float(fixed @ centred) / float(fixed @ fixed)
        if np.abs(left).max() < EXPLAINED:
            reason = f"the ranks of {label} are those of what is held fixed"
            return undefined(name, reason, n=len(a), unit=unit, method=method)
        residuals.append(left)
    return residuals[0], residuals[1]


def _too_little(x: Floats, held: Floats) -> str | None:
    if len(x) < MIN_POINTS:
        return f"{len(x)} points, fewer than {MIN_POINTS}"
    if problem := flat(x):
        return f"x {problem}"
    if problem := flat(held):
        return f"what is held fixed {problem}"
    return None


def _scaled(values: Floats) -> Floats:
    if not np.ptp(values):
        raise StatisticsError("cannot scale values that do not vary")
    deviation: Floats = (values - values.mean()) / np.ptp(values)
    return deviation
