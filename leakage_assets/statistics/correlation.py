"""Spearman and Pearson correlations: one pair of vectors, and many rows at once for resampling."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from leakage_assets.statistics.resampling import Floats, check_level
from leakage_assets.statistics.result import Estimate, StatisticsError, undefined, with_interval

Coefficient = Literal["spearman", "pearson"]
COEFFICIENTS: tuple[Coefficient, ...] = ("spearman", "pearson")

MIN_PAIRS = 3
RESOLUTION = 1e-13
"""A spread below this share of the mean is rounding noise (scipy.stats.pearsonr warns at the same)."""


def correlate(
    name: str,
    x: ArrayLike,
    y: ArrayLike,
    *,
    coefficient: Coefficient,
    unit: str,
    level: float = 0.95,
    interval: bool = True,
) -> Estimate:
    """Correlation of two (n,) vectors with two-sided asymptotic p and Fisher-z interval.

    ``interval=False`` where the pairs are known not to be independent, so that no interval is claimed.
    Undefined where x or y does not vary. Raises ``StatisticsError`` for lengths that differ, values that are
    not finite, or fewer than 3 pairs.
    """
    a, b = paired(name, x, y)
    check_level(level)
    method = f"{coefficient.capitalize()}, asymptotic two-sided p (t, n-2 df)"
    if coefficient == "spearman":
        a, b = ranks(a), ranks(b)
    for label, values in (("x", a), ("y", b)):
        problem = flat(values)
        if problem:
            return undefined(name, f"{label} {problem}", n=len(a), unit=unit, method=method)
    r = float(correlate_rows(a, b))
    p = asymptotic_p(r, len(a))
    if not interval:
        return Estimate(name, r, None, None, None, p, len(a), unit, f"{method}; pairs taken as independent")
    bounds = fisher_interval(r, len(a), level, coefficient)
    return with_interval(name, r, bounds, level=level, p=p, n=len(a), unit=unit, method=f"{method}, Fisher-z interval")


def spearman(name: str, x: ArrayLike, y: ArrayLike, *, unit: str, level: float = 0.95) -> Estimate:
    """Rank correlation: Pearson of average ranks (Spearman 1904; ties by mid-ranks, Kendall 1945)."""
    return correlate(name, x, y, coefficient="spearman", unit=unit, level=level)


def pearson(name: str, x: ArrayLike, y: ArrayLike, *, unit: str, level: float = 0.95) -> Estimate:
    """Product-moment correlation."""
    return correlate(name, x, y, coefficient="pearson", unit=unit, level=level)


def asymptotic_p(r: float, n: int) -> float:
    """Two-sided p of t = r √((n-2)/(1-r²)) on n-2 degrees of freedom, as in scipy's spearmanr and pearsonr.

    P(|T| > t) = I_{1-r²}((n-2)/2, 1/2) (Abramowitz & Stegun 26.7.1): one call that stays exact in the far
    tail.
    """
    from scipy.special import betainc

    return float(betainc((n - 2) / 2, 0.5, (1 - r) * (1 + r)))


def fisher_interval(r: float, n: int, level: float, coefficient: Coefficient) -> tuple[float, float] | str:
    """tanh(atanh r ± z·se), or why there is none.

    se² = 1/(n-3) for Pearson (Fisher 1921); (1 + r²/2)/(n-3) for Spearman (Bonett & Wright 2000).
    """
    from scipy.special import ndtri

    if n <= 3:
        return "Fisher-z needs more than 3 pairs"
    if abs(r) >= 1 - 1e-15:
        return "|r| = 1"
    variance = (1 + r**2 / 2 if coefficient == "spearman" else 1) / (n - 3)
    half = float(ndtri((1 + level) / 2)) * np.sqrt(variance)
    return float(np.tanh(np.arctanh(r) - half)), float(np.tanh(np.arctanh(r) + half))


def ranks(values: ArrayLike) -> Floats:
    """Average ranks along the last axis, from 1."""
    from scipy.stats import rankdata

    ranked: Floats = rankdata(values, axis=-1)
    return ranked


def correlate_rows(x: ArrayLike, y: ArrayLike) -> Floats:
    """Pearson along the last axis of broadcastable (..., n) arrays; NaN where a row does not vary.

    On ranks this is Spearman. Each row is divided by its largest deviation first, so that tiny values do not
    underflow when squared.
    """
    a, b = _centred(x), _centred(y)
    norm = np.sqrt(np.sum(a * a, axis=-1) * np.sum(b * b, axis=-1))
    with np.errstate(invalid="ignore"):
        r = np.einsum("...n,...n->...", a, b) / np.where(norm > 0, norm, np.nan)
    clipped: Floats = np.clip(r, -1.0, 1.0)
    return clipped


def paired(name: str, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    """Both as finite float vectors of one length of at least 3, or ``StatisticsError``."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise StatisticsError(f"{name}: x has shape {a.shape}, y {b.shape}; expected two vectors of one length")
    if len(a) < MIN_PAIRS:
        raise StatisticsError(f"{name}: {len(a)} pairs; a correlation needs at least {MIN_PAIRS}")
    for label, values in (("x", a), ("y", b)):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise StatisticsError(f"{name}: {label}[{bad[0]}] is {values[bad[0]]}; drop or repair that pair first")
    return a, b


def _centred(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    deviation: Floats = array - array.mean(axis=-1, keepdims=True)
    constant = (array == array[..., :1]).all(axis=-1, keepdims=True)  # their mean may be off by rounding
    largest = np.abs(deviation).max(axis=-1, keepdims=True)
    return np.where(constant, 0.0, deviation / np.where(largest > 0, largest, 1.0))


def flat(values: Floats) -> str | None:
    """Why a vector cannot be correlated, or None if it varies."""
    if (values == values[0]).all():
        return "is constant"
    if np.abs(values - values.mean()).max() < RESOLUTION * abs(values.mean()):
        return "varies by less than floating-point resolution"
    return None
