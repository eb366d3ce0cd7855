"""Ordinary least squares on several columns, with the standard errors that the rows allow.

The arithmetic takes many outcomes at once (all leading axes), so that simulations and permutations are matrix
products; ``regress`` makes estimates of one outcome. statsmodels fits one outcome per call, which is a thousand times
slower; the tests hold every number here to it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from leakage_assets.statistics.resampling import Floats, check_level
from leakage_assets.statistics.result import Estimate, StatisticsError, undefined, with_interval
from leakage_assets.statistics.student import Alternative, t_estimate

Codes = NDArray[np.intp]

INTERCEPT = "intercept"
VANISHING = 1e-10
"""Residuals, and spreads of a column, below this share of the values are rounding."""

EXPLAINED = "the columns explain the outcome completely"

MIN_CLUSTERS = 4
MOST_WAYS = 2


@dataclass(frozen=True, eq=False)
class Design:
    """The right-hand side: an intercept and named columns, (n, 1 + columns).

    ``fault`` says why these columns have no coefficients, or is None: too few rows, a column that does not vary,
    columns of which one is a combination of others.
    """

    terms: tuple[str, ...]
    matrix: Floats
    fault: str | None

    @property
    def rows(self) -> int:
        return len(self.matrix)

    @property
    def df(self) -> int:
        """Residual degrees of freedom."""
        return self.rows - len(self.terms) - 1


def design(columns: Mapping[str, ArrayLike]) -> Design:
    """Named columns of one length beside an intercept.

    Raises ``StatisticsError`` for no columns, lengths that differ, or values that are not finite.
    """
    if not columns:
        raise StatisticsError("a linear model needs at least one column")
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}
    rows = len(next(iter(arrays.values())))
    for name, values in arrays.items():
        if values.shape != (rows,):
            raise StatisticsError(f"column {name!r} has shape {values.shape}; expected ({rows},)")
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise StatisticsError(f"column {name!r}: row {bad[0]} is {values[bad[0]]}; drop or repair that row first")
    matrix = np.column_stack([np.ones(rows), *arrays.values()])
    return Design(tuple(arrays), matrix, _fault(tuple(arrays), matrix))


def _fault(terms: tuple[str, ...], matrix: Floats) -> str | None:
    rows, width = matrix.shape
    if rows < max(4, width + 1):
        return f"{rows} rows for {width} coefficients"
    spread, size = np.ptp(matrix[:, 1:], axis=0), np.abs(matrix[:, 1:]).max(axis=0)
    flat = np.flatnonzero(spread <= VANISHING * size)
    if len(flat):
        return f"{terms[flat[0]]} does not vary"
    centred = (matrix[:, 1:] - matrix[:, 1:].mean(axis=0)) / spread
    singular = np.linalg.svd(centred, compute_uv=False)
    if singular[-1] <= VANISHING * singular[0]:
        return f"{', '.join(terms)} are collinear"
    return None


def coefficients(matrix: Floats, outcomes: Floats) -> tuple[Floats, Floats]:
    """Coefficients (..., k) and residuals (..., n) of outcomes (..., n) on an (n, k) matrix of full rank."""
    solved = outcomes @ np.linalg.pinv(matrix).T
    residuals: Floats = outcomes - solved @ matrix.T
    return solved, residuals


def classical_variances(matrix: Floats, residuals: Floats) -> Floats:
    """(..., k): s² (XᵀX)⁻¹ with s² = SSE / (n - k)."""
    rows, width = matrix.shape
    noise = np.sum(residuals**2, axis=-1, keepdims=True) / (rows - width)
    variances: Floats = noise * np.diag(np.linalg.inv(matrix.T @ matrix))
    return variances


def legacy_variances(matrix: Floats, residuals: Floats) -> Floats:
    """As ``classical_variances``, but from XᵀX without the intercept's column, though the intercept is fitted.

    What the published code of #207 does (sheet B4): for comparison only. NaN for the intercept.
    """
    rows, width = matrix.shape
    noise = np.sum(residuals**2, axis=-1, keepdims=True) / (rows - width)
    slopes = matrix[:, 1:]
    bare = np.concatenate([[np.nan], np.diag(np.linalg.inv(slopes.T @ slopes))])
    variances: Floats = noise * bare
    return variances


def clustered_variances(matrix: Floats, residuals: Floats, ways: Sequence[Codes]) -> Floats:
    """(..., k) variances that allow residuals of one cluster to depend on one another in any way.

    One way: (XᵀX)⁻¹ (Σ_g s_g s_gᵀ) (XᵀX)⁻¹ with s_g the score of cluster g, times G/(G-1) · (n-1)/(n-k) (Liang & Zeger
    1986, as statsmodels). Two ways: the sum of both minus that of their intersections (Cameron, Gelbach & Miller 2011),
    which can come out negative. ``ways`` are cluster numbers from 0, (n,) each.
    """
    if len(ways) == 1:
        return _one_way(matrix, residuals, ways[0])
    if len(ways) != MOST_WAYS:
        raise StatisticsError(f"{len(ways)} ways of clustering; expected one or two")
    both = ways[0] * (ways[1].max() + 1) + ways[1]
    crossing = np.unique(both, return_inverse=True)[1].astype(np.intp)
    parts = [_one_way(matrix, residuals, codes) for codes in (*ways, crossing)]
    variances: Floats = parts[0] + parts[1] - parts[2]
    return variances


def _one_way(matrix: Floats, residuals: Floats, codes: Codes) -> Floats:
    rows, width = matrix.shape
    groups = int(codes.max()) + 1
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    # What each row adds to each coefficient's error: summed over a cluster before it is squared.
    reach = matrix @ np.linalg.inv(matrix.T @ matrix)
    pushes = residuals[..., order, None] * reach[order]
    sums = np.add.reduceat(pushes, starts, axis=-2)
    factor = groups / (groups - 1) * (rows - 1) / (rows - width)
    variances: Floats = factor * np.sum(sums**2, axis=-2)
    return variances


def outcome_of(given: Design, outcome: ArrayLike) -> Floats:
    """The outcome of a design's rows as a finite (n,) vector. Raises ``StatisticsError`` for anything else."""
    y = np.asarray(outcome, dtype=np.float64)
    if y.shape != (given.rows,):
        raise StatisticsError(f"outcome has shape {y.shape}; expected ({given.rows},)")
    if not np.all(np.isfinite(y)):
        raise StatisticsError(f"outcome: row {int(np.argmin(np.isfinite(y)))} is not finite; drop or repair it first")
    return y


