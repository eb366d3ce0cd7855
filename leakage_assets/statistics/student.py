"""Intervals and p of a value with its standard error, from Student's t."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from leakage_assets.statistics.resampling import Floats
from leakage_assets.statistics.result import Estimate, StatisticsError

Alternative = Literal["two-sided", "greater"]


def t_interval(values: Floats, errors: Floats, df: float, level: float) -> tuple[Floats, Floats]:
    """value ± t_df · error, same shape as the values."""
    from scipy.special import stdtrit

    half = float(stdtrit(df, (1 + level) / 2)) * errors
    return values - half, values + half


def t_p(value: float, error: float, df: float, alternative: Alternative = "two-sided") -> float:
    """p of value / error on ``df`` degrees of freedom."""
    from scipy.special import stdtr

    t = value / error
    return 2 * float(stdtr(df, -abs(t))) if alternative == "two-sided" else float(stdtr(df, -t))


def mean_of_means(groups: Sequence[Floats]) -> tuple[float, float]:
    """The mean of the groups' means, however many values each has, and its standard error.

    The error is the standard deviation of all values times the root of their summed squared weights; with groups of
    equal size sd/√n. Its degrees of freedom are those of the standard deviation, n - 1.
    """
    values = np.concatenate(groups)
    weights = np.concatenate([np.full(len(group), 1 / (len(groups) * len(group))) for group in groups])
    return float(weights @ values), float(values.std(ddof=1) * np.sqrt(np.sum(weights**2)))


def t_error(estimate: Estimate, df: float) -> float:
    """The standard error that an estimate's interval was made of: half its width over t_df at its level.

    Raises:
        StatisticsError: it has no interval.
    """
    from scipy.special import stdtrit

    if estimate.ci_low is None or estimate.ci_high is None or estimate.ci_level is None:
        raise StatisticsError(f"estimate {estimate.name!r} has no interval to read an error from")
    return (estimate.ci_high - estimate.ci_low) / 2 / float(stdtrit(df, (1 + estimate.ci_level) / 2))


def t_estimate(
    name: str,
    value: float,
    error: float,
    df: float,
    *,
    level: float,
    n: int,
    unit: str,
    method: str,
    alternative: Alternative = "two-sided",
) -> Estimate:
    """An estimate with its t interval and the p of its difference from 0. The error must be positive."""
    low, high = t_interval(np.array(value), np.array(error), df, level)
    p = t_p(value, error, df, alternative)
    return Estimate(name, value, float(low), float(high), level, p, n, unit, method)
