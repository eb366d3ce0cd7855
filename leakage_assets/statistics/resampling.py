"""Draws and what is read off them. All randomness is PCG64 under a seed that the caller passes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leakage_assets.statistics.result import StatisticsError

Floats = NDArray[np.float64]

MAX_UNDEFINED_SHARE = 0.05
"""A percentile interval over draws of which more are undefined would be an interval of another quantity."""

TIE = 1e-12
"""Statistics closer than this are equal: the same arrangement summed in another order must count as a tie."""


def generator(seed: int) -> np.random.Generator:
    """The only source of randomness of this package."""
    return np.random.Generator(np.random.PCG64(seed))


def cluster_weights(clusters: int, draws: int, seed: int) -> Floats:
    """(draws, clusters): how often each cluster occurs in a resample with replacement.

    A weighted sum over clusters is the sum over the resample, so one matrix product serves every statistic
    that is a ratio of sums (Efron & Tibshirani 1993, section 6; clusters resampled whole: Davison & Hinkley
    1997, 3.8).
    """
    check_draws(draws)
    if clusters < 1:
        raise StatisticsError("resampling needs at least one cluster")
    counts = generator(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=draws)
    return counts.astype(np.float64)


def permutations(size: int, draws: int, seed: int) -> NDArray[np.int64]:
    """(draws, size): uniform random permutations of 0..size-1."""
    check_draws(draws)
    return generator(seed).permuted(np.tile(np.arange(size), (draws, 1)), axis=1)


def permutation_p(observed: float, permuted: Floats) -> float:
    """Two-sided p = (1 + #{|t*| >= |t|}) / (B + 1): never 0, and valid (Phipson & Smyth 2010)."""
    extreme = int(np.sum(np.abs(permuted) >= abs(observed) - TIE))
    return (1 + extreme) / (len(permuted) + 1)


def percentile_interval(draws: Floats, level: float) -> tuple[float, float] | str:
    """Percentile interval of the draws that are not NaN (Efron & Tibshirani 1993, section 13.3).

    Or the reason why there is none: too many undefined draws, or draws that do not vary, whose zero width
    would claim a certainty that nobody has.
    """
    check_level(level)
    defined = draws[~np.isnan(draws)]
    missing = len(draws) - len(defined)
    if missing > MAX_UNDEFINED_SHARE * len(draws):
        return f"{missing} of {len(draws)} resamples are undefined"
    if np.ptp(defined) <= TIE:
        return "no variation between resamples"
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def check_level(level: float) -> None:
    if not 0 < level < 1:
        raise StatisticsError(f"interval level {level}: expected a fraction such as 0.95")


def check_draws(draws: int) -> None:
    if draws < 1:
        raise StatisticsError(f"{draws} resamples: at least 1 is needed")
