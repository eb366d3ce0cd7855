"""Counts as outcome of several columns: logistic regression whose rows vary more than completions alone would."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from leakage_assets.statistics.binomial import fit_binomial
from leakage_assets.statistics.linear_model import design
from leakage_assets.statistics.resampling import check_level
from leakage_assets.statistics.result import Estimate, StatisticsError, undefined
from leakage_assets.statistics.student import Alternative, t_estimate

LARGEST_LOG_ODDS = 15.0
"""A fitted rate beyond 1 in three million says that a column separates the marker from its absence."""


def quasi_binomial(
    columns: Mapping[str, ArrayLike],
    found: ArrayLike,
    total: ArrayLike,
    *,
    unit: str,
    level: float = 0.95,
    alternative: Alternative = "two-sided",
) -> dict[str, Estimate]:
    """Log-odds per unit of each column, by name; each of the n rows is one thing with a rate of its own.

    Quasi-binomial (Wedderburn 1974): the binomial variance times Pearson's χ²/(n - k), at least 1; t on n - k df.
    Undefined where the columns have a fault (see ``linear_model.Design``), the marker is in no completion or in all, or
    a column separates. Raises ``StatisticsError`` for lengths that differ or impossible counts.
    """
    check_level(level)
    given = design(columns)
    k, n = np.asarray(found, dtype=np.float64), np.asarray(total, dtype=np.float64)
    if k.shape != (given.rows,) or k.shape != n.shape:
        raise StatisticsError(f"{given.rows} rows, found {k.shape}, total {n.shape}; expected one length")
    if np.any(~((k >= 0) & (k <= n))) or np.any(n <= 0):
        raise StatisticsError("every row needs completions, and a found count between 0 and their number")
    method = f"log-odds, quasi-binomial GLM, {given.rows} rows, t on {given.df} df"

    def none(reason: str) -> dict[str, Estimate]:
        return {t: undefined(t, reason, n=given.rows, unit=unit, method=method) for t in given.terms}

    if given.fault:
        return none(given.fault)
    if k.sum() in (0, n.sum()):
        return none("no completion has the marker" if k.sum() == 0 else "every completion has the marker")
    fitted = fit_binomial(given.matrix, k, n)
    if not fitted.converged or np.abs(given.matrix @ fitted.params).max() > LARGEST_LOG_ODDS:
        return none("a column separates completions with the marker from those without")
    dispersion = max(1.0, float(fitted.pearson_chi2) / given.df)
    described, rows = f"{method}; dispersion {dispersion:.3g}", given.rows
    estimates = {}
    for place, term in enumerate(given.terms, start=1):
        value, error = float(fitted.params[place]), float(fitted.bse[place]) * dispersion**0.5
        estimates[term] = t_estimate(
            term, value, error, given.df, level=level, n=rows, unit=unit, method=described, alternative=alternative
        )
    return estimates
