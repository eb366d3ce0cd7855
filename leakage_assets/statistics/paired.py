"""Differences of pairs: the same prompt in two wordings, the same question under two prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from leakage_assets.statistics.resampling import TIE, Floats, check_level
from leakage_assets.statistics.result import Estimate, StatisticsError, undefined, with_interval
from leakage_assets.statistics.student import Alternative, t_estimate

MIN_PAIRS = 4


def paired_difference(
    name: str,
    first: ArrayLike,
    second: ArrayLike,
    *,
    unit: str,
    level: float = 0.95,
    alternative: Alternative = "two-sided",
) -> Estimate:
    """Mean of first - second over (n,) pairs, with the t interval and p of Student (1908); n counts pairs.

    Undefined for fewer than 4 pairs. No interval and no p where all differences are alike. Raises ``StatisticsError``
    for lengths that differ or values that are not finite.
    """
    check_level(level)
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise StatisticsError(f"{name}: {a.shape} and {b.shape}; expected two vectors of one length")
    if not np.all(np.isfinite(a - b)):
        raise StatisticsError(f"{name}: pair {int(np.argmin(np.isfinite(a - b)))} is not finite; drop or repair it")
    n, method = len(a), f"mean difference of pairs, {'one-sided ' if alternative == 'greater' else ''}t on n-1 df"
    if n < MIN_PAIRS:
        return undefined(name, f"{n} pairs, fewer than {MIN_PAIRS}", n=n, unit=unit, method=method)
    differences = a - b
    value = float(differences.mean())
    if np.ptp(differences) <= TIE:
        reason = "the differences do not vary"
        return with_interval(name, value, reason, level=level, p=None, n=n, unit=unit, method=method)
    error = float(differences.std(ddof=1) / np.sqrt(n))
    return t_estimate(name, value, error, n - 1, level=level, n=n, unit=unit, method=method, alternative=alternative)


def group_difference(name: str, first: ArrayLike, second: ArrayLike, *, unit: str, level: float = 0.95) -> Estimate:
    """Mean of one group minus mean of another, with the interval and p of Welch (1947); n counts both.

    Undefined for fewer than 2 values in a group or 4 in all. No interval and no p where neither group varies.
    """
    from scipy.stats import ttest_ind

    check_level(level)
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    n, method = len(a) + len(b), f"difference of the means of {len(a)} and {len(b)} {unit}s, Welch's t"
    if not np.all(np.isfinite(a)) or not np.all(np.isfinite(b)):
        raise StatisticsError(f"{name}: values that are not finite; drop or repair them")
    if min(len(a), len(b)) < 2 or n < MIN_PAIRS:
        return undefined(name, f"{len(a)} and {len(b)} {unit}s", n=n, unit=unit, method=method)
    value = float(a.mean() - b.mean())
    if max(np.ptp(a), np.ptp(b)) <= TIE:
        return with_interval(name, value, "no group varies", level=level, p=None, n=n, unit=unit, method=method)
    test = ttest_ind(a, b, equal_var=False)
    bounds = test.confidence_interval(level)
    return Estimate(name, value, float(bounds.low), float(bounds.high), level, float(test.pvalue), n, unit, method)


def jackknife(
    name: str,
    whole: float,
    without: ArrayLike,
    *,
    unit: str,
    what: str,
    level: float = 0.95,
    left_out: Sequence[str] | None = None,
) -> Estimate:
    """A statistic with its delete-one interval: the t interval of the pseudo-values n·whole - (n-1)·without_i.

    (Tukey 1958.) ``without`` (n,) are the statistic's values with one cluster left out; NaN where it is undefined,
    which makes the result undefined, since leaving that one out would select. The estimate is ``whole`` itself.
    """
    check_level(level)
    values: Floats = np.asarray(without, dtype=np.float64)
    n, method = len(values), f"{what}; delete-one jackknife over {unit}s, t on n-1 df"
    if n < MIN_PAIRS:
        return undefined(name, f"{n} {unit}s, fewer than {MIN_PAIRS}", n=n, unit=unit, method=method)
    lost = np.flatnonzero(~np.isfinite(values))
    if len(lost) or not np.isfinite(whole):
        which = "" if not len(lost) else f" without {left_out[lost[0]] if left_out else f'{unit} {lost[0]}'}"
        return undefined(name, f"not defined{which}", n=n, unit=unit, method=method)
    error = float(np.sqrt((n - 1) / n * np.sum((values - values.mean()) ** 2)))
    if np.ptp(values) <= TIE:
        reason = f"no {unit} changes it"
        return with_interval(name, whole, reason, level=level, p=None, n=n, unit=unit, method=method)
    return t_estimate(name, whole, error, n - 1, level=level, n=n, unit=unit, method=method)
