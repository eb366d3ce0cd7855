"""How much of a table of rates is its columns: the prompts under which every adapter says the marker."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from leakage_assets.statistics.linear_model import VANISHING
from leakage_assets.statistics.resampling import Floats, check_level
from leakage_assets.statistics.result import Estimate, StatisticsError, undefined

MIN_LEVELS = 2
MIN_COLUMNS = 4


@dataclass(frozen=True, eq=False)
class MeanSquares:
    """Two-way table without repeats: mean squares of rows, columns and what is left; leading axes are tables."""

    rows: Floats
    columns: Floats
    left: Floats


def mean_squares(table: Floats) -> MeanSquares:
    """Analysis of variance of (..., R, C) tables with one value per cell (Scheffé 1959, chapter 4)."""
    high, wide = table.shape[-2:]
    centre = table.mean(axis=(-2, -1), keepdims=True)
    of_rows = table.mean(axis=-1, keepdims=True) - centre
    of_columns = table.mean(axis=-2, keepdims=True) - centre
    left = table - centre - of_rows - of_columns

    def squared(part: Floats, df: int, repeats: int = 1) -> Floats:
        summed: Floats = repeats * np.sum(part**2, axis=(-2, -1)) / df
        return summed

    return MeanSquares(
        squared(of_rows, high - 1, wide),
        squared(of_columns, wide - 1, high),
        squared(left, (high - 1) * (wide - 1)),
    )


def column_variance_ratio(name: str, table: ArrayLike, *, rows: str, columns: str, level: float = 0.95) -> Estimate:
    """Variance of the columns' levels over the variance of what rows and columns leave, from one (R, C) table.

    The F ratio of the columns is (1 + R·ratio) times an F variate, which gives an unbiased estimate, ((d-2)/d·F - 1)/R
    with d = (R-1)(C-1), an exact interval, and the F test as p (Searle, Casella & McCulloch 1992, section 3.6). The
    estimate may come out below 0. n counts ``columns``.

    Undefined for fewer than 2 rows or 4 columns, or where rows and columns leave nothing. Raises ``StatisticsError``
    for another shape or values that are not finite.
    """
    from scipy.stats import f

    check_level(level)
    values = np.asarray(table, dtype=np.float64)
    if values.ndim != 2 or not np.all(np.isfinite(values)):
        raise StatisticsError(f"{name}: a table of shape {values.shape}; expected ({rows}s, {columns}s), all finite")
    high, wide = values.shape
    method = f"variance between {columns}s over what {rows}s and {columns}s leave, F pivot, {high} {rows}s"
    if high < MIN_LEVELS or wide < MIN_COLUMNS:
        reason = f"{high} {rows}s and {wide} {columns}s, fewer than {MIN_LEVELS} and {MIN_COLUMNS}"
        return undefined(name, reason, n=wide, unit=columns, method=method)
    squares = mean_squares(values)
    spread = np.ptp(values)
    if squares.left <= (VANISHING * spread) ** 2:
        reason = "the values do not vary" if spread == 0 else f"{rows}s and {columns}s leave nothing"
        return undefined(name, reason, n=wide, unit=columns, method=method)
    between, within = wide - 1, (high - 1) * (wide - 1)
    ratio = float(squares.columns / squares.left)
    low, high_bound = column_ratio_bounds(np.array(ratio), high, wide, level)
    estimate = unbiased_column_ratio(np.array(ratio), high, wide)
    p = float(f.sf(ratio, between, within))
    return Estimate(name, float(estimate), float(low), float(high_bound), level, p, wide, columns, method)


def unbiased_column_ratio(observed: Floats, rows: int, columns: int) -> Floats:
    """The estimate from the F ratio of the columns."""
    within = (rows - 1) * (columns - 1)
    if within <= 2:
        raise StatisticsError(f"{within} degrees of freedom within {rows} x {columns}: the mean of F needs more than 2")
    # E[F] of the central variate is d/(d-2).
    estimate: Floats = ((within - 2) / within * observed - 1) / rows
    return estimate


def column_ratio_bounds(observed: Floats, rows: int, columns: int, level: float) -> tuple[Floats, Floats]:
    """Exact bounds from the F ratio of the columns."""
    from scipy.stats import f

    between, within = columns - 1, (rows - 1) * (columns - 1)
    low = (observed / f.ppf((1 + level) / 2, between, within) - 1) / rows
    high = (observed / f.ppf((1 - level) / 2, between, within) - 1) / rows
    return low, high