def cluster_codes(labels: Sequence[Hashable]) -> Codes:
    """The clusters numbered from 0 in the order in which they first occur."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.intp)


def regress(
    columns: Mapping[str, ArrayLike] | Design,
    outcome: ArrayLike,
    *,
    unit: str,
    clusters: Mapping[str, Sequence[Hashable]] | None = None,
    legacy: bool = False,
    level: float = 0.95,
    alternative: Alternative = "two-sided",
) -> dict[str, Estimate]:
    """The coefficient of every column (not of the intercept), by name.

    Without ``clusters`` the rows are taken as independent: t on n - k degrees of freedom, n counts rows, called
    ``unit``. ``clusters`` names one or two partitions of the rows; then n counts the clusters of the smaller one, its
    name is the unit, and t has one degree of freedom fewer. ``legacy`` gives the published standard errors.

    Undefined where the columns have a fault (see ``Design``), the outcome does not vary, or there are fewer than 4
    clusters. No interval and no p where nothing is left to explain, or a two-way variance is not positive. Raises
    ``StatisticsError`` for lengths that differ, values that are not finite, or both ``clusters`` and ``legacy``.
    """
    check_level(level)
    given = columns if isinstance(columns, Design) else design(columns)
    y = outcome_of(given, outcome)
    if clusters and legacy:
        raise StatisticsError("legacy standard errors know no clusters: choose one of the two")
    ways = [cluster_codes(labels) for labels in (clusters or {}).values()]
    if any(len(codes) != given.rows for codes in ways):
        raise StatisticsError(f"clusters: expected a label for each of {given.rows} rows")
    n, unit, df, method = _errors_used(given, clusters or {}, ways, legacy, unit)
    reason = given.fault or _flat_outcome(y)
    if reason is None and ways and n < MIN_CLUSTERS:
        reason = f"{n} clusters ({unit}), fewer than {MIN_CLUSTERS}"
    if reason:
        return {term: undefined(term, reason, n=n, unit=unit, method=method) for term in given.terms}
    solved, residuals = coefficients(given.matrix, y)
    exact = np.abs(residuals).max() <= VANISHING * np.abs(y - y.mean()).max()
    variances = _variances(given.matrix, residuals, ways, legacy)
    found = {}
    for place, term in enumerate(given.terms, start=1):
        value, variance = float(solved[place]), float(variances[place])
        if exact or not variance > 0:
            lacking = EXPLAINED if exact else "the clustered variance is not positive"
            found[term] = with_interval(term, value, lacking, level=level, p=None, n=n, unit=unit, method=method)
            continue
        found[term] = t_estimate(
            term, value, variance**0.5, df, level=level, n=n, unit=unit, method=method, alternative=alternative
        )
    return found


def standard_errors(columns: Mapping[str, ArrayLike], outcome: ArrayLike, *, legacy: bool = False) -> dict[str, float]:
    """Classical or published standard error of every column's coefficient, by name; empty where there is none."""
    given = design(columns)
    y = outcome_of(given, outcome)
    if given.fault or _flat_outcome(y):
        return {}
    _, residuals = coefficients(given.matrix, y)
    errors = np.sqrt(_variances(given.matrix, residuals, [], legacy))
    return {term: float(error) for term, error in zip(given.terms, errors[1:], strict=True)}


def _variances(matrix: Floats, residuals: Floats, ways: Sequence[Codes], legacy: bool) -> Floats:
    if ways:
        return clustered_variances(matrix, residuals, ways)
    return legacy_variances(matrix, residuals) if legacy else classical_variances(matrix, residuals)


def _errors_used(
    given: Design, clusters: Mapping[str, Sequence[Hashable]], ways: Sequence[Codes], legacy: bool, unit: str
) -> tuple[int, str, int, str]:
    """n, what it counts, the degrees of freedom, and the method in words."""
    base = f"OLS, {given.rows} rows, {len(given.terms)} columns and an intercept"
    if not ways:
        errors = "XᵀX without the intercept (as published)" if legacy else "classical standard errors"
        return given.rows, unit, given.df, f"{base}; {errors}, t on {given.df} df"
    counts = {name: int(codes.max(initial=-1)) + 1 for name, codes in zip(clusters, ways, strict=True)}
    fewest = min(counts, key=lambda name: counts[name])
    described = " and ".join(f"{count} clusters ({name})" for name, count in counts.items())
    n = counts[fewest]
    return n, fewest, n - 1, f"{base}; sandwich over {described}, t on {n - 1} df"


def _flat_outcome(y: Floats) -> str | None:
    if np.ptp(y) <= VANISHING * np.abs(y).max(initial=0.0):
        return "the outcome does not vary"
    return None
