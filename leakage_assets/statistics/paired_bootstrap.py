"""Means of paired differences resampled: single pairs as if independent, or the clusters that they come in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from leakage_assets.statistics.resampling import (
    TIE,
    Floats,
    check_draws,
    cluster_weights,
    percentile_interval,
    permutation_p,
)
from leakage_assets.statistics.result import Estimate, StatisticsError, with_interval


def independent_means(values: ArrayLike, draws: int, rng: np.random.Generator) -> Floats:
    """(draws,) means of resamples with replacement of (n,) values taken as independent.

    Only how often each distinct value is drawn matters, and that is multinomial: for differences of scores, which have
    a few dozen values, this is the same distribution a thousand times faster than drawing n indices.

    Raises ``StatisticsError`` for no values, or values that are not finite.
    """
    check_draws(draws)
    flat = np.asarray(values, dtype=np.float64).ravel()
    if not len(flat) or not np.all(np.isfinite(flat)):
        raise StatisticsError(f"resampling: {len(flat)} values; expected at least one, all finite")
    distinct, counts = np.unique(flat, return_counts=True)
    drawn = rng.multinomial(len(flat), counts / len(flat), size=draws)
    means: Floats = drawn @ distinct / len(flat)
    return means


def clustered_means(rows: ArrayLike, draws: int, seed: int) -> Floats:
    """(draws, R) means of R rows over resampled clusters; ``rows`` is (R, Q), one value per row and cluster.

    Every row sees the same draw of clusters, so a difference of rows is resampled as pairs. Raises ``StatisticsError``
    for another shape or values that are not finite.
    """
    values = np.asarray(rows, dtype=np.float64)
    if values.ndim != 2 or not values.size or not np.all(np.isfinite(values)):
        raise StatisticsError(f"resampling: rows of shape {values.shape}; expected (rows, clusters), all finite")
    means: Floats = cluster_weights(values.shape[1], draws, seed) @ values.T / values.shape[1]
    return means


def two_way_means(rows: ArrayLike, draws: int, seed: int) -> Floats:
    """(draws, R) means over resampled clusters of two kinds at once; ``rows`` is (R, S, Q): seeds and questions.

    Both are drawn independently and whole (the pigeonhole bootstrap, Owen 2007); all rows share the draws. With few
    seeds the spread over them is underestimated, by a factor of (S-1)/S in variance. Raises as ``clustered_means``.
    """
    values = np.asarray(rows, dtype=np.float64)
    if values.ndim != 3 or not values.size or not np.all(np.isfinite(values)):
        raise StatisticsError(
            f"resampling: rows of shape {values.shape}; expected (rows, seeds, questions), all finite"
        )
    count, seeds, questions = values.shape
    by_question = clustered_means(values.reshape(count * seeds, questions), draws, seed).reshape(draws, count, seeds)
    # The next stream of the same seed: questions and seeds must not be drawn alike.
    rng = np.random.Generator(np.random.PCG64(seed).jumped())
    drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws)
    means: Floats = np.einsum("brs,bs->br", by_question, drawn) / seeds
    return means


def centred_share(point: float, draws: Floats) -> float:
    """Two-sided p as published: the share of draws at least as far from their mean as the point from 0.

    It can be 0, which reads as less than one over the number of draws.
    """
    return float(np.mean(np.abs(draws - draws.mean()) >= abs(point) - TIE))


def bootstrap_estimate(
    name: str, point: float, draws: Floats, *, level: float, n: int, unit: str, method: str, published_p: bool
) -> Estimate:
    """A point with the percentile interval and the p of its draws.

    p counts draws at least as far from their mean as the point is from 0: their share as published, or with one added
    on both sides, so that it is never 0.
    """
    centred = draws - draws.mean()
    p = centred_share(point, draws) if published_p else permutation_p(point, centred)
    interval = percentile_interval(draws, level)
    return with_interval(name, point, interval, level=level, p=p, n=n, unit=unit, method=method)


@dataclass(frozen=True)
class Bound:
    """An interval of this level must lie within ± this margin."""

    level: float
    margin: float


@dataclass(frozen=True)
class Within:
    """One of the intervals of an equivalence test. ``used``: the share of the margin that the farther end takes."""

    bound: Bound
    low: float
    high: float

    @property
    def used(self) -> float:
        return max(abs(self.low), abs(self.high)) / self.bound.margin

    @property
    def inside(self) -> bool:
        return -self.bound.margin < self.low <= self.high < self.bound.margin


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests by intervals (Schuirmann 1987): equivalent where every interval lies inside its margin."""

    parts: tuple[Within, ...]

    @property
    def equivalent(self) -> bool:
        return all(part.inside for part in self.parts)

    @property
    def used(self) -> float:
        """The largest share of a margin that an interval takes; below 1 exactly where it is equivalent."""
        return max(part.used for part in self.parts)


def equivalence(draws: Floats, bounds: tuple[Bound, ...]) -> Equivalence:
    """The equivalence test of a bootstrap distribution. Raises ``StatisticsError`` for no bound or a margin of 0."""
    if not bounds or any(bound.margin <= 0 for bound in bounds):
        raise StatisticsError("equivalence: bounds with positive margins are needed")
    parts = []
    for bound in bounds:
        low, high = np.quantile(draws, [(1 - bound.level) / 2, (1 + bound.level) / 2])
        parts.append(Within(bound, float(low), float(high)))
    return Equivalence(tuple(parts))
