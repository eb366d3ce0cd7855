"""Regression in which every group of rows has a level of its own: a mixed model with a random intercept.

In the trigger study a test prompt is a group: some prompts draw the marker from every adapter, and that is the largest
structure in the data. Fitted by restricted maximum likelihood over the one variance ratio, which has a closed profile.
statsmodels' ``MixedLM`` fits the same model (the tests compare), but it does not converge where groups do not differ,
and takes a hundred times as long.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from leakage_assets.statistics.linear_model import (
    VANISHING,
    Codes,
    Design,
    cluster_codes,
    coefficients,
    design,
    outcome_of,
)
from leakage_assets.statistics.resampling import Floats, check_level
from leakage_assets.statistics.result import Estimate, StatisticsError, undefined
from leakage_assets.statistics.student import t_estimate

MIN_GROUPS = 4
GRID = 60
"""Starting points over the share of variance between groups: the profile may have more than one peak."""

LARGEST_SHARE = 1 - 1e-8


@dataclass(frozen=True)
class MixedFit:
    """Coefficients by column, and the two variances (of groups and of rows within them).

    ``fault`` says why there are none.
    """

    coefficients: Mapping[str, Estimate]
    group_variance: float | None
    residual_variance: float | None
    fault: str | None


def random_intercept(
    columns: Mapping[str, ArrayLike],
    outcome: ArrayLike,
    groups: Sequence[Hashable],
    *,
    group_unit: str,
    level: float = 0.95,
) -> MixedFit:
    """y = b₀ + Σ b_j x_j + u_group + e by REML (Patterson & Thompson 1971); t on G-1 df for G groups, n counts groups.

    Undefined where the columns have a fault (see ``linear_model.Design``), the outcome does not vary or is explained
    completely, there are fewer than 4 groups, or none has two rows. Raises ``StatisticsError`` as ``regress``.
    """
    check_level(level)
    given, codes = design(columns), cluster_codes(groups)
    y = outcome_of(given, outcome)
    if len(codes) != given.rows:
        raise StatisticsError(f"{len(codes)} groups; expected one for each of {given.rows} rows")
    n = int(codes.max(initial=-1)) + 1
    method = f"mixed model, random intercept of {n} {group_unit}s, REML, {given.rows} rows; t on {n - 1} df"
    reason = given.fault or _reason(given, y, codes, n, group_unit)
    if reason:
        none = {t: undefined(t, reason, n=n, unit=group_unit, method=method) for t in given.terms}
        return MixedFit(none, None, None, reason)
    ratio = variance_ratio(given.matrix, y, codes)
    solved, noise, inverse = _generalised(given.matrix, y, codes, ratio)
    found = {}
    for place, term in enumerate(given.terms, start=1):
        value, error = float(solved[place]), float(np.sqrt(noise * inverse[place, place]))
        found[term] = t_estimate(term, value, error, n - 1, level=level, n=n, unit=group_unit, method=method)
    return MixedFit(found, ratio * noise, noise, None)


def _reason(given: Design, y: Floats, codes: Codes, groups: int, unit: str) -> str | None:
    if groups < MIN_GROUPS:
        return f"{groups} groups ({unit}), fewer than {MIN_GROUPS}"
    if np.bincount(codes).max() < 2:
        return f"every {unit} has one row"
    spread = np.abs(y - y.mean()).max()
    if spread <= VANISHING * np.abs(y).max(initial=0.0):
        return "the outcome does not vary"
    # With a level for every group nothing may be left: then the ratio of the variances has no bound.
    levels = (codes[:, None] == np.arange(groups)).astype(np.float64)
    _, residuals = coefficients(np.column_stack([given.matrix, levels]), y)
    if np.abs(residuals).max() <= VANISHING * spread:
        return f"the columns and a level for every {unit} explain the outcome completely"
    return None


def variance_ratio(matrix: Floats, y: Floats, codes: Codes) -> float:
    """REML estimate of (variance of groups) / (variance within them), at least 0."""
    from scipy.optimize import minimize_scalar

    profile = _Profile(matrix, y, codes)
    shares = np.linspace(0.0, LARGEST_SHARE, GRID)
    heights = [profile(share) for share in shares]
    best = int(np.argmin(heights))
    around = shares[max(0, best - 1)], shares[min(GRID - 1, best + 1)]
    refined = minimize_scalar(profile, bounds=around, method="bounded", options={"xatol": 1e-10})
    share = float(refined.x) if refined.fun < heights[best] else float(shares[best])
    # Near the boundary the bounded search stops short of 0.
    if profile(0.0) <= profile(share):
        share = 0.0
    return share / (1 - share)


class _Profile:
    """-2 log restricted likelihood, up to a constant, over the share of variance between groups."""

    def __init__(self, matrix: Floats, y: Floats, codes: Codes) -> None:
        table = np.column_stack([matrix, y])
        self.sizes = np.bincount(codes).astype(np.float64)
        sums = np.stack([np.bincount(codes, weights=column) for column in table.T], axis=1)
        self.means = sums / self.sizes[:, None]
        within = table - self.means[codes]
        self.within = within.T @ within
        self.rows, self.width = matrix.shape

    def products(self, ratio: float) -> Floats:
        """[X y]ᵀ V⁻¹ [X y] for V = I + ratio·(same group)."""
        weights = self.sizes / (1 + ratio * self.sizes)
        summed: Floats = self.within + (self.means * weights[:, None]).T @ self.means
        return summed

    def __call__(self, share: float) -> float:
        ratio = share / (1 - share)
        products = self.products(ratio)
        inner, cross, square = products[:-1, :-1], products[:-1, -1], products[-1, -1]
        solved = np.linalg.solve(inner, cross)
        left = max(float(square - cross @ solved), np.finfo(np.float64).tiny)
        logdet = float(np.linalg.slogdet(inner)[1])
        return float((self.rows - self.width) * np.log(left) + np.log1p(ratio * self.sizes).sum() + logdet)


def _generalised(matrix: Floats, y: Floats, codes: Codes, ratio: float) -> tuple[Floats, float, Floats]:
    """Coefficients (k,), residual variance and (XᵀV⁻¹X)⁻¹ at a variance ratio."""
    products = _Profile(matrix, y, codes).products(ratio)
    inverse = np.linalg.inv(products[:-1, :-1]).astype(np.float64)
    solved: Floats = inverse @ products[:-1, -1]
    noise = float(products[-1, -1] - products[:-1, -1] @ solved) / (len(y) - matrix.shape[1])
    return solved, noise, inverse
